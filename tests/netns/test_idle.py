"""A client and a gateway with nothing to do: their threads sleep."""

from __future__ import annotations

import re
import time
from pathlib import Path

from firezone.lab import Lab, Nat, Site

WINDOW_SECONDS = 2.5
"""Whoever looks at something once a second wakes up at least twice in it."""
PATIENCE_SECONDS = 40


def test_who_has_no_connection_sleeps(tmp_path: Path) -> None:
    """But for the portal's heartbeat every 10 s, a request to each relay every 25 s, and what the
    host itself multicasts."""
    # Programs that start look which sockets in the usual directory are abandoned: that wakes.
    sockets = {side: {"FIREZONE_STATUS_SOCKET": str(tmp_path / side)} for side in ("a", "b")}
    with Lab(client=Site(Nat.CONE), gateway=Site(Nat.CONE)) as lab:
        lab.start_portal()
        lab.start_relay()
        awake = {lab.start_gateway(sockets["a"]).pid, lab.start_client(sockets["b"]).pid}
        deadline = time.monotonic() + PATIENCE_SECONDS
        while awake:
            assert time.monotonic() < deadline, "one never sleeps"
            awake -= sleeping(awake)


def sleeping(processes: set[int]) -> set[int]:
    """Those that a window passes by."""
    before = {pid: switches(pid) for pid in processes}
    time.sleep(WINDOW_SECONDS)
    return {pid for pid in processes if switches(pid) - before[pid] <= 1}


def switches(pid: int) -> int:
    """How often the threads of a process went to sleep."""
    statuses = [path.read_text() for path in Path(f"/proc/{pid}/task").glob("*/status")]
    found = [re.search(r"^voluntary_ctxt_switches:\s+(\d+)", text, re.M) for text in statuses]
    assert found and all(found)
    return sum(int(match[1]) for match in found if match)
