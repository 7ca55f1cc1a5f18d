from typing import Self, final

from firezone._ext.batch import PacketBatch

@final
class Tun:
    """Packets from and to a TUN device (IFF_NO_PI), or any datagram descriptor like it."""

    def __new__(cls, fd: int, mtu: int = 1280) -> Self: ...
    @property
    def fd(self) -> int: ...
    def read(self, batch: PacketBatch) -> int:
        """Append waiting packets until the batch is full; the count. Raises OSError."""

    def write(self, batch: PacketBatch) -> int:
        """Write every PASS slot; how many left. The others become WRITE_FAILED."""
