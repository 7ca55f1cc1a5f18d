"""`firezone gateway`: leads clients to the resources of a site."""

from __future__ import annotations

from pathlib import Path

import click

from firezone.cli.options import (
    ca_option,
    check_option,
    health_address,
    health_option,
    host_name,
    portal_options,
    set_up_logs,
    status_address,
    tell_ok,
    token_option,
    tunnel_options,
)
from firezone.shell import logs

ID_FILE = Path("/var/lib/firezone/gateway-id.json")


@click.command()
@portal_options
@token_option("/etc/firezone/gateway-token")
@ca_option
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
    api_url: str,
    firezone_name: str | None,
    firezone_id: str | None,
    interface: str,
    token_path: Path,
    ca: Path | None,
    no_masquerade: bool,
    health_check_addr: str,
    check: bool,
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
    """Lead clients to the resources of a site.

    Lets this host forward the clients' packets, under its own address, while it runs. SIGTERM and
    SIGINT end it and leave nothing behind. SIGHUP is ignored, so that it outlives the terminal it
    was started from.
    """
    from firezone.durations import MICROSECOND, MINUTE
    from firezone.gateway import Gateway
    from firezone.phoenix import LoginUrl
    from firezone.phoenix.messages.gateway import TOPIC, decode
    from firezone.phoenix.user_agent import GATEWAY_VERSION
    from firezone.shell.credentials import read_token
    from firezone.shell.gateway_nat import GatewayNat
    from firezone.shell.offload import parse_offloads
    from firezone.shell.program import Profile, run_program
    from firezone.shell.state import device_id
    from firezone.shell.tun import check_name
    from firezone.shell.websocket import tls_context
    from firezone.shell.workers import choose_workers

    token = read_token(token_path, "--token-path")
    set_up_logs(log_format, log_level)
    url = LoginUrl.gateway(
        api_url,
        token,
        device_id=firezone_id or device_id(ID_FILE),
        name=firezone_name or host_name(),
    )
    profile = Profile(
        Gateway,
        TOPIC,
        decode,
        GATEWAY_VERSION,
        15 * MINUTE,
        prepare_host=None if no_masquerade else GatewayNat,
        streams=streams,
        host_candidates=host_candidates,
        ssl_context=tls_context(ca) if ca is not None else None,
        health=health_address(health_check_addr),
        status=status_address(status_socket, interface),
    )
    offloads = parse_offloads(offload, without)
    pairs = choose_workers(workers)
    check_name(interface)
    if check:
        tell_ok()
        return
    run_program(
        profile,
        url,
        interface=interface,
        offloads=offloads,
        workers=pairs,
        busy_poll=busy_poll * MICROSECOND,
    )
