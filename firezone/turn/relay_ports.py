"""The ports of a relay: which are free, drawn at random in constant time however few are left.

Ports that nobody can guess keep strangers from sending to an allocation (RFC 8656 section 7.2), and
a relay that is full is when most requests come: so neither drawing nor finding out that there is
none may look through all of them.
"""

from __future__ import annotations

from firezone.model import Entropy


class Ports:
    """The free ones of a range, the even ones, and the pairs of an even one with its successor."""

    def __init__(self, ports: range) -> None:
        first_even = ports.start + ports.start % 2
        self._free = _Pool(ports)
        self._even = _Pool(range(first_even, ports.stop, 2))
        self._pairs = _Pool(range(first_even, ports.stop - 1, 2))

    def draw(
        self, entropy: Entropy, excluded: frozenset[int], *, even: bool, with_next: bool
    ) -> int | None:
        """A random free port, None if there is none. An `even` one if wanted, or an even one whose
        successor is free, too. It stays free until it is taken."""
        pool = self._pairs if with_next else self._even if even else self._free
        return pool.draw(int.from_bytes(entropy(8), "big"), excluded)

    def take(self, port: int) -> None:
        """A free port is used from now on."""
        self._free.take(port)
        if port in self._even:
            self._even.take(port)
        if _pair(port) in self._pairs:
            self._pairs.take(_pair(port))

    def give(self, port: int) -> None:
        """A port that was taken is free again."""
        self._free.give(port)
        if port % 2 == 0:
            self._even.give(port)
        if _pair(port) in self._free and _pair(port) + 1 in self._free:
            self._pairs.give(_pair(port))


class _Pool:
    """Some members of a range, of which one can be drawn.

    It is a permutation of the range, of which the first `count` are in. What is kept is only where
    it differs from the range.
    """

    def __init__(self, members: range) -> None:
        self._members = members
        self._count = len(members)
        self._moved: dict[int, int] = {}
        """Who stands at a place instead of its own."""
        self._places: dict[int, int] = {}

    def __contains__(self, member: int) -> bool:
        return member in self._members and self._place(member) < self._count

    def draw(self, start: int, excluded: frozenset[int]) -> int | None:
        """The one at a random place, or one soon after it."""
        for step in range(min(self._count, len(excluded) + 1)):
            member = self._at((start + step) % self._count)
            if member not in excluded:
                return member
        return None

    def take(self, member: int) -> None:
        place = self._place(member)
        assert place < self._count, "it is in"
        self._count -= 1
        self._swap(place, self._count)

    def give(self, member: int) -> None:
        place = self._place(member)
        assert place >= self._count, "it is not in"
        self._swap(place, self._count)
        self._count += 1

    def _swap(self, one: int, other: int) -> None:
        there, here = self._at(one), self._at(other)
        self._put(here, one)
        self._put(there, other)

    def _put(self, member: int, place: int) -> None:
        if self._members[place] == member:
            self._moved.pop(place, None)
            self._places.pop(member, None)
        else:
            self._moved[place], self._places[member] = member, place

    def _at(self, place: int) -> int:
        return self._moved.get(place, self._members[place])

    def _place(self, member: int) -> int:
        place = self._places.get(member)
        return self._members.index(member) if place is None else place


def _pair(port: int) -> int:
    """The even one of a port and its neighbour."""
    return port & ~1
