from typing import Self, final

_Address = tuple[int, bytes, int]

@final
class Ring:
    """Single-producer single-consumer ring of fixed slots between a data thread and Python.

    `capacity` (a power of two) counts slots; `wake_fd` is an eventfd that is written when a push
    finds the ring empty, or -1. The ring never closes it.
    """

    def __new__(cls, capacity: int = 1024, wake_fd: int = -1) -> Self: ...
    def __len__(self) -> int: ...
    @property
    def capacity(self) -> int: ...
    @property
    def dropped(self) -> int: ...
    def push(
        self,
        kind: int,
        payload: bytes,
        peer: int = 0,
        argument: int = 0,
        local: _Address | None = None,
        remote: _Address | None = None,
    ) -> bool:
        """Append an item; False (and counted in `dropped`) when full or too long."""

    def pop(self) -> tuple[int, int, int, bytes, _Address | None, _Address | None] | None:
        """The oldest item as (kind, peer, argument, payload, local, remote), None when empty."""
