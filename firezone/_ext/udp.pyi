from typing import Self, final

from firezone._ext.batch import PacketBatch

@final
class UdpSockets:
    """The two UDP sockets of the data plane; -1 = none. It owns neither descriptor.

    Asks the kernel for the local address and the ECN bits of what arrives. One thread may receive
    while another one sends.
    """

    def __new__(cls, fd4: int = -1, fd6: int = -1, capacity: int = 64) -> Self: ...
    @property
    def fds(self) -> tuple[int, int]: ...
    def receive(self, batch: PacketBatch, family: int) -> int:
        """Append what has arrived on the socket of `family`; the count. Raises OSError."""

    def send(self, batch: PacketBatch) -> int:
        """Send every PASS slot to its `remote`; how many left. The others become SEND_FAILED."""
