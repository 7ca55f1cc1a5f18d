"""Session indices: 24 bits name the tunnel, 8 bits count its handshakes.

The upper bits let one lookup find the peer of a transport message, wherever it comes from. The
tunnel ids of a node are the states of a 24-bit maximal-length Galois LFSR, so an id returns only
after all others were used; start and mask are random, so they tell nothing about each other's node.

Where the data plane has several workers, the lowest byte of a tunnel id says which of them opens
what comes under it. An id that would give the busiest more is passed over.
"""

from __future__ import annotations

from firezone.errors import LocalError
from firezone.model import Entropy

TUNNEL_ID_BITS = 24
_TUNNEL_IDS = 1 << TUNNEL_ID_BITS
_POLYNOMIAL = 0xD80000


class TunnelIds:
    """Hands out tunnel ids: 24 bits, not zero, unique among those not yet released."""

    def __init__(self, entropy: Entropy, workers: int = 1) -> None:
        self._state = _nonzero(entropy)
        self._mask = _nonzero(entropy)
        self._live: set[int] = set()
        self._of_worker = [0] * workers

    def allocate(self) -> int:
        """Raises LocalError when all 16 million are in use."""
        if len(self._live) >= _TUNNEL_IDS - 2:
            raise LocalError("no tunnel id is free")
        while True:
            tunnel_id = (self._state - 1) ^ self._mask
            self._state = (self._state >> 1) ^ (_POLYNOMIAL if self._state & 1 else 0)
            # Zero is left out so that no session has index 0, which `Activity` uses for none.
            if tunnel_id and tunnel_id not in self._live and self._is_idlest(tunnel_id):
                self._live.add(tunnel_id)
                self._of_worker[self._worker(tunnel_id)] += 1
                return tunnel_id

    def release(self, tunnel_id: int) -> None:
        """Give an id back; one that is not in use is ignored."""
        if tunnel_id in self._live:
            self._live.remove(tunnel_id)
            self._of_worker[self._worker(tunnel_id)] -= 1

    def _is_idlest(self, tunnel_id: int) -> bool:
        return self._of_worker[self._worker(tunnel_id)] == min(self._of_worker)

    def _worker(self, tunnel_id: int) -> int:
        return worker_of(tunnel_id, len(self._of_worker))


class LocalIndices:
    """The indices of one tunnel: its id and a counter of 8 bits that wraps."""

    __slots__ = ("_counter", "tunnel_id")

    def __init__(self, tunnel_id: int) -> None:
        if not 0 < tunnel_id < _TUNNEL_IDS:
            raise LocalError(f"tunnel id out of range: {tunnel_id}")
        self.tunnel_id = tunnel_id
        self._counter = 0

    def next(self) -> int:
        """A new index; the first one ends in 01."""
        self._counter = (self._counter + 1) & 0xFF
        return self.tunnel_id << 8 | self._counter


def tunnel_id_of(index: int) -> int:
    """The tunnel that an index belongs to."""
    return index >> 8


def worker_of(tunnel_id: int, workers: int) -> int:
    """Which worker of the data plane opens what comes under a tunnel's indices."""
    return (tunnel_id & 0xFF) % workers


def _nonzero(entropy: Entropy) -> int:
    return int.from_bytes(entropy(4), "big") % (_TUNNEL_IDS - 1) + 1
