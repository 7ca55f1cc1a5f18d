"""`firezone explain`: why packets to a peer take the path they take, or none."""

from __future__ import annotations

import click

from firezone.cli.options import interface_option, json_option, status_path, status_socket_option


@click.command()
@click.argument("peer")
@interface_option
@status_socket_option
@json_option
def explain(peer: str, interface: str, status_socket: str | None, json_: bool) -> None:
    """Tell why packets to PEER take the path they take, or none.

    PEER is the id of a gateway or client or how it begins, its address in the tunnel, or on a
    client the address of a resource. Shows each candidate pair, what came of its checks and why
    it is not in use, the handshake, and the paths before.
    """
    from firezone.cli.options import echo_json
    from firezone.cli.status_text import explain_lines
    from firezone.explain import Explanation
    from firezone.shell.status_socket import Request, ask

    report = ask(status_path(status_socket, interface), Request("explain", peer), Explanation)
    if json_:
        echo_json(report)
    else:
        click.echo("\n".join(explain_lines(report)))
