"""Packets of one flow into the super-packets that a TUN device takes."""

from firezone._ext.batch import PacketBatch

def merge(batch: PacketBatch, tcp: bool = True, udp: bool = True) -> list[bytes]:
    """What would be written of the PASS slots, in order: a virtio header and a packet each."""
