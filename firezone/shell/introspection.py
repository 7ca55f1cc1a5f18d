"""Answers what is asked about a running client or gateway."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from firezone.errors import LocalError
from firezone.explain import (
    FlowTableStatus,
    PortalStatus,
    Surroundings,
    explain,
    relay_access,
    status,
)
from firezone.explain.values import seconds
from firezone.phoenix import Failed, Hiccup, Joined
from firezone.roles import Role
from firezone.shell.dataplane import Dataplane
from firezone.shell.status_socket import Request


class PortalWatch:
    """Remembers how the link to the portal fares."""

    def __init__(self, url: str, now: int) -> None:
        self._url = url
        self._since = now
        self._error: str | None = None
        self.is_joined = False

    def handle_event(self, event: object, now: int) -> None:
        match event:
            case Joined():
                self._enter(True, now)
            case Hiccup(error=reason) | Failed(reason=reason):
                self._error = reason
                self._enter(False, now)

    def status(self, now: int) -> PortalStatus:
        return PortalStatus(self._url, self.is_joined, seconds(now - self._since), self._error)

    def _enter(self, joined: bool, now: int) -> None:
        if joined != self.is_joined:
            self.is_joined = joined
            self._since = now


Counters = Callable[[], Mapping[str, Mapping[str, int]]]
"""What went wrong in parts that no machine counts, as the sockets."""


class Introspection:
    """What `StatusServer` answers with. It only reads."""

    def __init__(
        self,
        *,
        role: Role,
        interface: str,
        portal: PortalWatch,
        counters: Counters,
        started_at: int,
    ) -> None:
        self._role = role
        self._interface = interface
        self._portal = portal
        self._counters = counters
        self._started_at = started_at

    def answer(self, request: Request, dataplane: Dataplane, now: int) -> object:
        """The report that is asked for. Raises LocalError for what there is none of."""
        around = self._surroundings(dataplane, now)
        match request.what:
            case "status":
                return status(self._role, around, now)
            case "explain":
                return explain(self._role, request.peer, around, now)
            case "relay-access":
                return relay_access(self._role)
        raise LocalError(f"nobody can say {request.what[:40]!r}")

    def _surroundings(self, dataplane: Dataplane, now: int) -> Surroundings:
        return Surroundings(
            interface=self._interface,
            started_at=self._started_at,
            portal=self._portal.status(now),
            activity=dataplane.activity,
            traffic=dataplane.traffic,
            flows=FlowTableStatus(dataplane.flow_count, dataplane.flow_capacity),
            dataplane=dataplane.counters(),
            counters=self._counters(),
            offloads=tuple(sorted(map(str, dataplane.offloads()))),
            workers=dataplane.worker_statuses(),
        )
