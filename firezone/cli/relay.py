"""`firezone relay`: a STUN and TURN server for the peers of a portal."""

from __future__ import annotations

from collections.abc import Callable
from ipaddress import AddressValueError, IPv4Address, IPv6Address
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import click

from firezone.cli.options import (
    ca_option,
    health_address,
    health_option,
    log_options,
    server_tls_context,
    set_up_logs,
    token_option,
)
from firezone.errors import ConfigurationError
from firezone.shell import logs

if TYPE_CHECKING:
    from firezone.phoenix import LoginUrl

T = TypeVar("T")
_PORT = click.IntRange(1, 65535)


@click.command()
@click.option(
    "--public-ip4-addr", envvar="PUBLIC_IP4_ADDR", help="Where clients and peers reach us."
)
@click.option("--public-ip6-addr", envvar="PUBLIC_IP6_ADDR", help="The same over IPv6.")
@click.option(
    "--listen-port",
    envvar="LISTEN_PORT",
    type=_PORT,
    default=3478,
    show_default=True,
    help="The UDP port for clients. Clients of Firezone insist on 3478.",
)
@click.option(
    "--lowest-port",
    envvar="LOWEST_PORT",
    type=_PORT,
    default=49152,
    show_default=True,
    help="The first UDP port for allocations.",
)
@click.option(
    "--highest-port",
    envvar="HIGHEST_PORT",
    type=_PORT,
    default=65535,
    show_default=True,
    help="The last UDP port for allocations.",
)
@click.option(
    "-u", "--api-url", envvar="FIREZONE_API_URL", help="The portal: ws://host:port or wss://host."
)
@token_option("/etc/firezone/relay-token")
@click.option("-n", "--name", envvar="FIREZONE_NAME", help="The name people see in the portal.")
@ca_option
@click.option(
    "--auth-secret-path",
    envvar="FIREZONE_RELAY_SECRET_PATH",
    type=click.Path(path_type=Path),
    help="Serve without a portal; credentials are made from the secret in this file.",
)
@health_option
@click.option("--allow-loopback-peers", is_flag=True, help="Relay to this host itself: for tests.")
@click.option(
    "--deny-private-peers",
    envvar="FIREZONE_DENY_PRIVATE_PEERS",
    is_flag=True,
    help="Do not relay to addresses of private networks.",
)
@click.option(
    "--streams/--no-streams",
    envvar="FIREZONE_RELAY_STREAMS",
    default=True,
    show_default=True,
    help="Serve clients that cannot send UDP over TCP, on the same port.",
)
@click.option(
    "--tls-port",
    envvar="FIREZONE_TLS_PORT",
    type=_PORT,
    default=443,
    show_default=True,
    help="The TCP port for clients over TLS, if there is a certificate. Clients insist on 443.",
)
@click.option(
    "--tls-cert",
    envvar="FIREZONE_TLS_CERT",
    type=click.Path(path_type=Path),
    help="A PEM file with a certificate chain: serve clients over TLS, too.",
)
@click.option(
    "--tls-key",
    envvar="FIREZONE_TLS_KEY",
    type=click.Path(path_type=Path),
    help="Its private key, unless it is in the same file.",
)
@click.option(
    "--gso/--no-gso",
    envvar="FIREZONE_GSO",
    default=True,
    help="Let the kernel split large datagrams (UDP_SEGMENT), where it can.",
)
@click.option(
    "--gro/--no-gro",
    envvar="FIREZONE_GRO",
    default=True,
    help="Let the kernel merge what arrives (UDP_GRO), where it can.",
)
@click.option("--rng-seed", envvar="RNG_SEED", type=int, help="Be predictable: for tests only.")
@log_options
def relay(
    public_ip4_addr: str | None,
    public_ip6_addr: str | None,
    listen_port: int,
    lowest_port: int,
    highest_port: int,
    api_url: str | None,
    token_path: Path,
    name: str | None,
    ca: Path | None,
    auth_secret_path: Path | None,
    health_check_addr: str,
    allow_loopback_peers: bool,
    deny_private_peers: bool,
    streams: bool,
    tls_port: int,
    tls_cert: Path | None,
    tls_key: Path | None,
    gso: bool,
    gro: bool,
    rng_seed: int | None,
    log_format: logs.Format,
    log_level: str | None,
) -> int:
    """Relay traffic between peers that cannot reach each other.

    SIGTERM makes it leave the portal and refuse new allocations, serve the present ones until none
    is left, and exit; a second SIGTERM, or SIGINT, ends it at once. SIGHUP is ignored, so that it
    outlives the terminal it was started from.
    """
    from firezone.shell.relay_program import RelaySettings, run_relay
    from firezone.shell.websocket import tls_context
    from firezone.turn.relay_peers import PeerPolicy

    set_up_logs(log_format, log_level)
    ipv4 = _address(IPv4Address, public_ip4_addr, "4")
    ipv6 = _address(IPv6Address, public_ip6_addr, "6")
    if ipv4 is None and ipv6 is None:
        raise ConfigurationError(
            "public address",
            "--public-ip4-addr, --public-ip6-addr",
            "neither is set",
            "give the addresses under which clients reach this host",
        )
    settings = RelaySettings(
        public_ipv4=ipv4,
        public_ipv6=ipv6,
        listen_port=listen_port,
        ports=_ports(lowest_port, highest_port, listen_port),
        peers=PeerPolicy(allow_loopback=allow_loopback_peers, allow_private=not deny_private_peers),
        url=_login_url(api_url, auth_secret_path, token_path, name, ipv4, ipv6, listen_port),
        ssl_context=tls_context(ca) if ca is not None else None,
        auth_secret=None if auth_secret_path is None else _secret(auth_secret_path),
        health=health_address(health_check_addr),
        streams=streams,
        tls=server_tls_context(tls_cert, tls_key),
        tls_port=tls_port,
        gso=gso,
        gro=gro,
        seed=rng_seed,
    )
    return run_relay(settings)


def _address(kind: Callable[[str], T], text: str | None, version: str) -> T | None:
    if not text:
        return None
    try:
        return kind(text)
    except AddressValueError:
        raise ConfigurationError(
            f"public IPv{version} address",
            f"--public-ip{version}-addr or PUBLIC_IP{version}_ADDR",
            f"{text!r} is none",
            "write an address, without a port",
        ) from None


def _ports(lowest: int, highest: int, listen_port: int) -> range:
    ports = range(lowest, highest + 1)
    source = "--lowest-port, --highest-port"
    if not ports:
        problem = f"{lowest} is above {highest}"
        raise ConfigurationError("allocation ports", source, problem, "exchange them")
    if listen_port in ports:
        problem = f"{lowest}-{highest} holds the listen port {listen_port}"
        raise ConfigurationError("allocation ports", source, problem, "choose ports without it")
    return ports


def _login_url(
    api_url: str | None,
    secret_path: Path | None,
    token_path: Path,
    name: str | None,
    ipv4: IPv4Address | None,
    ipv6: IPv6Address | None,
    port: int,
) -> LoginUrl | None:
    """None for a relay without a portal. The portal wants a secret that is new at every start."""
    from firezone.phoenix import LoginUrl
    from firezone.shell.credentials import read_token

    if (api_url is None) == (secret_path is None):
        raise ConfigurationError(
            "api-url",
            "--api-url or FIREZONE_API_URL",
            "missing" if api_url is None else "does not go with --auth-secret-path",
            "give either the portal's URL, or --auth-secret-path to serve without a portal",
        )
    if api_url is None:
        return None
    token = read_token(token_path, "--token-path")
    return LoginUrl.relay(api_url, token, name=name, ipv4=ipv4, ipv6=ipv6, port=port)


def _secret(path: Path) -> str:
    try:
        secret = path.read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(
            "auth secret", f"--auth-secret-path {path}", f"cannot be read: {error}", "create it"
        ) from None
    if len(secret) < 16:
        raise ConfigurationError(
            "auth secret", str(path), "has less than 16 characters", "use 64 random hex digits"
        )
    return secret
