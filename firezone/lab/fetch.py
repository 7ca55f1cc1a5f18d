"""Gets a URL and reports how long it took. Runs by its path, as `fetch.py URL [SECONDS]`

Prints one JSON object. It is a program so that it can run inside a namespace; it uses plain
sockets because their errors say what the network answered.
"""

from __future__ import annotations

import errno
import json
import socket
import sys
import time
from dataclasses import asdict, dataclass, field
from urllib.parse import urlsplit


@dataclass(frozen=True, slots=True)
class Fetched:
    """What came of it. Times count from before the connection was opened."""

    status: int = 0
    """The HTTP status; 0 if no answer came."""
    error: str = ""
    """The name of the error, such as EHOSTUNREACH; empty for an answer."""
    connected_ms: float = 0
    first_byte_ms: float = 0
    total_ms: float = 0
    body_bytes: int = 0
    page: str = field(default="", repr=False)
    """The start of the body."""

    @property
    def megabits_per_second(self) -> float:
        """From the first byte on."""
        duration_ms = self.total_ms - self.first_byte_ms
        return self.body_bytes * 8 / 1000 / duration_ms if duration_ms > 0 else 0.0


def fetch(url: str, timeout_seconds: float) -> Fetched:
    """Get a URL. Never raises for what the network does."""
    parts = urlsplit(url)
    started = time.monotonic()
    try:
        return _fetch(parts.hostname or "", parts.port or 80, parts.path, timeout_seconds, started)
    except OSError as error:
        name = errno.errorcode.get(error.errno or 0, type(error).__name__)
        return Fetched(error=name, total_ms=_since(started))


def _fetch(host: str, port: int, path: str, timeout_seconds: float, started: float) -> Fetched:
    with socket.create_connection((host, port), timeout_seconds) as connection:
        connected = _since(started)
        request = f"GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n"
        connection.sendall(request.encode())
        head = b""
        first_byte = 0.0
        while b"\r\n\r\n" not in head:
            received = connection.recv(65536)
            first_byte = first_byte or _since(started)
            if not received:
                raise ConnectionResetError(errno.ECONNRESET, "closed early")
            head += received
        head, _, page = head.partition(b"\r\n\r\n")
        page = page or connection.recv(65536)
        total = len(page) + _drain(connection)
    return Fetched(
        status=int(head.split()[1]),
        connected_ms=connected,
        first_byte_ms=first_byte,
        total_ms=_since(started),
        body_bytes=total,
        page=page[:200].decode(errors="replace"),
    )


def _drain(connection: socket.socket) -> int:
    buffer = bytearray(1 << 20)
    total = 0
    while received := connection.recv_into(buffer):
        total += received
    return total


def _since(started: float) -> float:
    return round((time.monotonic() - started) * 1000, 3)


if __name__ == "__main__":
    timeout = float(sys.argv[2]) if len(sys.argv) > 2 else 10.0
    print(json.dumps(asdict(fetch(sys.argv[1], timeout))))
