"""`firezone client`: joins a private network, without a window."""

from __future__ import annotations

from pathlib import Path

import click

from firezone.cli.options import (
    ca_option,
    check_option,
    host_name,
    portal_options,
    set_up_logs,
    status_address,
    tell_ok,
    token_option,
    tunnel_options,
)
from firezone.shell import logs

ID_FILE = Path("/var/lib/dev.firezone.client/config/firezone-id.json")


@click.command()
@portal_options
@token_option("/etc/dev.firezone.client/token")
@ca_option
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
    api_url: str,
    firezone_name: str | None,
    firezone_id: str | None,
    interface: str,
    token_path: Path,
    ca: Path | None,
    max_partition_time: str | None,
    check: bool,
    exit_: bool,
    streams: bool,
    host_candidates: bool,
    status_socket: str | None,
    offload: str,
    without: tuple[str, ...],
    workers: int | None,
    busy_poll: int,
    log_format: logs.Format,
    log_level: str | None,
) -> None:
    """Join a private network as a client.

    SIGHUP makes it connect anew, as after a change of network; SIGTERM and SIGINT end it and leave
    nothing behind.
    """
    from firezone.client import Client
    from firezone.durations import MICROSECOND
    from firezone.phoenix import LoginUrl
    from firezone.phoenix.messages.client import TOPIC, decode
    from firezone.phoenix.user_agent import CLIENT_VERSION
    from firezone.shell.credentials import read_token
    from firezone.shell.offload import parse_offloads
    from firezone.shell.program import Profile, run_program
    from firezone.shell.state import device_id
    from firezone.shell.tun import check_name
    from firezone.shell.websocket import tls_context
    from firezone.shell.workers import choose_workers

    token = read_token(token_path, "--token-path")
    set_up_logs(log_format, log_level)
    budget = _budget(max_partition_time)
    url = LoginUrl.client(
        api_url,
        token,
        device_id=firezone_id or device_id(ID_FILE),
        name=firezone_name or host_name(),
    )
    ssl_context = tls_context(ca) if ca is not None else None
    offloads = parse_offloads(offload, without)
    pairs = choose_workers(workers)
    check_name(interface)
    if check:
        tell_ok()
        return
    profile = Profile(
        Client,
        TOPIC,
        decode,
        CLIENT_VERSION,
        budget,
        resets_on_hangup=True,
        streams=streams,
        host_candidates=host_candidates,
        ssl_context=ssl_context,
        status=status_address(status_socket, interface),
    )
    run_program(
        profile,
        url,
        interface=interface,
        offloads=offloads,
        workers=pairs,
        busy_poll=busy_poll * MICROSECOND,
        exit_when_ready=exit_,
    )


def _budget(text: str | None) -> int | None:
    """For how long to do without the portal, None for ever."""
    from firezone.shell.durations import parse_duration

    if text is None:
        return None
    return parse_duration(text, "max-partition-time", "--max-partition-time or MAX_PARTITION_TIME")
