"""Both families on exactly one port."""

import errno
import os
import socket

import pytest

from firezone.shell.wg_sockets import WgSockets


def test_any_free_port_is_the_same_for_both_families():
    sockets = WgSockets(0, 0)
    try:
        for family, number in ((4, socket.AF_INET), (6, socket.AF_INET6)):
            fd = next(iter(sockets.fds(family)), None)
            if fd is not None:
                with socket.socket(number, socket.SOCK_DGRAM, fileno=os.dup(fd)) as same:
                    assert same.getsockname()[1] == sockets.port
    finally:
        sockets.close()


def test_a_taken_port_is_not_replaced_by_another():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
        taken.bind(("", 0))
        with pytest.raises(OSError) as caught:
            WgSockets(taken.getsockname()[1], 0)
        assert caught.value.errno == errno.EADDRINUSE
