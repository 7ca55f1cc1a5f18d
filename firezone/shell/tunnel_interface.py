"""The tunnel's own interface, and what is changed in the host so that packets take it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection
from contextlib import ExitStack
from typing import Protocol

from firezone.roles import ConfigureTun
from firezone.shell.netlink import TunnelRoutes
from firezone.shell.offload import Offloads
from firezone.shell.rtnetlink import IPNetwork
from firezone.shell.tun import Tun, open_tun

_REMOVAL_SECONDS = 0.5


class Closeable(Protocol):
    def close(self) -> None: ...


class TunnelInterface:
    """Opens the TUN device and sets the host up around it, until closed.

    `prepare_host` is called with the interface's name, and what it returns closed. Raises
    FirezoneError, and then leaves nothing behind.
    """

    def __init__(
        self,
        name: str,
        offloads: Offloads,
        workers: int,
        prepare_host: Callable[[str], Closeable] | None,
    ) -> None:
        self._removal: asyncio.TimerHandle | None = None
        with ExitStack() as opened:
            self.tun: Tun = open_tun(name, offloads, workers)
            opened.callback(self.tun.close)
            self._routes = TunnelRoutes(name)
            opened.callback(self._routes.close)
            if prepare_host is not None:
                opened.callback(prepare_host(name).close)
            self._closing = opened.pop_all()

    def configure(self, wanted: ConfigureTun) -> None:
        """Raises NetlinkError."""
        self._routes.set_addresses(wanted.ipv4, wanted.ipv6)
        self._set_routes(wanted.routes)

    def close(self) -> None:
        self._cancel_removal()
        self._closing.close()

    def _set_routes(self, wanted: Collection[IPNetwork]) -> None:
        """Networks are added at once and removed later: what is deleted may be created again in
        the next message, and meanwhile its packets must not leave in the clear."""
        self._cancel_removal()
        if self._routes.add_routes(wanted):
            loop = asyncio.get_running_loop()
            self._removal = loop.call_later(_REMOVAL_SECONDS, self._routes.set_routes, wanted)

    def _cancel_removal(self) -> None:
        if self._removal is not None:
            self._removal.cancel()
            self._removal = None
