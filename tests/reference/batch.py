"""The slow twin of a packet batch: a list of slots, each with its columns."""

from __future__ import annotations

from dataclasses import dataclass

from firezone._ext.batch import Verdict

Address = tuple[int, bytes, int]

UNSET: Address = (0, b"", 0)
HEADROOM, TAILROOM = 64, 32


@dataclass
class Slot:
    packet: bytes
    offset: int
    peer: int
    ecn: int
    verdict: Verdict = Verdict.PASS
    mark: int = 0
    local: Address = UNSET
    remote: Address = UNSET


class Batch:
    def __init__(self, capacity: int, stride: int, arena_size: int = 0) -> None:
        self.capacity = capacity
        self.stride = stride
        self.arena_size = max(arena_size, capacity * stride)
        self.slots: list[Slot] = []

    def __len__(self) -> int:
        return len(self.slots)

    def clear(self) -> None:
        self.slots.clear()

    def append(self, packet: bytes, peer: int = 0, ecn: int = 0) -> int:
        if len(self.slots) == self.capacity:
            raise IndexError
        if len(packet) > self.stride - HEADROOM - TAILROOM:
            raise ValueError
        offset = len(self.slots) * self.stride + HEADROOM
        self.slots.append(Slot(bytes(packet), offset, peer, ecn % 4))
        return len(self.slots) - 1

    def packets(self) -> list[bytes]:
        return [slot.packet for slot in self.slots if slot.verdict is Verdict.PASS]

    def set_verdict(self, slot: int, verdict: int) -> None:
        found = self._at(slot)
        if not 0 <= verdict < Verdict.VERDICTS:
            raise ValueError
        found.verdict = Verdict(verdict)

    def set_mark(self, slot: int, mark: int) -> None:
        self._at(slot).mark = mark % 256

    def set_local(self, slot: int, family: int, address: bytes, port: int) -> None:
        found = self._at(slot)
        found.local = checked(family, address, port)

    def set_remote(self, slot: int, family: int, address: bytes, port: int) -> None:
        found = self._at(slot)
        found.remote = checked(family, address, port)

    def columns(self, slot: int) -> Slot:
        return self._at(slot)

    def _at(self, slot: int) -> Slot:
        if not 0 <= slot < len(self.slots):
            raise IndexError
        return self.slots[slot]


def checked(family: int, address: bytes, port: int) -> Address:
    """An endpoint's tuple; ValueError unless the address is of its family."""
    if {4: 4, 6: 16}.get(family) != len(address) or not 0 <= port < 65536:
        raise ValueError
    return family, address, port
