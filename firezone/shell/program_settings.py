"""What makes a program that of one role, and what is chosen for one run of it."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from firezone.roles import Role
from firezone.shell.health import HealthAddress
from firezone.shell.offload import ALL, Offloads
from firezone.shell.status_socket import StatusAddress
from firezone.shell.tun import INTERFACE
from firezone.shell.tunnel_interface import Closeable


@dataclass(frozen=True, slots=True)
class Profile:
    """What tells one role's program from another's."""

    role: type[Role]
    topic: str
    decode: Callable[[str, object], Any]
    version: str
    """Of the wire behaviour: the portal pairs clients and gateways by it."""
    max_partition: int | None
    """How long the portal may be away before the program gives up, ns; None is for ever."""
    prepare_host: Callable[[str], Closeable] | None = None
    """Sets the host up around the interface of that name, until closed."""
    resets_on_hangup: bool = False
    """Whether SIGHUP says that the network changed, or nothing."""


@dataclass(frozen=True, slots=True)
class Settings:
    """What whoever starts a program chooses."""

    interface: str = INTERFACE
    offloads: Offloads = ALL
    workers: int = 1
    """Pairs of threads that carry packets."""
    busy_poll: int = 0
    """How long a data thread looks for more packets before it sleeps, ns."""
    streams: bool = True
    """Whether to reach relays over TCP and TLS where UDP is blocked."""
    host_candidates: bool = True
    """Whether peers get to know the addresses of all interfaces, or what relays see alone."""
    ssl_context: ssl.SSLContext | None = None
    """Whom to trust for the portal; None is the system's choice."""
    health: HealthAddress | None = None
    """Where to answer health checks."""
    status: StatusAddress | None = None
    """Where to answer `firezone status` and the like."""
