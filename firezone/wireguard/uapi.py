"""The cross-platform user-space protocol of wg(8): lines of `key=value`, ended by an empty line.

`get=1` asks for everything, `set=1` begins a change; both may follow each other on a connection. A
request is read to its end before anything of it is done, so what is wrong with it changes nothing.
The answer closes with `errno=`, zero or a negative error number, and an empty line. Keys are in
lower-case hexadecimal. The socket is root's alone, yet a request has a greatest size.

`get=workers` is ours alone: what the workers of the data plane have done, the offloads in use, and
what was dropped, each in lines `dropped=<count> <reason>`. Others refuse it.
"""

from __future__ import annotations

import errno
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from ipaddress import ip_network
from typing import Any

from firezone.commands import Traffic, WorkerStatus
from firezone.durations import SECOND
from firezone.errors import FirezoneError
from firezone.model import Endpoint
from firezone.wireguard.settings import (
    NO_KEY,
    AllowedIP,
    DeviceChange,
    DeviceStatus,
    PeerChange,
    PeerStatus,
    ServiceStatus,
)

MAX_REQUEST = 64 * 1024 * 1024


class UapiError(FirezoneError):
    """A request that cannot be carried out. `number` is an error number as of errno(3)."""

    def __init__(self, problem: str, number: int = errno.EINVAL) -> None:
        super().__init__(problem)
        self.number = number


@dataclass(frozen=True, slots=True)
class Get:
    """Show everything."""


@dataclass(frozen=True, slots=True)
class GetWorkers:
    """Show what the workers have done, offloads and drops."""


Request = Get | GetWorkers | DeviceChange


class RequestReader:
    """Cuts what comes through a connection into requests."""

    def __init__(self, limit: int = MAX_REQUEST) -> None:
        self._data = bytearray()
        self._limit = limit
        self._searched = 0

    def feed(self, data: bytes) -> None:
        """Take in what was received. Raises UapiError for a request that is too long."""
        if len(self._data) + len(data) > self._limit:
            raise UapiError("the request is too long", errno.E2BIG)
        self._data += data

    def poll_request(self) -> Request | None:
        """The next whole request. Raises UapiError for a wrong one, which is taken off, too."""
        end = self._data.find(b"\n\n", max(0, self._searched - 1))
        if end < 0:
            self._searched = len(self._data)
            return None
        text = bytes(self._data[:end])
        del self._data[: end + 2]
        self._searched = 0
        return parse_request(text)


def parse_request(text: bytes) -> Request:
    """Read one request, without its empty line. Raises UapiError."""
    try:
        lines = text.decode("ascii").split("\n")
    except UnicodeDecodeError:
        raise UapiError("not ASCII") from None
    match lines[0]:
        case "get=1" if len(lines) == 1:
            return Get()
        case "get=workers" if len(lines) == 1:
            return GetWorkers()
        case "set=1":
            return _parse_change(map(_pair, lines[1:]))
    raise UapiError("neither get=1 nor set=1", errno.EPROTO)


def reply(number: int = 0) -> bytes:
    """The end of an answer; `number` is positive, as errno(3) has it."""
    return f"errno={-number}\n\n".encode()


def format_status(status: DeviceStatus) -> bytes:
    """The answer to `Get`, without its end."""
    return "".join(f"{key}={value}\n" for key, value in _device_lines(status)).encode()


def parse_status(answer: bytes) -> DeviceStatus:
    """Read the whole answer to `Get`. Raises UapiError, also for an answer that says so."""
    device: _Values = {}
    peers: list[_Values] = []
    for key, value in map(_pair, answer.decode("ascii", "replace").split()):
        if key == "errno":
            if value != "0":
                raise UapiError("the interface refused", abs(int(value)))
        elif key == "public_key":
            peers.append({"public_key": value})
        elif key == "allowed_ip":
            peers[-1].setdefault(key, []).append(value)
        else:
            (peers[-1] if peers else device)[key] = value
    return _device_status(device, peers)


def format_service(status: ServiceStatus) -> bytes:
    """The answer to `GetWorkers`, without its end."""
    return "".join(f"{key}={value}\n" for key, value in _service_lines(status)).encode()


def parse_service(answer: bytes) -> ServiceStatus | None:
    """Read the whole answer to `GetWorkers`; None if the interface knows no such thing."""
    workers: list[dict[str, int]] = []
    offloads: list[str] = []
    drops: dict[str, int] = {}
    for key, value in map(_pair, filter(None, answer.decode("ascii", "replace").split("\n"))):
        if key == "worker":
            workers.append(dict.fromkeys(_WORKER, 0))
        elif key in _WORKER and workers:
            workers[-1][key] = int(value)
        elif key == "offload":
            offloads.append(value)
        elif key == "dropped":
            count, _, reason = value.partition(" ")
            drops[reason] = int(count)
        elif key == "errno" and value != "0":
            return None
    return ServiceStatus(tuple(WorkerStatus(**w) for w in workers), tuple(offloads), drops)


def format_change(change: DeviceChange) -> bytes:
    """A change as a request, whole."""
    lines = ["set=1", *(f"{key}={value}" for key, value in _change_lines(change))]
    return ("\n".join(lines) + "\n\n").encode()


def _parse_change(pairs: Iterator[tuple[str, str]]) -> DeviceChange:
    device: _Values = {}
    peers: list[_Values] = []
    for key, value in pairs:
        if key == "public_key":
            peers.append({"public_key": _key(value)})
        elif peers:
            _set(peers[-1], _PEER, key, value)
        else:
            _set(device, _DEVICE, key, value)
    return DeviceChange(**device, peers=tuple(map(_peer_change, peers)))


def _peer_change(values: _Values) -> PeerChange:
    return PeerChange(**{**values, "allowed_ips": tuple(values.get("allowed_ips", ()))})


def _set(values: _Values, table: _Table, key: str, value: str) -> None:
    if key not in table:
        raise UapiError("unknown key")
    name, parse = table[key]
    parsed = parse(value)
    if isinstance(parsed, AllowedIP):
        values.setdefault(name, []).append(parsed)
    elif name:
        values[name] = parsed


def _pair(line: str) -> tuple[str, str]:
    key, equals, value = line.partition("=")
    if not equals or not value:
        raise UapiError("not key=value")
    return key, value


def _key(text: str) -> bytes:
    if not re.fullmatch(r"[0-9a-fA-F]{64}", text):
        raise UapiError("not a key of 64 hexadecimal digits")
    return bytes.fromhex(text)


def _number(limit: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        if not re.fullmatch(r"[0-9]{1,10}", text) or int(text) > limit:
            raise UapiError(f"not a number from 0 to {limit}")
        return int(text)

    return parse


def _true(text: str) -> bool:
    if text != "true":
        raise UapiError("can only be true")
    return True


def _endpoint(text: str) -> Endpoint:
    host, _, port = text.rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    bare = host[1:-1] if bracketed else host
    if (":" in bare) != bracketed or not re.fullmatch(r"[0-9]{1,5}", port):
        raise UapiError("not an endpoint")
    if "%" in bare:
        raise UapiError("a scope is not supported")
    try:
        return Endpoint.of(bare, int(port))
    except (ValueError, FirezoneError):
        raise UapiError("not an endpoint") from None


def _allowed_ip(text: str) -> AllowedIP:
    remove, bare = text.startswith("-"), text.removeprefix("-")
    _, slash, length = bare.partition("/")
    if slash and not re.fullmatch(r"[0-9]{1,3}", length):
        raise UapiError("not a network")
    try:
        return AllowedIP(ip_network(bare, strict=False), remove)
    except ValueError:
        raise UapiError("not a network") from None


def _version(text: str) -> None:
    if text != "1":
        raise UapiError("unknown version of the protocol", errno.EPROTONOSUPPORT)


_WORKER = tuple(field.name for field in fields(WorkerStatus))

_Values = dict[str, Any]
_Table = dict[str, tuple[str, Callable[[str], object]]]

_DEVICE: _Table = {
    "private_key": ("private_key", _key),
    "listen_port": ("listen_port", _number(0xFFFF)),
    "fwmark": ("fwmark", _number(0xFFFFFFFF)),
    "replace_peers": ("replace_peers", _true),
}
_PEER: _Table = {
    "remove": ("remove", _true),
    "update_only": ("update_only", _true),
    "preshared_key": ("preshared_key", _key),
    "endpoint": ("endpoint", _endpoint),
    "persistent_keepalive_interval": ("persistent_keepalive", _number(0xFFFF)),
    "replace_allowed_ips": ("replace_allowed_ips", _true),
    "allowed_ip": ("allowed_ips", _allowed_ip),
    "protocol_version": ("", _version),
}


def _device_status(values: _Values, peers: list[_Values]) -> DeviceStatus:
    private = _key(values["private_key"]) if "private_key" in values else None
    return DeviceStatus(
        private_key=private,
        listen_port=int(values.get("listen_port", 0)),
        fwmark=int(values.get("fwmark", 0)),
        peers=tuple(map(_peer_status, peers)),
    )


def _peer_status(values: _Values) -> PeerStatus:
    preshared = _key(values.get("preshared_key", NO_KEY.hex()))
    seconds, nanoseconds = (
        int(values.get(f"last_handshake_time_{unit}", 0)) for unit in ("sec", "nsec")
    )
    return PeerStatus(
        public_key=_key(values["public_key"]),
        preshared_key=None if preshared == NO_KEY else preshared,
        endpoint=_endpoint(values["endpoint"]) if "endpoint" in values else None,
        last_handshake=seconds * SECOND + nanoseconds,
        traffic=Traffic(int(values.get("rx_bytes", 0)), int(values.get("tx_bytes", 0))),
        persistent_keepalive=int(values.get("persistent_keepalive_interval", 0)),
        allowed_ips=tuple(_allowed_ip(text).network for text in values.get("allowed_ip", ())),
    )


def _device_lines(status: DeviceStatus) -> Iterator[tuple[str, object]]:
    if status.private_key is not None:
        yield "private_key", status.private_key.hex()
    yield "listen_port", status.listen_port
    if status.fwmark:
        yield "fwmark", status.fwmark
    for peer in status.peers:
        yield from _peer_lines(peer)


def _peer_lines(peer: PeerStatus) -> Iterator[tuple[str, object]]:
    yield "public_key", peer.public_key.hex()
    yield "preshared_key", (peer.preshared_key or NO_KEY).hex()
    yield "protocol_version", 1
    if peer.endpoint is not None:
        yield "endpoint", peer.endpoint
    seconds, nanoseconds = divmod(peer.last_handshake, SECOND)
    yield "last_handshake_time_sec", seconds
    yield "last_handshake_time_nsec", nanoseconds
    yield "tx_bytes", peer.traffic.sent
    yield "rx_bytes", peer.traffic.received
    yield "persistent_keepalive_interval", peer.persistent_keepalive
    for network in peer.allowed_ips:
        yield "allowed_ip", network


def _service_lines(status: ServiceStatus) -> Iterator[tuple[str, object]]:
    for number, worker in enumerate(status.workers):
        yield "worker", number
        yield from ((name, getattr(worker, name)) for name in _WORKER)
    for offload in status.offloads:
        yield "offload", offload
    for reason, count in status.drops.items():
        yield "dropped", f"{count} {reason}"


def _change_lines(change: DeviceChange) -> Iterator[tuple[str, object]]:
    if change.private_key is not None:
        yield "private_key", change.private_key.hex()
    if change.listen_port is not None:
        yield "listen_port", change.listen_port
    if change.fwmark is not None:
        yield "fwmark", change.fwmark
    if change.replace_peers:
        yield "replace_peers", "true"
    for peer in change.peers:
        yield from _peer_change_lines(peer)


def _peer_change_lines(peer: PeerChange) -> Iterator[tuple[str, object]]:
    yield "public_key", peer.public_key.hex()
    for name in ("remove", "update_only"):
        if getattr(peer, name):
            yield name, "true"
    if peer.preshared_key is not None:
        yield "preshared_key", peer.preshared_key.hex()
    if peer.endpoint is not None:
        yield "endpoint", peer.endpoint
    if peer.persistent_keepalive is not None:
        yield "persistent_keepalive_interval", peer.persistent_keepalive
    if peer.replace_allowed_ips:
        yield "replace_allowed_ips", "true"
    for allowed in peer.allowed_ips:
        yield "allowed_ip", f"{'-' if allowed.remove else ''}{allowed.network}"
