"""`firezone gateway`: leads clients to the resources of a site."""

from __future__ import annotations

from pathlib import Path

import click

from firezone.cli.options import check_option, health_address, health_option, tell_ok
from firezone.cli.tunnel_options import Portal, Tunnel, portal_options, tunnel_options

ID_FILE = Path("/var/lib/firezone/gateway-id.json")


@click.command()
@portal_options("/etc/firezone/gateway-token")
@click.option(
    "--no-masquerade",
    envvar="FIREZONE_NO_MASQUERADE",
    is_flag=True,
    help="Leave forwarding and NAT on this host alone: they are set up already.",
)
@health_option
@check_option
@tunnel_options
def gateway(
    portal: Portal, no_masquerade: bool, health_check_addr: str, check: bool, tunnel: Tunnel
) -> None:
    """Lead clients to the resources of a site.

    Lets this host forward the clients' packets, under its own address, while it runs. SIGTERM and
    SIGINT end it and leave nothing behind. SIGHUP is ignored, so that it outlives the terminal it
    was started from.
    """
    from firezone.durations import MINUTE
    from firezone.gateway import Gateway
    from firezone.phoenix import LoginUrl
    from firezone.phoenix.messages.gateway import TOPIC, decode
    from firezone.phoenix.user_agent import GATEWAY_VERSION
    from firezone.shell.gateway_nat import GatewayNat
    from firezone.shell.program import run_program
    from firezone.shell.program_settings import Profile

    tunnel.log.set_up()
    url = portal.login_url(LoginUrl.gateway, ID_FILE)
    prepare_host = None if no_masquerade else GatewayNat
    profile = Profile(Gateway, TOPIC, decode, GATEWAY_VERSION, 15 * MINUTE, prepare_host)
    settings = tunnel.settings(portal, health_address(health_check_addr))
    if check:
        tell_ok()
        return
    run_program(profile, url, settings)
