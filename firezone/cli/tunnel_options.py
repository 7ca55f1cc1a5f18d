"""What can be said to `firezone client` and `firezone gateway` alike, by what it is about."""

from __future__ import annotations

import socket
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from firezone.cli.options import (
    Logs,
    Threads,
    api_url_option,
    ca_option,
    group,
    interface_option,
    log_options,
    status_address,
    status_socket_option,
    thread_options,
    token_option,
)

if TYPE_CHECKING:
    from firezone.phoenix import LoginUrl
    from firezone.shell.health import HealthAddress
    from firezone.shell.program_settings import Settings

DEFAULT_API_URL = "wss://api.firezone.dev"


@dataclass(frozen=True, slots=True)
class Portal:
    """The portal to join, and who it is told that we are."""

    api_url: str
    firezone_name: str | None
    firezone_id: str | None
    interface: str
    token_path: Path
    ca: Path | None

    def login_url(self, of_role: Callable[..., LoginUrl], id_file: Path) -> LoginUrl:
        """Raises ConfigurationError. `id_file` keeps the id of a device that was given none."""
        from firezone.shell.credentials import read_token
        from firezone.shell.state import device_id

        return of_role(
            self.api_url,
            read_token(self.token_path, "--token-path"),
            device_id=self.firezone_id or device_id(id_file),
            name=self.firezone_name or socket.gethostname().partition("\0")[0],
        )


def portal_options(token_path: str) -> Callable[[Any], Any]:
    """With where the role's token is by default."""
    return group(
        "portal",
        Portal,
        api_url_option(default=DEFAULT_API_URL, show_default=True),
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
        interface_option,
        token_option(token_path),
        ca_option,
    )


@dataclass(frozen=True, slots=True)
class Tunnel:
    """How peers are reached, packets carried, and others told of it."""

    streams: bool
    host_candidates: bool
    status_socket: str | None
    threads: Threads
    log: Logs

    def settings(self, portal: Portal, health: HealthAddress | None = None) -> Settings:
        """For the program. Raises ConfigurationError."""
        from firezone.durations import MICROSECOND
        from firezone.shell.program_settings import Settings
        from firezone.shell.tun import check_name
        from firezone.shell.websocket import tls_context

        check_name(portal.interface)
        return Settings(
            interface=portal.interface,
            offloads=self.threads.offloads(),
            workers=self.threads.pairs(),
            busy_poll=self.threads.busy_poll * MICROSECOND,
            streams=self.streams,
            host_candidates=self.host_candidates,
            ssl_context=None if portal.ca is None else tls_context(portal.ca),
            health=health,
            status=status_address(self.status_socket, portal.interface),
        )


tunnel_options = group(
    "tunnel",
    Tunnel,
    click.option(
        "--streams/--no-streams",
        envvar="FIREZONE_RELAY_STREAMS",
        default=True,
        show_default=True,
        help="Reach relays over TCP 3478 or TLS 443 where no UDP gets through.",
    ),
    click.option(
        "--host-candidates/--no-host-candidates",
        envvar="FIREZONE_HOST_CANDIDATES",
        default=True,
        show_default=True,
        help="Tell peers the addresses of this host's interfaces, to meet on networks they share.",
    ),
    status_socket_option,
    thread_options,
    log_options,
)
