"""What several programs have in common on the command line."""

from __future__ import annotations

import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from firezone.shell import logs

DEFAULT_API_URL = "wss://api.firezone.dev"

F = TypeVar("F", bound=Callable[..., Any])


def portal_options(f: F) -> F:
    """How a program finds the portal and who it says it is."""
    for option in reversed(
        (
            click.option(
                "-u",
                "--api-url",
                envvar="FIREZONE_API_URL",
                default=DEFAULT_API_URL,
                show_default=True,
                help="The portal: ws://host:port or wss://host.",
            ),
            click.option(
                "-n",
                "--firezone-name",
                envvar="FIREZONE_NAME",
                help="The name people see in the portal. [default: the host name]",
            ),
            click.option(
                "-i",
                "--firezone-id",
                envvar="FIREZONE_ID",
                help="The id of this device. [default: kept in a file]",
            ),
            click.option(
                "--interface",
                envvar="FIREZONE_INTERFACE",
                default="tun-firezone",
                show_default=True,
                help="The name of the TUN interface.",
            ),
        )
    ):
        f = option(f)
    return f


def log_options(f: F) -> F:
    """What is logged, and how."""
    f = click.option(
        "--log-level",
        help="As in `info` or `warn,firezone.ice=debug`. [env: FIREZONE_LOG, RUST_LOG]",
    )(f)
    return click.option(
        "--log-format",
        envvar="LOG_FORMAT",
        type=click.Choice(["human", "json"]),
        default="human",
        show_default=True,
        help="Lines for people, or one JSON object a line.",
    )(f)


def set_up_logs(log_format: logs.Format, log_level: str | None) -> None:
    logs.setup(log_format, log_level)


def token_option(default: str) -> Callable[[F], F]:
    """Where the token is, unless FIREZONE_TOKEN holds it."""
    return click.option(
        "--token-path",
        envvar="FIREZONE_TOKEN_PATH",
        type=click.Path(path_type=Path),
        default=default,
        show_default=True,
        help="The file with the token, unless FIREZONE_TOKEN holds it.",
    )


def host_name() -> str:
    return socket.gethostname().partition("\0")[0]
