"""Finds where this host can be reached by those around it, with the ports of our sockets."""

from __future__ import annotations

import logging
import socket
from collections.abc import Mapping

from firezone.model import Endpoint, IPAddress
from firezone.shell.host_addresses import host_addresses
from firezone.shell.network_watch import outward_sources
from firezone.shell.rtnetlink import RtNetlink

_log = logging.getLogger(__name__)


class HostCandidates:
    """Looks at the interfaces of this host, of which `tunnel` is our own. Raises OSError."""

    def __init__(self, tunnel: str) -> None:
        self._tunnel = tunnel
        self._netlink = RtNetlink()
        self._held: tuple[IPAddress, ...] = ()
        self._told: list[Endpoint] | None = None
        self._is_blind = False

    def close(self) -> None:
        self._netlink.close()

    def look(self, ports: Mapping[int, int]) -> list[Endpoint] | None:
        """The addresses with the port of their family, the best first; None if they are as they
        were at the last look, or cannot be seen now."""
        try:
            self._held = self._read()
        except OSError as error:
            if not self._is_blind:
                _log.warning("cannot see this host's addresses", extra={"error": str(error)})
            self._is_blind = True
            return None
        self._is_blind = False
        found = [Endpoint(a, ports[a.version]) for a in self._held if a.version in ports]
        if found == self._told:
            return None
        self._told = found
        return found

    def forget(self) -> None:
        """Nobody knows any of them any more."""
        self._held, self._told = (), None

    def _read(self) -> tuple[IPAddress, ...]:
        tunnel = socket.if_nametoindex(self._tunnel)
        links, addresses = self._netlink.links(), self._netlink.link_addresses()
        outward = outward_sources({a.interface.ip: a.link for a in addresses})
        return host_addresses(
            links,
            addresses,
            tunnel=tunnel,
            outward=[address for _, address in outward.values()],
            held=self._held,
        )
