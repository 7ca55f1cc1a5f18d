from typing import Self, final

from firezone._ext.batch import PacketBatch
from firezone._ext.session import Sessions

_Address = tuple[int, bytes, int]

@final
class Paths:
    """Where each peer is reached. One writer (Python), one data thread."""

    def __new__(cls, sessions: Sessions | None = None, slots: int = 16384) -> Self: ...
    def set(
        self,
        slot: int,
        destination: _Address,
        source: _Address | None = None,
        channel: int | None = None,
    ) -> None:
        """Swap a peer's path. Raises ValueError for a slot or channel out of range."""

    def clear(self, slot: int) -> None:
        """Forget a peer's path."""

    def get(self, slot: int) -> tuple[_Address, _Address | None, int | None] | None:
        """(destination, source, channel) of a peer."""

    def reclaim(self) -> int:
        """Free old paths that no thread can hold any more; how many remain."""

    def check(self, batch: PacketBatch) -> None:
        """Stage: packets to peers without a path become UNROUTABLE."""

    def prepend(self, batch: PacketBatch) -> None:
        """Stage: fill `remote` and `local`, put the ChannelData header before sealed packets."""
