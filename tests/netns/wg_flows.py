"""Runs by its path in a namespace: `wg_flows.py echo` or `wg_flows.py send ADDRESS FLOWS COUNT`.

`send` numbers the datagrams of several flows, a few of each in turn, and prints as JSON how many
came back, and how many after a later one of their flow.
"""

from __future__ import annotations

import json
import select
import socket
import struct
import sys
import time

PORT = 7000
AT_ONCE = 4
PATIENCE_SECONDS = 2.0


def echo() -> None:
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as s:
        s.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
        s.bind(("::", PORT))
        while True:
            data, source = s.recvfrom(2048)
            s.sendto(data, source)


class Flow:
    def __init__(self, address: str, count: int) -> None:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        self.socket = socket.socket(family, socket.SOCK_DGRAM)
        self.socket.connect((address, PORT))
        self.socket.setblocking(False)
        self.count = count
        self.sent = self.returned = self.late = self.last = 0

    def fileno(self) -> int:
        return self.socket.fileno()

    def send(self) -> None:
        for _ in range(min(AT_ONCE, self.count - self.sent)):
            self.sent += 1
            self.socket.send(struct.pack("!Q", self.sent) + bytes(100 + self.sent % 900))

    def receive(self) -> None:
        while True:
            try:
                (number,) = struct.unpack_from("!Q", self.socket.recv(2048))
            except BlockingIOError:
                return
            self.returned += 1
            self.late += number < self.last
            self.last = max(self.last, number)


def send(address: str, flows: int, count: int) -> None:
    # The first of each flow alone: it waits for a decision, and may be overtaken meanwhile.
    opened = [Flow(address, count) for _ in range(flows)]
    for flow in opened:
        flow.sent = 1
        flow.socket.send(struct.pack("!Q", 1))
    settle(opened, flows)
    while any(flow.sent < count for flow in opened):
        for flow in opened:
            flow.send()
        # As many as came back may follow, so that no buffer overflows.
        settle(opened, sum(flow.sent for flow in opened))
    returned = sum(flow.returned for flow in opened)
    late = sum(flow.late for flow in opened)
    print(json.dumps({"sent": flows * count, "returned": returned, "late": late}))


def settle(flows: list[Flow], wanted: int) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while sum(flow.returned for flow in flows) < wanted and time.monotonic() < deadline:
        for flow in select.select(flows, [], [], 0.1)[0]:
            flow.receive()


if __name__ == "__main__":
    if sys.argv[1] == "echo":
        echo()
    else:
        send(sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
