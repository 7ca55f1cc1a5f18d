"""What `firezone wg show` prints: never a private or pre-shared key."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from firezone.commands import WorkerStatus
from firezone.durations import SECOND
from firezone.noise import StaticKeypair
from firezone.wireguard import DeviceStatus, PeerStatus, ServiceStatus

_MAX_DROPS = 20
"""How many reasons are listed for people."""

_UNITS = ("KiB", "MiB", "GiB", "TiB")
_PERIODS = (("day", 86400), ("hour", 3600), ("minute", 60), ("second", 1))


def as_text(
    name: str, status: DeviceStatus, unix_now: int, service: ServiceStatus | None = None
) -> str:
    """Lines for people, in the manner of `wg show`."""
    lines = [f"interface: {name}", *(f"  {k}: {v}" for k, v in _device(status))]
    if service is not None:
        lines += [f"  {k}: {v}" for k, v in _service(service)]
    for peer in sorted(status.peers, key=lambda peer: -peer.last_handshake):
        lines += ["", f"peer: {_base64(peer.public_key)}"]
        lines += [f"  {key}: {value}" for key, value in _peer(peer, unix_now)]
    return "\n".join(lines)


def as_json(
    name: str, status: DeviceStatus, service: ServiceStatus | None = None
) -> dict[str, Any]:
    """The same for programs: bytes, seconds and RFC 3339 times. Of an interface that another
    program serves, nothing is known of how."""
    public = _public(status)
    known = service or ServiceStatus()
    return {
        "interface": name,
        "public_key": public,
        "listen_port": status.listen_port,
        "fwmark": status.fwmark,
        "workers": [asdict(worker) for worker in known.workers],
        "offloads": known.offloads,
        "drops": known.drops,
        "peers": [_peer_json(peer) for peer in status.peers],
    }


def _device(status: DeviceStatus) -> Iterator[tuple[str, object]]:
    public = _public(status)
    if public is not None:
        yield "public key", public
        yield "private key", "(hidden)"
    yield "listening port", status.listen_port
    if status.fwmark:
        yield "fwmark", hex(status.fwmark)


def _service(service: ServiceStatus) -> Iterator[tuple[str, object]]:
    yield from _workers(service.workers)
    yield "offloads", ", ".join(service.offloads) or "(none)"
    for reason, count in [*service.drops.items()][:_MAX_DROPS]:
        yield "dropped", f"{count} {reason}"


def _workers(workers: Sequence[WorkerStatus]) -> Iterator[tuple[str, object]]:
    if workers:
        yield "workers", len(workers)
    for number, worker in enumerate(workers if len(workers) > 1 else ()):
        told = f"{worker.received_packets} packets received, {worker.sent_packets} sent"
        handed = worker.handed_over_packets
        yield f"worker {number}", told + (f", {handed} handed over" if handed else "")


def _peer(peer: PeerStatus, unix_now: int) -> Iterator[tuple[str, object]]:
    if peer.preshared_key is not None:
        yield "preshared key", "(hidden)"
    if peer.endpoint is not None:
        yield "endpoint", peer.endpoint
    yield "allowed ips", ", ".join(map(str, peer.allowed_ips)) or "(none)"
    if peer.last_handshake:
        yield "latest handshake", _ago((unix_now - peer.last_handshake) // SECOND)
    traffic = peer.traffic
    if traffic.received or traffic.sent:
        yield "transfer", f"{_size(traffic.received)} received, {_size(traffic.sent)} sent"
    if peer.persistent_keepalive:
        yield "persistent keepalive", f"every {_period(peer.persistent_keepalive)}"


def _peer_json(peer: PeerStatus) -> dict[str, Any]:
    at = datetime.fromtimestamp(peer.last_handshake / SECOND, UTC) if peer.last_handshake else None
    return {
        "public_key": _base64(peer.public_key),
        "has_preshared_key": peer.preshared_key is not None,
        "endpoint": None if peer.endpoint is None else str(peer.endpoint),
        "allowed_ips": list(map(str, peer.allowed_ips)),
        "latest_handshake": None if at is None else at.isoformat(timespec="seconds"),
        "received_bytes": peer.traffic.received,
        "sent_bytes": peer.traffic.sent,
        "persistent_keepalive": peer.persistent_keepalive,
    }


def _public(status: DeviceStatus) -> str | None:
    if status.private_key is None:
        return None
    return _base64(StaticKeypair.from_private(status.private_key).public)


def _base64(key: bytes) -> str:
    return base64.b64encode(key).decode()


def _size(count: int) -> str:
    power = min(max(count.bit_length() - 1, 0) // 10, len(_UNITS))
    return f"{count / 1024**power:.2f} {_UNITS[power - 1]}" if power else f"{count} B"


def _ago(seconds: int) -> str:
    return "now" if seconds <= 0 else f"{_period(seconds)} ago"


def _period(seconds: int) -> str:
    parts = []
    for name, length in _PERIODS:
        count, seconds = divmod(seconds, length)
        if count:
            parts.append(f"{count} {name}{'' if count == 1 else 's'}")
    return ", ".join(parts)
