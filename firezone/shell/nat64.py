"""Finds the prefix of a NAT64 by asking the system's resolvers (RFC 7050), where it is needed.

That is where this host can send to the internet by IPv6 and not by IPv4. Resolving blocks for as
long as the resolvers please, so it runs in threads that nobody waits for, and only a few at once.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import threading
from collections.abc import Callable, Collection
from contextlib import suppress
from ipaddress import IPv6Address

from firezone.nat64 import WELL_KNOWN_NAME, Prefix, prefixes_of

ASK_AGAIN_SECONDS = 3600.0
"""What DNS says holds for a while only, and getaddrinfo(3) does not tell how long."""
RETRY_SECONDS = 1.0
MAX_RETRY_SECONDS = 60.0
"""Between tries while no resolver answers; the pause doubles."""
MAX_LOOKUPS = 4
"""At once: an earlier one may still wait for the resolvers of the network before."""

Resolve = Callable[[], list[Prefix]]
"""Like `lookup`."""

_log = logging.getLogger(__name__)


class NoAnswerError(Exception):
    """No resolver answered: neither yes nor no."""


def lookup() -> list[Prefix]:
    """The prefixes this network's resolvers show; blocks. Raises NoAnswerError."""
    try:
        found = socket.getaddrinfo(WELL_KNOWN_NAME, 0, socket.AF_INET6, socket.SOCK_DGRAM)
    except socket.gaierror as error:
        if error.errno in (socket.EAI_NONAME, socket.EAI_NODATA):
            return []
        raise NoAnswerError(error.strerror) from None
    except OSError as error:
        raise NoAnswerError(error.strerror) from None
    return prefixes_of(IPv6Address(str(info[4][0]).partition("%")[0]) for info in found)


def is_needed(families: Collection[int]) -> bool:
    """Whether a host that can send to the internet by these families needs a NAT64."""
    return 6 in families and 4 not in families


def find_prefix(timeout_seconds: float, resolve: Resolve = lookup) -> Prefix | None:
    """The first that `resolve` finds in that time."""
    found: list[Prefix] = []

    def run() -> None:
        with suppress(NoAnswerError):
            found.extend(resolve())

    thread = threading.Thread(target=run, daemon=True, name="nat64")
    thread.start()
    thread.join(timeout_seconds)
    return found[0] if found else None


class PrefixDiscovery:
    """Calls `on_change` on the running loop with the prefix, or None where there is none or it is
    not needed."""

    def __init__(
        self,
        on_change: Callable[[Prefix | None], None],
        resolve: Resolve = lookup,
    ) -> None:
        self._on_change = on_change
        self._resolve = resolve
        self._loop = asyncio.get_running_loop()
        self._prefix: Prefix | None = None
        self._round = 0
        self._lookups = 0
        self._retry = RETRY_SECONDS
        self._timer: asyncio.TimerHandle | None = None

    def handle_network(self, families: Collection[int]) -> None:
        """This host came to a network where it can send to the internet by these families."""
        self.close()
        self._take(None)
        if is_needed(families):
            self._retry = RETRY_SECONDS
            self._ask()

    def close(self) -> None:
        """Lookups under way come to nothing."""
        self._round += 1
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _ask(self) -> None:
        self._timer = None
        if self._lookups == MAX_LOOKUPS:
            self._try_later()
            return
        self._lookups += 1
        arguments = (self._round,)
        threading.Thread(target=self._run, args=arguments, daemon=True, name="nat64").start()

    def _run(self, round_: int) -> None:
        """In a thread of its own."""
        try:
            found: list[Prefix] | None = self._resolve()
        except NoAnswerError:
            found = None
        with suppress(RuntimeError):  # the program has ended
            self._loop.call_soon_threadsafe(self._handle_answer, round_, found)

    def _handle_answer(self, round_: int, found: list[Prefix] | None) -> None:
        self._lookups -= 1
        if round_ != self._round:
            return
        if found is None:
            self._try_later()
            return
        # Resolvers give several in any order: the one in use stays as long as it is among them.
        if self._prefix not in found:
            self._take(found[0] if found else None)
        if not found:
            _log.info("this network has neither IPv4 nor a NAT64")
        self._retry = RETRY_SECONDS
        self._timer = self._loop.call_later(ASK_AGAIN_SECONDS, self._ask)

    def _try_later(self) -> None:
        if self._retry == RETRY_SECONDS:
            _log.info("no resolver answers in a network without IPv4; trying on")
        self._timer = self._loop.call_later(self._retry, self._ask)
        self._retry = min(2 * self._retry, MAX_RETRY_SECONDS)

    def _take(self, prefix: Prefix | None) -> None:
        if prefix != self._prefix:
            self._prefix = prefix
            self._on_change(prefix)
