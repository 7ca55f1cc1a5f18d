from typing import final

from firezone._ext.batch import PacketBatch

@final
class Tun:
    """Packets from and to a TUN device (IFF_NO_PI), or any datagram descriptor like it."""

    def __init__(self, fd: int, mtu: int = 1280) -> None: ...
    @property
    def fd(self) -> int: ...
    def read(self, batch: PacketBatch) -> int:
        """Append waiting packets until the batch is full; the count. Raises OSError."""

    def write(self, batch: PacketBatch) -> int:
        """Write every PASS slot; how many left. The others become WRITE_FAILED."""
