"""`firezone netcheck`: what the network of this host lets through."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from firezone.cli.options import (
    ca_option,
    interface_option,
    json_option,
    status_path,
    status_socket_option,
)
from firezone.errors import ConfigurationError, FirezoneError

if TYPE_CHECKING:
    from firezone.explain import Status
    from firezone.netcheck import Server
    from firezone.turn import Credentials


@click.command()
@click.option(
    "--stun",
    "stun",
    multiple=True,
    metavar="HOST[:PORT]",
    help="A STUN server or relay to ask; repeat it for more. Two at different addresses tell how "
    "a NAT maps. [default: the relays of the running client or gateway]",
)
@click.option(
    "-u",
    "--api-url",
    envvar="FIREZONE_API_URL",
    help="The portal to try. [default: that of the running client or gateway; none with --stun]",
)
@click.option(
    "--users-file",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="A file that begins with a line name:password: who the servers of --stun know as a TURN "
    "user. With it they tell how a NAT filters. [default: as the running client or gateway]",
)
@click.option("--realm", default="firezone", show_default=True, help="The realm of that user.")
@ca_option
@interface_option
@status_socket_option
@json_option
def netcheck(
    stun: tuple[str, ...],
    api_url: str | None,
    users_file: Path | None,
    realm: str,
    ca: Path | None,
    interface: str,
    status_socket: str | None,
    json_: bool,
) -> int:
    """Find out what the network of this host lets through.

    Whether UDP reaches the servers, over IPv4 and IPv6, and how fast; how a NAT on the way maps
    addresses and ports and whom it lets in, which decides whether direct paths are possible; the
    path MTU; whether relays answer over TCP and TLS; and whether the portal does. Takes a few
    seconds, and for these an allocation on some relays.

    The exit code is 1 if the portal, or every server over UDP, does not answer.
    """
    from firezone.cli.netcheck_text import netcheck_lines
    from firezone.cli.options import echo_json
    from firezone.netcheck import works
    from firezone.shell.netcheck import check_network, resolve
    from firezone.shell.websocket import tls_context

    credentials = _credentials(stun, users_file, realm)
    path = status_path(status_socket, interface)
    running = None if stun else _running(path)
    servers = [replace(resolve(text), credentials=credentials) for text in stun]
    servers = servers or list(_relays(running, path))
    if api_url is None and running is not None:
        api_url = _api_url(running)
    report = check_network(servers, api_url, tls_context(ca) if ca is not None else None)
    if json_:
        echo_json(report)
    else:
        click.echo("\n".join(netcheck_lines(report)))
    return 0 if works(report) else 1


def _running(path: Path) -> Status:
    from firezone.explain import Status
    from firezone.shell.status_socket import Request, ask

    try:
        return ask(path, Request("status"), Status)
    except FirezoneError as error:
        raise ConfigurationError(
            "STUN servers", "--stun", f"none is named, and {error}", "name some with --stun"
        ) from None


def _credentials(stun: tuple[str, ...], users_file: Path | None, realm: str) -> Credentials | None:
    """Of the first user in the file."""
    from firezone.shell.relay_users import read_users
    from firezone.turn import Credentials

    if users_file is None:
        return None
    if not stun:
        raise ConfigurationError(
            "users-file", "--users-file", "goes with --stun only", "name the relays with --stun"
        )
    name, password = next(iter(read_users(users_file, "--users-file").items()))
    return Credentials(name, password, realm)


def _relays(status: Status | None, path: Path) -> Iterator[Server]:
    from firezone.model import Endpoint
    from firezone.netcheck import Server

    if status is not None:
        access = _access(path)
        known = {r.id: r.addresses for r in status.lost_relays}
        known |= {r.id: r.addresses for r in status.relays}
        for name, addresses in known.items():
            yield Server(name, tuple(map(Endpoint.parse, addresses)), access.get(name))


def _access(path: Path) -> dict[str, Credentials]:
    """How the running program's relays let us in, by id; none that a version before ours tells."""
    from firezone.explain import RelayAccess
    from firezone.shell.status_socket import Request, ask
    from firezone.turn import Credentials

    try:
        access = ask(path, Request("relay-access"), tuple[RelayAccess, ...])
    except FirezoneError:
        return {}
    return {a.id: Credentials(a.username, a.password, a.realm) for a in access}


def _api_url(status: Status) -> str:
    """Without what a role appends to it."""
    return status.portal.url.removesuffix(f"/{status.role}/websocket")
