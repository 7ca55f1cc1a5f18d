"""The slow twin of the paths: a dictionary by the peer's slot."""

from __future__ import annotations

import struct
from typing import NamedTuple

from firezone._ext.batch import Verdict
from tests.reference.batch import Address, checked


class Path(NamedTuple):
    destination: Address
    source: Address | None
    channel: int | None


class Paths:
    def __init__(self, slots: int) -> None:
        self.slots = slots
        self.paths: dict[int, Path] = {}

    def set(
        self,
        slot: int,
        destination: Address,
        source: Address | None = None,
        channel: int | None = None,
    ) -> None:
        self._check(slot)
        checked(*destination)
        if source is not None and checked(*source)[0] != destination[0]:
            raise ValueError
        if channel is not None and not 0x4000 <= channel <= 0x4FFF:
            raise ValueError
        self.paths[slot] = Path(destination, source, channel)

    def clear(self, slot: int) -> None:
        self._check(slot)
        self.paths.pop(slot, None)

    def get(self, slot: int) -> Path | None:
        self._check(slot)
        return self.paths.get(slot)

    def check(self, peer: int) -> Verdict:
        """What becomes of a packet to a peer, before it is sealed."""
        return Verdict.PASS if peer in self.paths else Verdict.UNROUTABLE

    def prepend(self, peer: int, message: bytes) -> tuple[bytes, Path] | None:
        """The datagram and where it goes; None if that is not known any more."""
        path = self.paths.get(peer)
        if path is None:
            return None
        if path.channel is None:
            return message, path
        return struct.pack(">HH", path.channel, len(message)) + message, path

    def _check(self, slot: int) -> None:
        if not 1 <= slot <= self.slots:
            raise ValueError
