"""WireGuard sessions: who owns a transport data message, and its sealing and opening."""

from typing import Self, final

from firezone._ext.batch import PacketBatch

REJECT_AFTER_MESSAGES: int
WINDOW: int

@final
class Sessions:
    """Peers by slot, their keypairs by index.

    For one Python thread; data threads may run meanwhile. A peer costs 320 bytes, up to a kilobyte
    for its tunnel id (256 neighbours share it), and 1.3 kB per keypair, of which it has at most 8;
    `memory` tells how much it is now. What is removed is wiped and freed once no data thread can be
    reading it.
    """

    def __new__(cls, capacity: int = 16384) -> Self:
        """Slots 1 to `capacity`."""

    @property
    def capacity(self) -> int: ...
    @property
    def memory(self) -> int:
        """Bytes held by peers and keypairs, also by those that wait to be freed."""

    def __len__(self) -> int:
        """How many peers there are."""

    def add_peer(self, slot: int, tunnel_id: int) -> None:
        """Open a slot: the upper 24 bits of its local indices are `tunnel_id`.

        ValueError if the slot or the tunnel id is out of range or taken.
        """

    def remove_peer(self, slot: int) -> None:
        """Close a slot, with all its keypairs. KeyError if it is not open."""

    def install_keypair(
        self,
        slot: int,
        local_index: int,
        remote_index: int,
        send_key: bytes,
        receive_key: bytes,
        initiator: bool,
        created_at: int,
        send_until: int,
        receive_until: int,
    ) -> None:
        """Add a session in place of the one whose local index is equal modulo 8.

        It takes the send slot at once if we initiated it and the present one is not newer, else
        with the first packet that it opens. Times are absolute nanoseconds. KeyError if the slot
        is not open, ValueError for wrong sizes or an index that is not the peer's.
        """

    def remove_keypair(self, slot: int, local_index: int) -> None:
        """Drop one session, if it is there. KeyError if the slot is not open."""

    def activity(self, slot: int) -> tuple[int, int, int, int, int, int, int, int]:
        """In the order of the fields of `commands.Activity`. KeyError if the slot is not open.

        Where both directions meet at one instant the later call counts as later, by up to one
        nanosecond that is added to the stamp.
        """

    def traffic(self, slot: int) -> tuple[int, int]:
        """Bytes of transport data (received, sent), headers included. KeyError as above."""

    def moved(self) -> list[tuple[int, _Endpoint, _Endpoint]]:
        """(slot, local, remote) of the peers whose messages came with other ends than before.

        Only what authenticated counts. A peer stands here once for each call, however often it
        moved; where two moves lie between two calls the first is told, and the second with the
        next packet. Nothing is told of batches whose `remote` column is not set.
        """

    def pad_below(self, length: int) -> None:
        """Pad plaintexts with zeros to a multiple of 16 bytes (WireGuard paper, section 5.4.6), but
        none beyond `length`, the MTU; 0, as at first, is never."""

    def current_index(self, slot: int) -> int:
        """`local_index` of the session in the send slot; 0 = none."""

    def local_indices(self, slot: int) -> list[int]:
        """Of the sessions that a peer has."""

    def advance_send_counter(self, slot: int, counter: int) -> None:
        """Skip nonces of the session in the send slot. ValueError if that would go back.

        Not while a data thread seals.
        """

    def reclaim(self) -> int:
        """Wipe and free what no data thread can hold any more; returns how much still waits.

        Every change does this too.
        """

    def settle(self, timeout: int = 1_000_000_000) -> bool:
        """Wait, at most `timeout` ns, until each data thread has left the batch it is in.

        After that none of them still acts on what was removed before the call. False: one is stuck.
        """

    def seal(self, batch: PacketBatch, now: int) -> None:
        """PASS slots: seal the packet for the peer of its column; see `ext/session.pyx`."""

    def open(self, batch: PacketBatch, now: int) -> None:
        """PASS slots: open the message; CONSUMED says that it was a keepalive."""

_Endpoint = tuple[int, bytes, int]
