"""Tells an operator that packets cannot be sent, and when they are again: once each."""

from __future__ import annotations

import logging
import socket
from collections.abc import Callable, Iterable

from firezone.durations import SECOND
from firezone.model import Endpoint
from firezone.shell.sockets import set_mark

QUIET = 30 * SECOND
"""So long without a failure is an end of them: handshakes and keepalives are tried more often."""

logger = logging.getLogger(__name__)


class SendFailures:
    """Watches how many packets failed to be sent; `reason` is asked when that begins."""

    def __init__(self, reason: Callable[[], str]) -> None:
        self._reason = reason
        self._failed = 0
        self._sent = 0
        self._last: int | None = None

    def look(self, failed: int, sent: int, now: int) -> bool:
        """Take note of the counters; whether to look again in a second."""
        if failed > self._failed:
            if self._last is None:
                logger.warning("packets cannot be sent", extra={"reason": self._reason()})
            self._last, self._sent = now, sent
        elif self._last is not None and now - self._last >= QUIET and sent != self._sent:
            logger.info("packets are sent again")
            self._last = None
        self._failed = failed
        return self._last is not None and now - self._last < QUIET


def why_unreachable(destinations: Iterable[Endpoint], mark: int) -> str | None:
    """What this host has against sending to the first that it cannot send to. Sends nothing."""
    for destination in destinations:
        family = socket.AF_INET if destination.family == 4 else socket.AF_INET6
        try:
            with socket.socket(family, socket.SOCK_DGRAM) as probe:
                set_mark(probe, mark)
                probe.connect(destination.sockaddr)
        except OSError as error:
            return f"{destination}: {error.strerror}"
    return None
