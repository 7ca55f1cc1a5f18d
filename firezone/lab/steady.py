"""A steady TCP download. By its path: `steady.py serve PORT` or `steady.py get ADDRESS PORT`

The server sends a megabyte a second for as long as the connection stands: numbers of 8 bytes, in
order. `get` reports `flowing` once it is connected, and at SIGTERM `done`: how many bytes came,
whether they were the right ones, and the longest time without any, up to the end.
"""

from __future__ import annotations

import json
import signal
import socket
import struct
import sys
import threading
import time

BYTES_PER_SECOND = 1_000_000
_INTERVAL = 0.01
_NUMBERS = int(BYTES_PER_SECOND * _INTERVAL) // 8


def serve(port: int) -> None:
    with socket.create_server(("::", port), family=socket.AF_INET6, dualstack_ipv6=True) as server:
        report("ready")
        while True:
            connection, _ = server.accept()
            threading.Thread(target=_feed, args=(connection,), daemon=True).start()


def _feed(connection: socket.socket) -> None:
    number, due = 0, time.monotonic()
    while True:
        try:
            connection.sendall(_block(number, _NUMBERS))
        except OSError:
            return
        number += _NUMBERS
        due += _INTERVAL
        time.sleep(max(0.0, due - time.monotonic()))


def get(address: str, port: int) -> None:
    signal.signal(signal.SIGTERM, _interrupt)
    download = _Download()
    error = "the server closed the connection"
    try:
        with socket.create_connection((address, port), 30) as connection:
            connection.settimeout(60)
            report("flowing")
            while data := connection.recv(65536):
                download.take(data)
    except KeyboardInterrupt:
        error = ""
    except OSError as problem:
        error = str(problem)
    download.pause()
    longest_ms, received = round(download.longest * 1000), download.received
    intact = download.is_intact
    report("done", received=received, intact=intact, longest_pause_ms=longest_ms, error=error)


class _Download:
    def __init__(self) -> None:
        self.received = 0
        self.is_intact = True
        self.longest = 0.0
        self._last = time.monotonic()
        self._rest = b""

    def take(self, data: bytes) -> None:
        self.pause()
        number = self.received // 8
        self.received += len(data)
        data = self._rest + data
        whole = len(data) // 8
        self.is_intact = self.is_intact and data[: whole * 8] == _block(number, whole)
        self._rest = data[whole * 8 :]

    def pause(self) -> None:
        now = time.monotonic()
        self.longest = max(self.longest, now - self._last)
        self._last = now


def _block(first: int, count: int) -> bytes:
    return struct.pack(f"!{count}Q", *range(first, first + count))


def _interrupt(_number: int, _frame: object) -> None:
    raise KeyboardInterrupt


def report(event: str, **fields: object) -> None:
    print(json.dumps({"event": event, **fields}), flush=True)


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        serve(int(sys.argv[2]))
    else:
        get(sys.argv[2], int(sys.argv[3]))
