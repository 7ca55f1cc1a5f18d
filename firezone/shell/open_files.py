"""The limit of open files: every allocation of a relay takes one in each of its families."""

from __future__ import annotations

import logging
import resource
from typing import Final

from firezone.errors import ConfigurationError

OWN: Final = 256
"""What the program opens besides: the portal link, health checks, event loops."""
FEWEST: Final = 16
"""Sockets of allocations without which a relay is of no use."""

logger = logging.getLogger("firezone.relay")


def make_room(sockets: int, others: int) -> int:
    """Raise the limit for so many sockets of allocations and `others`; how many there may be.

    Logs one line if they are fewer; raises ConfigurationError if they are next to none.
    """
    wanted = sockets + others + OWN
    limit = _raise_to(wanted)
    room = min(sockets, limit - others - OWN)
    problem = f"{limit} are allowed, and all allocations and streams take {wanted}"
    remedy = "raise it (LimitNOFILE= in a unit, ulimit -n, docker --ulimit nofile=), or allow fewer"
    if room < min(FEWEST, sockets):
        raise ConfigurationError("open files", "RLIMIT_NOFILE", problem, remedy)
    if room < sockets:
        logger.warning("open files: %s; beyond %d allocations are refused", problem, room)
    return room


def _raise_to(wanted: int) -> int:
    """The limit that came of it. Only root may go beyond the hard limit, and not everywhere."""
    _soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard == resource.RLIM_INFINITY:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        return wanted
    for limit in (max(hard, wanted), hard):
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
        except (OSError, ValueError):
            continue
        return limit
    return _soft
