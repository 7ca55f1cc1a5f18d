"""`firezone status`: what the client, gateway or relay of this host is doing."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from firezone.cli.options import interface_option, json_option, status_path, status_socket_option

if TYPE_CHECKING:
    from firezone.explain import Status


@click.command()
@interface_option
@status_socket_option
@click.option("--relay", is_flag=True, help="Ask the relay of this host.")
@json_option
def status(interface: str, status_socket: str | None, relay: bool, json_: bool) -> None:
    """Show what the client or gateway of this host is doing, or the relay.

    Its connections and their paths, its relays, the portal, and what was dropped and why. Of a
    relay: its allocations and channels, and what moves their data.
    """
    from firezone.cli.options import RELAY_SOCKET, echo_json
    from firezone.cli.relay_text import relay_report_lines
    from firezone.cli.status_text import status_lines
    from firezone.explain.relay import RelayReport
    from firezone.shell.status_socket import Request, ask

    if relay:
        path = status_path(status_socket, RELAY_SOCKET)
        found = ask(path, Request("status"), RelayReport, "relay")
        if json_:
            echo_json(found)
        else:
            click.echo("\n".join(relay_report_lines(found)))
        return
    report = _ask(status_path(status_socket, interface))
    if json_:
        echo_json(report)
    else:
        click.echo("\n".join(status_lines(report)))


def _ask(path: Path) -> Status:
    from firezone.cli.options import RELAY_SOCKET
    from firezone.explain import Status
    from firezone.shell.status_socket import NotRunningError, Request, ask

    try:
        return ask(path, Request("status"), Status)
    except NotRunningError as error:
        if not status_path(None, RELAY_SOCKET).exists():
            raise
        raise NotRunningError(f"{error}; a relay runs here: add --relay") from None
