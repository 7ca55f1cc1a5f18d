from typing import Self, final

from firezone._ext.batch import PacketBatch

@final
class UdpSockets:
    """The two UDP sockets of the data plane; -1 = none. It owns neither descriptor.

    Asks the kernel for the local address and the ECN bits of what arrives. One thread may receive
    while another one sends.
    """

    def __new__(
        cls,
        fd4: int = -1,
        fd6: int = -1,
        capacity: int = 64,
        *,
        gso: bool = False,
        gro: bool = False,
    ) -> Self:
        """`capacity` messages go to or come from the kernel at once.

        `gso` (UDP_SEGMENT) and `gro` (UDP_GRO) let a message hold several datagrams, where the
        kernel can.
        """

    @property
    def fds(self) -> tuple[int, int]: ...
    @property
    def gso(self) -> bool:
        """Whether some socket merges what it sends."""

    @property
    def gro(self) -> bool: ...
    @property
    def refused(self) -> int:
        """The errno with which the host refused a merged message, after which gso ended; else 0."""

    def receive(self, batch: PacketBatch, family: int) -> int:
        """Append what has arrived on the socket of `family`; the count. Raises OSError.

        With `gro` the batch must be empty, and its arena should have 64 KiB for each message. If
        it becomes full the next call goes on, whichever the family, in the same batch, cleared.
        """

    def send(self, batch: PacketBatch) -> int:
        """Send every PASS slot to its `remote`; how many left. The others become SEND_FAILED."""
