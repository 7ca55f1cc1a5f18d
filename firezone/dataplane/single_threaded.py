"""The data plane for simulations and tests: the real kernels, one packet at a time."""

from __future__ import annotations

from collections import deque

from firezone import commands
from firezone._ext.batch import PacketBatch, Verdict
from firezone.dataplane.tables import FLOW_CAPACITY, Tables
from firezone.dataplane.values import address_tuple, endpoint_of
from firezone.model import Endpoint, Entropy, Transmit


class SingleThreaded(Tables):
    """The same kernels without descriptors and threads, for simulations and tests."""

    def __init__(
        self,
        *,
        own_public_key: bytes,
        entropy: Entropy,
        flow_capacity: int = FLOW_CAPACITY,
        slots: int = 256,
        mtu: int = 1280,
        cookie_secret: commands.CookieSecret | None = None,
        pass_fragments: bool = False,
        takes_stun: bool = True,
    ) -> None:
        self._batch = PacketBatch()
        self._udp: deque[Transmit] = deque()
        self._tun: deque[bytes] = deque()
        super().__init__(
            own_public_key=own_public_key,
            flow_capacity=flow_capacity,
            slots=slots,
            mtu=mtu,
            entropy=entropy,
            wake_fd=-1,
            cookie_secret=cookie_secret,
            pass_fragments=pass_fragments,
            takes_stun=takes_stun,
        )

    def apply(self, command: commands.Command, now: int) -> None:
        """Carry out a command, at once also what it sends. Raises like `Dataplane.apply`."""
        self._apply(command, now)
        while self._pipeline.injected_up(self._batch, now):
            self._collect_udp()
        while self._pipeline.injected_down(self._batch, now):
            self._tun.extend(self._batch.packets())

    def feed_up(self, packet: bytes, now: int) -> None:
        """One packet from the TUN device."""
        if self._load(packet, self._mtu):
            self._pipeline.outbound(self._batch, now)
            self._collect_udp()

    def feed_down(self, datagram: bytes, local: Endpoint, source: Endpoint, now: int) -> None:
        """One datagram from the network."""
        if self._load(datagram, self._batch.stride - _RESERVED):
            self._batch.set_local(0, *address_tuple(local))
            self._batch.set_remote(0, *address_tuple(source))
            self._pipeline.inbound(self._batch, now)
            self._tun.extend(self._batch.packets())

    def take_udp(self) -> Transmit | None:
        """The next datagram to send, None when there is none."""
        return self._udp.popleft() if self._udp else None

    def take_tun(self) -> bytes | None:
        """The next packet for the TUN device, None when there is none."""
        return self._tun.popleft() if self._tun else None

    def _load(self, packet: bytes, limit: int) -> bool:
        self._batch.clear()
        if len(packet) > limit:
            self._counters["too_long"] += 1
            return False
        self._batch.append(packet)
        return True

    def _collect_udp(self) -> None:
        for slot in range(len(self._batch)):
            if self._batch.verdict(slot) == Verdict.PASS:
                destination = endpoint_of(self._batch.remote(slot))
                local = self._batch.local(slot)
                source = endpoint_of(local) if local[0] else None
                self._udp.append(Transmit(self._batch.packet(slot), destination, source))


_RESERVED = 96
"""Bytes of a batch's slot that its packet may not have: headroom and tailroom."""
