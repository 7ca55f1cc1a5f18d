"""`firezone status`: what the client or gateway of this host is doing."""

from __future__ import annotations

import click

from firezone.cli.options import interface_option, json_option, status_path, status_socket_option


@click.command()
@interface_option
@status_socket_option
@json_option
def status(interface: str, status_socket: str | None, json_: bool) -> None:
    """Show what the client or gateway of this host is doing.

    Its connections and their paths, its relays, the portal, and what was dropped and why.
    """
    from firezone.cli.options import echo_json
    from firezone.cli.status_text import status_lines
    from firezone.explain import Status
    from firezone.shell.status_socket import Request, ask

    report = ask(status_path(status_socket, interface), Request("status"), Status)
    if json_:
        echo_json(report)
    else:
        click.echo("\n".join(status_lines(report)))
