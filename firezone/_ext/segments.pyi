"""Super-packets of a TUN device into the packets they stand for: TCP and UDP segmentation."""

from _typeshed import ReadableBuffer

from firezone._ext.batch import PacketBatch

def split(data: ReadableBuffer, batch: PacketBatch, limit: int = 0) -> tuple[int, bool]:
    """Append the segments of a super-packet with its virtio header, until the batch is full.

    Returns the verdict, and whether segments are left; nothing is appended unless it is PASS.
    `limit`: the length of the longest segment, 0 for what a slot has room for.
    """

def finish_checksum(data: ReadableBuffer) -> bytes | None:
    """The packet behind a virtio header with its checksum completed; None if it is malformed."""
