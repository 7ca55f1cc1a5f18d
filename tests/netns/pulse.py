"""Runs by its path in the lab's hosts: `pulse.py echo PORT` or `pulse.py send ADDRESS PORT`

`send` sends a numbered datagram every 5 ms over one socket, as a program that keeps a flow open.
It reports `flowing` with the first answer, every gap between answers of over 100 ms once it has
ended, and every kind of ICMP error once, until an answer comes again.
"""

from __future__ import annotations

import json
import select
import socket
import struct
import sys
import time
from contextlib import suppress

INTERVAL_SECONDS = 0.005
NOTABLE_GAP_SECONDS = 0.1

IP_RECVERR, IPV6_RECVERR = 11, 25
_ORIGIN_ICMP = (2, 3)


def echo(port: int) -> None:
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as s:
        s.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        # Answer from the address that was asked, as the host has several.
        s.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1)
        s.bind(("::", port))
        report("ready")
        while True:
            data, extra, _, source = s.recvmsg(2048, 64)
            s.sendmsg([data], extra, 0, source)


def send(address: str, port: int) -> None:
    with connect(address, port) as s:
        started = last_answer = time.monotonic()
        is_flowing, number, seen = False, 0, set[tuple[int, int]]()
        while True:
            number += 1
            push(s, struct.pack("!Q", number))
            select.select([s], [], [], INTERVAL_SECONDS)
            now = time.monotonic()
            for error in errors(s):
                if error not in seen:
                    seen.add(error)
                    report("refused", type=error[0], code=error[1])
            if drain(s):
                if not is_flowing:
                    report("flowing", after_ms=ms(now - started))
                elif now - last_answer > NOTABLE_GAP_SECONDS:
                    report("gap", ms=ms(now - last_answer))
                is_flowing, last_answer = True, now
                seen.clear()
            time.sleep(INTERVAL_SECONDS)


def connect(address: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    s = socket.socket(family, socket.SOCK_DGRAM)
    s.setblocking(False)
    if family == socket.AF_INET:
        s.setsockopt(socket.IPPROTO_IP, IP_RECVERR, 1)
    else:
        s.setsockopt(socket.IPPROTO_IPV6, IPV6_RECVERR, 1)
    s.connect((address, port))
    return s


def push(s: socket.socket, data: bytes) -> None:
    with suppress(OSError):  # an error that came meanwhile; its cause is in the error queue
        s.send(data)


def drain(s: socket.socket) -> bool:
    """True if answers came."""
    came = False
    while True:
        try:
            s.recv(2048)
            came = True
        except BlockingIOError:
            return came
        except OSError:
            pass


def errors(s: socket.socket) -> list[tuple[int, int]]:
    """ICMP type and code of what came into the error queue: `struct sock_extended_err`."""
    found = []
    while True:
        try:
            _, extra, _, _ = s.recvmsg(2048, 512, socket.MSG_ERRQUEUE)
        except OSError:
            return found
        for _, kind, data in extra:
            if kind in (IP_RECVERR, IPV6_RECVERR) and data[4] in _ORIGIN_ICMP:
                found.append((data[5], data[6]))


def ms(seconds: float) -> int:
    return round(seconds * 1000)


def report(event: str, **fields: object) -> None:
    print(json.dumps({"event": event, **fields}), flush=True)


if __name__ == "__main__":
    if sys.argv[1] == "echo":
        echo(int(sys.argv[2]))
    else:
        send(sys.argv[2], int(sys.argv[3]))
