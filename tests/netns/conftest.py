"""What the tests on real networks share. They are skipped where the rights are missing."""

from __future__ import annotations

import ctypes
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from firezone.lab import LabError, netns, userns


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    reason = _missing()
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.netns)
            if reason:
                item.add_marker(pytest.mark.skip(reason=reason))


def _missing() -> str:
    if not userns.sufficient():
        return "needs root, or: python -m firezone.lab.userns pytest"
    try:
        userns.require_tun()
        netns.require_tools()
    except LabError as error:
        return str(error)
    return ""


@pytest.fixture
def fresh_netns() -> Iterator[ThreadPoolExecutor]:
    """Runs functions in an empty network namespace, which is that of one thread only."""
    with ThreadPoolExecutor(1, initializer=enter_fresh_netns) as executor:
        yield executor


def enter_fresh_netns() -> None:
    """Give the calling thread a network namespace of its own, with nothing but a loopback."""
    libc = ctypes.CDLL(None, use_errno=True)
    clone_newnet = 0x40000000
    if libc.unshare(clone_newnet) != 0:
        raise OSError(ctypes.get_errno(), "unshare")
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
