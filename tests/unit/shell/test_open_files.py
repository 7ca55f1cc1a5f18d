"""How many sockets the limit of open files leaves to allocations."""

from __future__ import annotations

import logging
import resource

import pytest

from firezone.errors import ConfigurationError
from firezone.shell.open_files import OWN, make_room


class Host:
    """A limit, and whether it can be raised."""

    def __init__(self, hard: int, root: bool) -> None:
        self.limits, self._root = (1024, hard), root

    def getrlimit(self, _which: int) -> tuple[int, int]:
        return self.limits

    def setrlimit(self, _which: int, limits: tuple[int, int]) -> None:
        if limits[1] > self.limits[1] and not self._root:
            raise ValueError("not allowed to raise maximum limit")
        self.limits = limits


@pytest.mark.parametrize(
    ("hard", "root", "room", "limit"),
    [
        (500_000, False, 1000, 500_000),
        (4096, True, 1000, 4096),
        (1024, True, 1000, 1100 + OWN),
        (1024, False, 1024 - 100 - OWN, 1024),
        (resource.RLIM_INFINITY, False, 1000, resource.RLIM_INFINITY),
    ],
)
def test_room(
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    hard: int,
    root: bool,
    room: int,
    limit: int,
) -> None:
    host = Host(hard, root)
    monkeypatch.setattr(resource, "getrlimit", host.getrlimit)
    monkeypatch.setattr(resource, "setrlimit", host.setrlimit)
    with caplog.at_level(logging.WARNING):
        assert make_room(1000, 100) == room
    assert host.limits == (limit, limit)
    assert len(caplog.records) == (room < 1000)


def test_next_to_none_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    host = Host(100 + OWN + 15, False)
    monkeypatch.setattr(resource, "getrlimit", host.getrlimit)
    monkeypatch.setattr(resource, "setrlimit", host.setrlimit)
    with pytest.raises(ConfigurationError, match="LimitNOFILE"):
        make_room(1000, 100)
    assert make_room(15, 100) == 15  # no more are wanted
