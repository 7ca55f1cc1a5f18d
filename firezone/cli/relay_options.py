"""What can be said to `firezone relay`, by what it is about."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import click

from firezone.cli.options import api_url_option, ca_option, group, health_option, token_option

DEFAULT_REALM = "firezone"

_PORT = click.IntRange(1, 65535)


@dataclass(frozen=True, slots=True)
class Addresses:
    """Where clients and peers reach the relay, and on which ports."""

    public_ip4_addr: str | None
    public_ip6_addr: str | None
    listen_port: int
    lowest_port: int
    highest_port: int
    one_port: bool


addresses_options = group(
    "addresses",
    Addresses,
    click.option(
        "--public-ip4-addr", envvar="PUBLIC_IP4_ADDR", help="Where clients and peers reach us."
    ),
    click.option("--public-ip6-addr", envvar="PUBLIC_IP6_ADDR", help="The same over IPv6."),
    click.option(
        "--listen-port",
        envvar="LISTEN_PORT",
        type=_PORT,
        default=3478,
        show_default=True,
        help="The UDP port for clients. Clients of Firezone insist on 3478.",
    ),
    click.option(
        "--lowest-port",
        envvar="LOWEST_PORT",
        type=_PORT,
        default=49152,
        show_default=True,
        help="The first UDP port for allocations.",
    ),
    click.option(
        "--highest-port",
        envvar="HIGHEST_PORT",
        type=_PORT,
        default=65535,
        show_default=True,
        help="The last UDP port for allocations.",
    ),
    click.option(
        "--one-port",
        envvar="FIREZONE_RELAY_ONE_PORT",
        is_flag=True,
        help="Have all allocations on the listen port, so that no other has to be open: for ICE "
        "and WireGuard; anything else reaches a client only if no other has the same peer.",
    ),
)


@dataclass(frozen=True, slots=True)
class Portal:
    """The portal to join, if any."""

    api_url: str | None
    token_path: Path
    name: str | None
    ca: Path | None


portal_options = group(
    "portal",
    Portal,
    api_url_option(),
    token_option("/etc/firezone/relay-token"),
    click.option("-n", "--name", envvar="FIREZONE_NAME", help="The name people see in the portal."),
    ca_option,
)


@dataclass(frozen=True, slots=True)
class Users:
    """Who may allocate, and how much."""

    auth_secret_path: Path | None
    users_file: Path | None
    realm: str
    user_quota: int
    user_peer_quota: int
    total_quota: int


users_options = group(
    "users",
    Users,
    click.option(
        "--auth-secret-path",
        envvar="FIREZONE_RELAY_SECRET_PATH",
        type=click.Path(path_type=Path),
        help="Serve without a portal; credentials are made from the secret in this file, which "
        "only its owner may read.",
    ),
    click.option(
        "--users-file",
        envvar="FIREZONE_RELAY_USERS_FILE",
        type=click.Path(path_type=Path),
        help="Users besides those of a portal or secret: lines of name:password.",
    ),
    click.option(
        "--realm",
        envvar="FIREZONE_RELAY_REALM",
        default=DEFAULT_REALM,
        show_default=True,
        help="The realm of all users. Clients of a portal insist on this one.",
    ),
    click.option(
        "--user-quota",
        envvar="FIREZONE_RELAY_USER_QUOTA",
        type=click.IntRange(0),
        default=64,
        show_default=True,
        help="Allocations that one user may have at a time; 0 for any number.",
    ),
    click.option(
        "--user-peer-quota",
        envvar="FIREZONE_RELAY_USER_PEER_QUOTA",
        type=click.IntRange(0),
        default=4096,
        show_default=True,
        help="Channels that one user may have at a time, and permissions; 0 for any number.",
    ),
    click.option(
        "--total-quota",
        envvar="FIREZONE_RELAY_TOTAL_QUOTA",
        type=click.IntRange(0),
        default=0,
        help="Allocations there may be at a time.  [default: as many as there are ports]",
    ),
)


@dataclass(frozen=True, slots=True)
class Operation:
    """What its operator asks and tells it while it runs."""

    alternates: tuple[str, ...]
    health_check_addr: str
    status_socket: str | None


operation_options = group(
    "operation",
    Operation,
    click.option(
        "--alternate-server",
        "alternates",
        envvar="FIREZONE_RELAY_ALTERNATES",
        multiple=True,
        metavar="ADDRESS:PORT",
        help="Where clients are sent (300) when there is no room, or we drain. One of each family.",
    ),
    health_option,
    click.option(
        "--status-socket",
        envvar="FIREZONE_STATUS_SOCKET",
        help="The Unix socket for `firezone status --relay`; empty for none. "
        "[default: /run/firezone/relay-<network namespace>.sock]",
    ),
)


@dataclass(frozen=True, slots=True)
class Peers:
    """Where to relay to."""

    allow_loopback_peers: bool
    allow_private_peers: bool | None
    allow_peers: tuple[str, ...]
    deny_peers: tuple[str, ...]
    peers_file: Path | None


peers_options = group(
    "peers",
    Peers,
    click.option(
        "--allow-loopback-peers",
        is_flag=True,
        help="Relay to this host itself, by any of its addresses: for tests.",
    ),
    click.option(
        "--allow-private-peers/--deny-private-peers",
        envvar="FIREZONE_ALLOW_PRIVATE_PEERS",
        default=None,
        help="Whether to relay to private networks.  [default: only if our own address is in one]",
    ),
    click.option(
        "--allow-peer",
        "allow_peers",
        envvar="FIREZONE_ALLOW_PEERS",
        multiple=True,
        metavar="CIDR",
        help="Relay to this network, whatever else is said of a larger one. Repeatable.",
    ),
    click.option(
        "--deny-peer",
        "deny_peers",
        envvar="FIREZONE_DENY_PEERS",
        multiple=True,
        metavar="CIDR",
        help="Do not relay to this network. Repeatable.",
    ),
    click.option(
        "--peers-file",
        envvar="FIREZONE_PEERS_FILE",
        type=click.Path(path_type=Path),
        help="More such networks: lines of `allow CIDR` or `deny CIDR`.",
    ),
)


@dataclass(frozen=True, slots=True)
class Streams:
    """Clients that cannot send UDP."""

    streams: bool
    tls_port: int
    tls_cert: Path | None
    tls_key: Path | None


streams_options = group(
    "streams",
    Streams,
    click.option(
        "--streams/--no-streams",
        envvar="FIREZONE_RELAY_STREAMS",
        default=True,
        show_default=True,
        help="Serve clients that cannot send UDP over TCP, on the same port.",
    ),
    click.option(
        "--tls-port",
        envvar="FIREZONE_TLS_PORT",
        type=_PORT,
        default=443,
        show_default=True,
        help="The TCP port for clients over TLS, if there is a certificate. Clients insist on 443.",
    ),
    click.option(
        "--tls-cert",
        envvar="FIREZONE_TLS_CERT",
        type=click.Path(path_type=Path),
        help="A PEM file with a certificate chain: serve clients over TLS, too.",
    ),
    click.option(
        "--tls-key",
        envvar="FIREZONE_TLS_KEY",
        type=click.Path(path_type=Path),
        help="Its private key, unless it is in the same file.",
    ),
)


@dataclass(frozen=True, slots=True)
class Forwarding:
    """By what means data is moved."""

    workers: int | None
    gso: bool
    gro: bool
    xdp: str | None
    xdp_mode: str


forwarding_options = group(
    "forwarding",
    Forwarding,
    click.option(
        "--workers",
        envvar="FIREZONE_RELAY_WORKERS",
        type=click.IntRange(1, 32),
        help="Threads that forward data; by default one a CPU, and at most 4.",
    ),
    click.option(
        "--gso/--no-gso",
        envvar="FIREZONE_GSO",
        default=True,
        help="Let the kernel split large datagrams (UDP_SEGMENT), where it can.",
    ),
    click.option(
        "--gro/--no-gro",
        envvar="FIREZONE_GRO",
        default=True,
        help="Let the kernel merge what arrives (UDP_GRO), where it can.",
    ),
    click.option(
        "--xdp",
        envvar="EBPF_OFFLOADING",
        metavar="INTERFACE",
        help="Let the kernel move data of bound channels as it arrives here. Needs CAP_BPF.",
    ),
    click.option(
        "--xdp-mode",
        envvar="EBPF_ATTACH_MODE",
        type=click.Choice(["auto", "driver", "generic"]),
        default="auto",
        show_default=True,
        help="Where in the kernel; auto is the driver, if it knows how.",
    ),
)
