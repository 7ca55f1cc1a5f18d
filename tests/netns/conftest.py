"""What the tests on real networks share. They are skipped where the rights are missing."""

from __future__ import annotations

import os
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
    if not os.access("/dev/net/tun", os.R_OK | os.W_OK):
        return "needs access to /dev/net/tun"
    try:
        netns.require_tools()
    except LabError as error:
        return str(error)
    return ""
