"""Ports for programs that are started by a test.

A port that was bound to 0 and closed is in the range that the system deals out to everybody, and
may be somebody else's a moment later. These are below it.
"""

import itertools
import os
import socket
from contextlib import ExitStack

_FIRST, _LAST = 10_000, 20_000
_numbers = itertools.count(os.getpid() * 101)


def free_port() -> int:
    """One that is free for UDP and TCP in both families, and that this process has not given."""
    for number in _numbers:
        port = _FIRST + number % (_LAST - _FIRST)
        try:
            with ExitStack() as probes:
                for kind in (socket.SOCK_DGRAM, socket.SOCK_STREAM):
                    probe = probes.enter_context(socket.socket(socket.AF_INET6, kind))
                    probe.bind(("::", port))
        except OSError:
            continue
        return port
    raise AssertionError("unreachable")
