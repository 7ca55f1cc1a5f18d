from typing import Self, final

from firezone._ext.batch import PacketBatch

@final
class Tun:
    """Packets from and to a TUN device (IFF_NO_PI), or any datagram descriptor like it.

    `has_header` (IFF_VNET_HDR): before each packet stands a virtio header, and the device may give
    super-packets. `merge_tcp` and `merge_udp`: it may be given some. One thread may read while
    another one writes.
    """

    def __new__(
        cls,
        fd: int,
        mtu: int = 1280,
        *,
        has_header: bool = False,
        merge_tcp: bool = False,
        merge_udp: bool = False,
    ) -> Self: ...
    @property
    def fd(self) -> int: ...
    @property
    def refused(self) -> int:
        """The errno with which the device refused a super-packet, and gets no more; else 0."""

    def read(self, batch: PacketBatch) -> int:
        """Append waiting packets until the batch is full; the count. Raises OSError."""

    def write(self, batch: PacketBatch) -> int:
        """Write every PASS slot; how many left. The others become WRITE_FAILED."""
