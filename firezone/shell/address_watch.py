"""Notices by rtnetlink(7) that the addresses of this host may have changed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from firezone.shell.rtnetlink import News

REST_SECONDS = 0.1
"""Between two looks: a thousand addresses that come one by one are not read a thousand times."""
RETRY_SECONDS = 1.0


class AddressWatch:
    """Calls `look` on the running loop at the first news, and at most once in REST_SECONDS after
    that, until it is closed. A look that says that it has failed is repeated.

    Raises OSError.
    """

    def __init__(self, look: Callable[[], bool]) -> None:
        self._look = look
        self._loop = asyncio.get_running_loop()
        self._looked_at = self._loop.time() - REST_SECONDS
        self._timer: asyncio.TimerHandle | None = None
        self._news = News(_GROUPS)
        self._loop.add_reader(self._news, self._handle_news)

    def close(self) -> None:
        self._loop.remove_reader(self._news)
        self._news.close()
        if self._timer is not None:
            self._timer.cancel()

    def _handle_news(self) -> None:
        self._news.drain()
        if self._timer is None:
            self._look_at(self._looked_at + REST_SECONDS)

    def _look_at(self, when: float) -> None:
        if when <= self._loop.time():
            self._look_now()
        else:
            self._timer = self._loop.call_at(when, self._look_now)

    def _look_now(self) -> None:
        self._timer = None
        self._looked_at = self._loop.time()
        if not self._look():
            self._look_at(self._looked_at + RETRY_SECONDS)


# RTMGRP_IPV4_IFADDR, RTMGRP_IPV6_IFADDR
_GROUPS = 0x10 | 0x100
