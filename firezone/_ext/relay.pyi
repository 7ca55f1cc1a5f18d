import enum
from typing import Self, final

from firezone._ext.ring import Ring

MAX_WORKERS: int

_Address = tuple[int, bytes, int]

class Notice(enum.IntEnum):
    """The kinds of items that come up through the ring."""

    STUN = 1
    """A message on a listening socket, with its `local` and `remote` addresses."""
    SOCKET_FAILED = 2
    """The socket of port `argument` and of the family `peer` broke down."""
    GSO_REFUSED = 3
    """The host would not cut up a large datagram, with errno `argument`; it goes on without."""
    DATA = 4
    """With one port, what the peer `remote` sent to our port `argument` that Python has to see."""

@final
class Forwarder:
    """Forwards ChannelData, Send and Data between clients and peers (RFC 8656), in both directions.

    `secret` are 16 random bytes. Each of `rings` makes a worker, at most `MAX_WORKERS`, and takes
    what is Python's of that worker's sockets; one worker reads a socket, all read the tables. `gso`
    and `gro` allow to let the kernel split and merge datagrams; each is given up where the host
    does not have it. A thread stays in each worker's `run`, one other thread calls everything else.
    It owns no descriptor it is given.
    """

    def __new__(cls, secret: bytes, *rings: Ring, gso: bool = True, gro: bool = True) -> Self: ...
    def __len__(self) -> int:
        """Channels that are bound."""

    @property
    def gso(self) -> bool: ...
    @property
    def gro(self) -> bool: ...
    @property
    def workers(self) -> int: ...
    def add(
        self,
        fd: int,
        family: int,
        port: int,
        listens: bool = False,
        worker: int = 0,
        own: bytes | None = None,
    ) -> None:
        """Take part in a bound, non-blocking socket, which that worker will read. Raises OSError.

        Each worker listens with a socket of its own in each family; what comes from an allocation's
        peers leaves through that of the worker which reads the allocation's socket. With `own`, the
        public address, a listening socket is that of all allocations, too.
        """

    def remove(self, family: int, port: int) -> None:
        """Have done with an allocation's socket that no channel and no permit uses; close it after
        `settle`."""

    def bind(
        self,
        client: _Address,
        local: _Address,
        number: int,
        port: int,
        peer: _Address,
        worker: int = -1,
        source: bytes | None = None,
    ) -> None:
        """Relay between a client's channel and a peer, through the allocation of `port`.

        `local` is the address that the client sends to. Binding the same again changes nothing but
        that large datagrams are tried anew; another peer replaces the former one. With a `worker`
        both ways go through its listening sockets, to the peer from the address `source`, or from
        what the host chooses; `port` is then a number that only this allocation has.
        """

    def unbind(self, client: _Address, local: _Address, number: int) -> bool:
        """Stop. False if it is not bound."""

    def steer(
        self,
        peer: _Address,
        index: int,
        client: _Address | None = None,
        local: _Address | None = None,
        number: int = 0,
    ) -> None:
        """Say for which client's channel, or for nobody, is what comes from a peer to a socket of
        all allocations: WireGuard's data with that receiver index; with index -2 such data with an
        index that is steered nowhere; with -1 all that is left. With -3 all of that address, from
        whichever port, comes up that has no such peer; with -4 nothing is sent to it that begins as
        ChannelData does, for it is a client itself.

        A peer without -1 counts for unknown. Messages of STUN, and of WireGuard's handshake,
        come up through the ring, those of clients as ChannelData. The peer is 127.0.0.1 or ::1 with
        the listening port for what the channels to our own address send.
        """

    def unsteer(self, peer: _Address, index: int) -> bool:
        """Undo it, before the channel is unbound. False if it was not steered."""

    def permit(
        self,
        client: _Address,
        local: _Address,
        port: int,
        family: int,
        address: bytes,
        any_port: bool = True,
    ) -> None:
        """Relay Send and Data (RFC 8656 sections 10 and 11) between a client and a peer's address,
        through the allocation of `port`, which is this client's only one.

        Without `any_port` a Send goes only to ports that are an allocation's: the address is the
        relay's own. Permitting the same again sets that anew. A Send that is not a plain one, or
        not permitted, comes up through the ring; it may take half of it.
        """

    def forbid(self, family: int, address: bytes, port: int) -> bool:
        """Stop. False if it was not permitted."""

    def answer_strangers(self, binding: bytes, challenge: bytes, nonce_key: bytes) -> None:
        """From now on let the workers answer Binding, and Allocate without credentials.

        The first two are what each answer begins with: a header, whose transaction id does not
        matter, and attributes, of at most 1088 bytes. Call it before `run`; `answered` counts.
        """

    def defer(self, family: int, port: int, is_deferred: bool) -> None:
        """Whether clients of that port get their answers through the ring all the same."""

    def answer(self, request: bytes, client: _Address, local: _Address, now: int) -> bytes | None:
        """What a worker would answer to a request that is sent to `local`, None if nothing."""

    def answered(self) -> tuple[int, int]:
        """Answers that workers gave by themselves: to Binding, and to Allocate."""

    def settle(self, timeout: int = 100_000_000) -> bool:
        """Wait until no loop uses anything that was removed, at most `timeout` nanoseconds.

        False if it did not come to that: then descriptors must stay open until it does.
        """

    def run(self, worker: int = 0) -> None:
        """Forward until `stop` is called. Raises OSError for what ends the data path."""

    def turn(self, worker: int = 0) -> int:
        """Read once what is readable, instead of `run`. How many buffers were read."""

    def stop(self) -> None:
        """End every worker's `run`. Any thread."""

    def traffic(self) -> tuple[tuple[int, int, int], tuple[int, int, int]]:
        """Sent to peers, and to clients: packets, payload bytes, and calls they took."""

    def indicated(self) -> int:
        """How many of these bytes went by Send and Data."""

    def loads(self) -> list[int]:
        """Packets that each worker has sent."""

    def drops(self) -> dict[str, int]:
        """What was not forwarded, by reason."""
