"""`firezone relay`: a STUN and TURN server for the peers of a portal."""

from __future__ import annotations

from collections.abc import Callable
from ipaddress import (
    AddressValueError,
    IPv4Address,
    IPv4Network,
    IPv6Address,
    IPv6Network,
    ip_network,
)
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import click

from firezone.cli.options import (
    RELAY_SOCKET,
    ca_option,
    health_address,
    health_option,
    log_options,
    server_tls_context,
    set_up_logs,
    status_address,
    token_option,
)
from firezone.errors import ConfigurationError, LocalError
from firezone.model import Endpoint
from firezone.shell import logs

if TYPE_CHECKING:
    from firezone.phoenix import LoginUrl

T = TypeVar("T")
_PORT = click.IntRange(1, 65535)
DEFAULT_REALM = "firezone"
_SHORTEST_SECRET = 16


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
    help="Serve without a portal; credentials are made from the secret in this file, which only "
    "its owner may read.",
)
@click.option(
    "--users-file",
    envvar="FIREZONE_RELAY_USERS_FILE",
    type=click.Path(path_type=Path),
    help="Users besides those of a portal or secret: lines of name:password.",
)
@click.option(
    "--realm",
    envvar="FIREZONE_RELAY_REALM",
    default=DEFAULT_REALM,
    show_default=True,
    help="The realm of all users. Clients of a portal insist on this one.",
)
@click.option(
    "--user-quota",
    envvar="FIREZONE_RELAY_USER_QUOTA",
    type=click.IntRange(0),
    default=64,
    show_default=True,
    help="Allocations that one user may have at a time; 0 for any number.",
)
@click.option(
    "--user-peer-quota",
    envvar="FIREZONE_RELAY_USER_PEER_QUOTA",
    type=click.IntRange(0),
    default=4096,
    show_default=True,
    help="Channels that one user may have at a time, and permissions; 0 for any number.",
)
@click.option(
    "--total-quota",
    envvar="FIREZONE_RELAY_TOTAL_QUOTA",
    type=click.IntRange(0),
    default=0,
    help="Allocations there may be at a time.  [default: as many as there are ports]",
)
@click.option(
    "--alternate-server",
    "alternates",
    envvar="FIREZONE_RELAY_ALTERNATES",
    multiple=True,
    metavar="ADDRESS:PORT",
    help="Where clients are sent (300) when there is no room, or we drain. One of each family.",
)
@health_option
@click.option(
    "--status-socket",
    envvar="FIREZONE_STATUS_SOCKET",
    help="The Unix socket for `firezone status --relay`; empty for none. "
    "[default: /run/firezone/relay-<network namespace>.sock]",
)
@click.option(
    "--allow-loopback-peers",
    is_flag=True,
    help="Relay to this host itself, by any of its addresses: for tests.",
)
@click.option(
    "--allow-private-peers/--deny-private-peers",
    envvar="FIREZONE_ALLOW_PRIVATE_PEERS",
    default=None,
    help="Whether to relay to private networks.  [default: only if our own address is in one]",
)
@click.option(
    "--allow-peer",
    "allow_peers",
    envvar="FIREZONE_ALLOW_PEERS",
    multiple=True,
    metavar="CIDR",
    help="Relay to this network, whatever else is said of a larger one. Repeatable.",
)
@click.option(
    "--deny-peer",
    "deny_peers",
    envvar="FIREZONE_DENY_PEERS",
    multiple=True,
    metavar="CIDR",
    help="Do not relay to this network. Repeatable.",
)
@click.option(
    "--peers-file",
    envvar="FIREZONE_PEERS_FILE",
    type=click.Path(path_type=Path),
    help="More such networks: lines of `allow CIDR` or `deny CIDR`.",
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
    "--workers",
    envvar="FIREZONE_RELAY_WORKERS",
    type=click.IntRange(1, 32),
    help="Threads that forward data; by default one a CPU, and at most 4.",
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
@click.option(
    "--xdp",
    envvar="EBPF_OFFLOADING",
    metavar="INTERFACE",
    help="Let the kernel move data of bound channels as it arrives here. Needs CAP_BPF.",
)
@click.option(
    "--xdp-mode",
    envvar="EBPF_ATTACH_MODE",
    type=click.Choice(["auto", "driver", "generic"]),
    default="auto",
    show_default=True,
    help="Where in the kernel; auto is the driver, if it knows how.",
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
    users_file: Path | None,
    realm: str,
    user_quota: int,
    user_peer_quota: int,
    total_quota: int,
    alternates: tuple[str, ...],
    health_check_addr: str,
    status_socket: str | None,
    allow_loopback_peers: bool,
    allow_private_peers: bool | None,
    allow_peers: tuple[str, ...],
    deny_peers: tuple[str, ...],
    peers_file: Path | None,
    streams: bool,
    tls_port: int,
    tls_cert: Path | None,
    tls_key: Path | None,
    workers: int | None,
    gso: bool,
    gro: bool,
    xdp: str | None,
    xdp_mode: str,
    rng_seed: int | None,
    log_format: logs.Format,
    log_level: str | None,
) -> int:
    """Relay traffic between peers that cannot reach each other.

    SIGTERM makes it leave the portal and refuse new allocations, serve the present ones until none
    is left, and exit; a second SIGTERM, or SIGINT, ends it at once. SIGHUP makes it read the files
    of users and peers again, if there are any, and ends nothing, so that it outlives the terminal
    it was started from.
    """
    from firezone.shell.relay_program import RelaySettings, default_workers, run_relay
    from firezone.shell.relay_users import read_users
    from firezone.shell.websocket import tls_context
    from firezone.shell.xdp import XdpSettings
    from firezone.turn.relay_allocate import Quotas
    from firezone.turn.relay_peers import PeerPolicy, is_private

    set_up_logs(log_format, log_level)
    ipv4, ipv6 = _public_addresses(public_ip4_addr, public_ip6_addr)
    if allow_private_peers is None:
        allow_private_peers = any(is_private(a) for a in (ipv4, ipv6) if a is not None)
    ports = _ports(lowest_port, highest_port, listen_port)
    _check_users(api_url, auth_secret_path, users_file)
    url = None
    if api_url is not None:
        url = _login_url(api_url, token_path, name, ipv4, ipv6, listen_port)
    settings = RelaySettings(
        public_ipv4=ipv4,
        public_ipv6=ipv6,
        listen_port=listen_port,
        ports=ports,
        peers=PeerPolicy(
            allow_loopback=allow_loopback_peers,
            allow_private=allow_private_peers,
            allow=_networks(allow_peers, "--allow-peer or FIREZONE_ALLOW_PEERS"),
            deny=_networks(deny_peers, "--deny-peer or FIREZONE_DENY_PEERS"),
        ),
        peers_file=peers_file,
        alternates=_alternates(alternates),
        quotas=Quotas(
            per_user=user_quota or None,
            total=total_quota or None,
            peers_per_user=user_peer_quota or None,
        ),
        url=url,
        ssl_context=tls_context(ca) if ca is not None else None,
        auth_secret=None if auth_secret_path is None else _secret(auth_secret_path),
        users={} if users_file is None else read_users(users_file, "--users-file"),
        users_file=users_file,
        realm=_realm(realm, has_portal=url is not None),
        health=health_address(health_check_addr),
        status=status_address(status_socket, RELAY_SOCKET),
        streams=streams,
        tls=server_tls_context(tls_cert, tls_key),
        tls_port=tls_port,
        workers=workers or default_workers(),
        gso=gso,
        gro=gro,
        xdp=XdpSettings(xdp, None if xdp_mode == "auto" else xdp_mode) if xdp else None,
        seed=rng_seed,
    )
    return run_relay(settings)


def _public_addresses(
    ipv4: str | None, ipv6: str | None
) -> tuple[IPv4Address | None, IPv6Address | None]:
    found = _address(IPv4Address, ipv4, "4"), _address(IPv6Address, ipv6, "6")
    if found == (None, None):
        raise ConfigurationError(
            "public address",
            "--public-ip4-addr, --public-ip6-addr",
            "neither is set",
            "give the addresses under which clients reach this host",
        )
    return found


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


def _networks(texts: tuple[str, ...], source: str) -> tuple[IPv4Network | IPv6Network, ...]:
    networks = []
    for text in texts:
        try:
            networks.append(ip_network(text))
        except ValueError as error:
            raise ConfigurationError("peers", source, str(error), "write 192.0.2.0/24") from None
    return tuple(networks)


def _alternates(texts: tuple[str, ...]) -> dict[int, Endpoint]:
    source, found = "--alternate-server or FIREZONE_RELAY_ALTERNATES", dict[int, Endpoint]()
    for text in texts:
        try:
            alternate = Endpoint.parse(text)
        except LocalError as error:
            raise ConfigurationError(
                "other relay", source, str(error), "write 192.0.2.1:3478 or [2001:db8::1]:3478"
            ) from None
        if alternate.family in found:
            problem = f"two over IPv{alternate.family}"
            raise ConfigurationError("other relay", source, problem, "choose one")
        found[alternate.family] = alternate
    return found


def _realm(realm: str, has_portal: bool) -> str:
    source = "--realm or FIREZONE_RELAY_REALM"
    if has_portal and realm != DEFAULT_REALM:
        raise ConfigurationError(
            "realm", source, f"clients of a portal insist on {DEFAULT_REALM!r}", "leave it out"
        )
    if not 1 <= len(realm) < 128 or not realm.isprintable() or '"' in realm:
        raise ConfigurationError("realm", source, f"{realm!r} is none", "use a domain name")
    return realm


def _check_users(api_url: str | None, secret_path: Path | None, users_file: Path | None) -> None:
    """Somebody must have credentials. The portal wants a secret that is new at every start."""
    if api_url is not None and secret_path is not None:
        problem = "does not go with --auth-secret-path"
    elif api_url is None and secret_path is None and users_file is None:
        problem = "missing"
    else:
        return
    raise ConfigurationError(
        "api-url",
        "--api-url or FIREZONE_API_URL",
        problem,
        "give either the portal's URL, or --auth-secret-path or --users-file to serve without one",
    )


def _login_url(
    api_url: str,
    token_path: Path,
    name: str | None,
    ipv4: IPv4Address | None,
    ipv6: IPv6Address | None,
    port: int,
) -> LoginUrl:
    from firezone.phoenix import LoginUrl
    from firezone.shell.credentials import read_token

    token = read_token(token_path, "--token-path")
    return LoginUrl.relay(api_url, token, name=name, ipv4=ipv4, ipv6=ipv6, port=port)


def _secret(path: Path) -> str:
    from firezone.shell.private_file import read_private

    try:
        secret = read_private(path, "auth secret").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(
            "auth secret", f"--auth-secret-path {path}", f"cannot be read: {error}", "create it"
        ) from None
    if len(secret) < _SHORTEST_SECRET:
        raise ConfigurationError(
            "auth secret",
            str(path),
            f"has less than {_SHORTEST_SECRET} characters",
            f"use 64 random hex digits: (umask 077; openssl rand -hex 32 > {path})",
        )
    return secret
