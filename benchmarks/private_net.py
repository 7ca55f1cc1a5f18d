"""A network with nothing but a loopback, which is gone with the one thread that is in it."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from firezone.lab import netns

CLONE_NEWNET = 0x40000000

Result = TypeVar("Result")


def in_private_net(function: Callable[[], Result]) -> Result:
    """Call it in a thread of that network; what it opens and starts is in it, too."""
    with ThreadPoolExecutor(1, initializer=_enter) as executor:
        return executor.submit(function).result()


def _enter() -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), "a network of our own")
    netns.ip_batch(["link set lo up"])
