"""IP packets: headers to 5-tuples, addresses and ports rewritten, ECN bits carried over."""

from _typeshed import ReadableBuffer

from firezone._ext.batch import PacketBatch

def parse(batch: PacketBatch, fragments: bool = False) -> None:
    """PASS slots: check the headers, fill the tuple, cut the length to what the header says.

    With `fragments` they pass, too: all of two addresses are one flow, of protocol 44, no ports.
    """

def five_tuple(packet: bytes, fragments: bool = False) -> tuple[int, bytes, bytes, int, int] | None:
    """(protocol, source, destination, source port, destination port) as `parse` sees them.

    None for a packet that is malformed or, without `fragments`, a fragment. Of ICMP echo both
    ports are the identifier.
    """

def rewrite(
    packet: ReadableBuffer,
    source: bytes | None = None,
    destination: bytes | None = None,
    source_port: int | None = None,
    destination_port: int | None = None,
) -> bytes:
    """A copy with new packed addresses and ports and the checksums mended (RFC 1624).

    An ICMP echo has one identifier: `source_port` if given, else `destination_port`.
    UDP without a checksum stays without one. ValueError if the packet is malformed or a fragment,
    if an address is of the other family, or if the packet has no ports to change.
    """

def rewrite_batch(
    batch: PacketBatch,
    source: bytes | None = None,
    destination: bytes | None = None,
    source_port: int | None = None,
    destination_port: int | None = None,
) -> None:
    """`rewrite` in place on every PASS slot; what cannot be rewritten becomes MALFORMED."""

def read_ecn(batch: PacketBatch) -> None:
    """PASS slots on the way out: the packet's own ECN bits become the outer ones."""

def apply_ecn(batch: PacketBatch) -> None:
    """PASS slots on the way in: an outer CE marks an inner ECT packet CE (RFC 6040 section 4.2)."""
