"""`firezone client`: joins a private network, without a window."""

from __future__ import annotations

from pathlib import Path

import click

from firezone.cli.options import check_option, tell_ok
from firezone.cli.tunnel_options import Portal, Tunnel, portal_options, tunnel_options

ID_FILE = Path("/var/lib/dev.firezone.client/config/firezone-id.json")


@click.command()
@portal_options("/etc/dev.firezone.client/token")
@click.option(
    "-m",
    "--max-partition-time",
    envvar="MAX_PARTITION_TIME",
    help="Give up when the portal is away for so long, as 30d. [default: never]",
)
@check_option
@click.option("--exit", "exit_", is_flag=True, help="Exit as soon as the tunnel stands.")
@tunnel_options
def client(
    portal: Portal, max_partition_time: str | None, check: bool, exit_: bool, tunnel: Tunnel
) -> None:
    """Join a private network as a client.

    SIGHUP makes it connect anew, as after a change of network; SIGTERM and SIGINT end it and leave
    nothing behind.
    """
    from firezone.client import Client
    from firezone.phoenix import LoginUrl
    from firezone.phoenix.messages.client import TOPIC, decode
    from firezone.phoenix.user_agent import CLIENT_VERSION
    from firezone.shell.program import run_program
    from firezone.shell.program_settings import Profile

    tunnel.log.set_up()
    url = portal.login_url(LoginUrl.client, ID_FILE)
    profile = Profile(
        Client, TOPIC, decode, CLIENT_VERSION, _budget(max_partition_time), resets_on_hangup=True
    )
    settings = tunnel.settings(portal)
    if check:
        tell_ok()
        return
    run_program(profile, url, settings, exit_when_ready=exit_)


def _budget(text: str | None) -> int | None:
    """For how long to do without the portal, None for ever."""
    from firezone.shell.durations import parse_duration

    if text is None:
        return None
    return parse_duration(text, "max-partition-time", "--max-partition-time or MAX_PARTITION_TIME")
