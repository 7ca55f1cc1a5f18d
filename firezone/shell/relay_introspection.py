"""Answers what is asked about a running relay."""

from __future__ import annotations

from collections import Counter

from firezone.errors import LocalError
from firezone.explain.relay import DirectionStatus, RelayReport, XdpStatus
from firezone.explain.values import PortalStatus, seconds
from firezone.model import IPAddress
from firezone.relay import RelayRole
from firezone.shell.relay_dataplane import RelayDataplane
from firezone.shell.relay_listener import StreamListener
from firezone.shell.status_socket import Request
from firezone.shell.xdp import XdpTier


class RelayIntrospection:
    """What the relay's `StatusServer` answers with. It only reads."""

    def __init__(
        self,
        role: RelayRole,
        dataplane: RelayDataplane,
        streams: StreamListener,
        *,
        public: list[IPAddress],
        listen_port: int,
        ports: str,
        one_port: bool,
        started_at: int,
    ) -> None:
        self._role = role
        self._dataplane = dataplane
        self._streams = streams
        self._public = tuple(map(str, public))
        self._listen_port = listen_port
        self._ports = ports
        self._mode = "one port" if one_port else "ports"
        self._started_at = started_at

    def answer(self, request: Request, portal: PortalStatus | None, now: int) -> RelayReport:
        """The report at `now`. Raises LocalError for what there is none of."""
        if request.what != "status":
            raise LocalError(f"a relay cannot say {request.what[:40]!r}")
        server, xdp = self._role.server, self._dataplane.xdp
        to_peers, to_clients = self._dataplane.traffic
        kernel = Counter[str]() if xdp is None else xdp.counters
        counters = server.counters + self._dataplane.answered + self._streams.counters
        counters += self._dataplane.counters - kernel
        indication_bytes = self._dataplane.indication_bytes + counters.pop("relayed_bytes", 0)
        return RelayReport(
            uptime_seconds=seconds(now - self._started_at),
            public=self._public,
            listen_port=self._listen_port,
            mode=self._mode,
            ports=self._ports,
            state=self._role.state.name.lower(),
            portal=portal,
            allocations=server.allocation_count,
            capacity=server.capacity,
            users=server.user_count,
            reservations=server.reservation_count,
            channels=server.channel_count,
            permissions=server.permission_count,
            streams=self._streams.count,
            to_peers=DirectionStatus(*to_peers[:2]),
            to_clients=DirectionStatus(*to_clients[:2]),
            indication_bytes=indication_bytes,
            workers=tuple(self._dataplane.loads),
            xdp=None if xdp is None else _xdp(xdp),
            counters=counters,
        )


def _xdp(tier: XdpTier) -> XdpStatus:
    to_peers, to_clients = tier.traffic
    return XdpStatus(
        interface=tier.interface,
        mode=tier.mode.name.lower(),
        channels=tier.channels,
        to_peers=DirectionStatus(*to_peers),
        to_clients=DirectionStatus(*to_clients),
        passed={reason.removeprefix("xdp_"): count for reason, count in tier.counters.items()},
    )
