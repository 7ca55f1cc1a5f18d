"""Ports for programs that are started by a test.

A port that was bound to 0 and closed is in the range that the system deals out to everybody, and
may be somebody else's a moment later. These are below it.
"""

import functools
import itertools
import os
import socket
from contextlib import ExitStack, suppress

_FIRST, _LAST = 10_000, 20_000
_numbers = itertools.count(os.getpid() * 101)
_claims = ExitStack()
_FIRST_RELAYED, _LAST_RELAYED = 20_000, 32_000


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


@functools.cache
def relayed_ports(count: int = 100) -> range:
    """For the allocations of a relay, which are for UDP: this process's to its end.

    Of every hundred it listens on the first over TCP, so that no two processes have the same.
    """
    places = (_LAST_RELAYED - _FIRST_RELAYED - count) // 100
    for number in range(os.getpid(), os.getpid() + places):
        first = _FIRST_RELAYED + number % places * 100
        ports = range(first, first + count)
        with ExitStack() as claims, suppress(OSError):
            for port in ports[::100]:
                claim = claims.enter_context(socket.socket(socket.AF_INET6, socket.SOCK_STREAM))
                claim.bind(("::", port))
            for port in ports:
                with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as probe:
                    probe.bind(("::", port))
            _claims.enter_context(claims.pop_all())
            return ports
    raise AssertionError("no ports are free")
