"""When the prefix of a NAT64 is looked for, and what is made of the answers."""

from __future__ import annotations

import asyncio
import functools
import socket
import threading
from collections.abc import Callable
from ipaddress import IPv6Network
from types import SimpleNamespace
from typing import Any

import pytest

from firezone.nat64 import Prefix
from firezone.shell import nat64
from firezone.shell.nat64 import MAX_LOOKUPS, NoAnswerError, PrefixDiscovery, find_prefix, lookup

ONE, OTHER = (Prefix(IPv6Network(f"2001:db8:{n}::/96")) for n in (1, 2))


class Bench:
    """A discovery whose resolvers answer what a test says, when it says so: `lookups` wait."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.changes: list[Prefix | None] = []
        self.lookups: list[Callable[[], None]] = []
        self.result: list[Prefix] | None = None
        monkeypatch.setattr(nat64.threading, "Thread", self._thread)
        self.discovery = PrefixDiscovery(self.changes.append, self._resolve)

    async def answer(self, *prefixes: Prefix, lookup: int = 0) -> None:
        self.result = [*prefixes]
        await self._run(lookup)

    async def no_answer(self) -> None:
        self.result = None
        await self._run(0)

    async def _run(self, lookup: int) -> None:
        self.lookups.pop(lookup)()
        await asyncio.sleep(0)

    def _resolve(self) -> list[Prefix]:
        if self.result is None:
            raise NoAnswerError
        return self.result

    def _thread(self, *, target: Any, args: Any, **_: Any) -> Any:
        run = functools.partial(target, *args)
        return SimpleNamespace(start=lambda: self.lookups.append(run))


def on_a_loop(test: Any) -> Any:
    def run(monkeypatch: pytest.MonkeyPatch) -> None:
        async def body() -> None:
            bench = Bench(monkeypatch)
            await test(bench)
            bench.discovery.close()

        asyncio.run(body())

    run.__name__ = test.__name__
    return run


@on_a_loop
async def test_nothing_is_asked_where_there_is_ipv4_or_nothing(bench):
    for families in ({4}, {4, 6}, ()):
        bench.discovery.handle_network(families)
    assert bench.lookups == bench.changes == []


@on_a_loop
async def test_the_prefix_is_told_and_taken_back_where_ipv4_comes_along(bench):
    bench.discovery.handle_network({6})
    await bench.answer(ONE)
    bench.discovery.handle_network({4, 6})
    assert bench.changes == [ONE, None]


@on_a_loop
async def test_what_the_resolvers_of_the_last_network_say_comes_too_late(bench):
    bench.discovery.handle_network({6})
    bench.discovery.handle_network({6})
    await bench.answer(ONE)
    assert bench.changes == []
    await bench.answer(OTHER)
    assert bench.changes == [OTHER]


@on_a_loop
async def test_of_several_the_one_in_use_stays(bench):
    bench.discovery.handle_network({6})
    await bench.answer(ONE, OTHER)
    for answer, changes in [
        ([OTHER, ONE], [ONE]),
        ([OTHER], [ONE, OTHER]),
        ([], [ONE, OTHER, None]),
    ]:
        bench.discovery._ask()
        await bench.answer(*answer)
        assert bench.changes == changes


@on_a_loop
async def test_no_answer_changes_nothing_and_is_asked_for_again_less_and_less_often(bench):
    bench.discovery.handle_network({6})
    await bench.answer(ONE)
    pauses = []
    for _ in range(8):
        bench.discovery._ask()
        now = asyncio.get_running_loop().time()
        await bench.no_answer()
        pauses.append(round(bench.discovery._timer.when() - now))
    assert pauses == [1, 2, 4, 8, 16, 32, 60, 60]
    assert bench.changes == [ONE]


@on_a_loop
async def test_resolvers_that_hang_hold_a_few_threads_only(bench):
    for _ in range(3 * MAX_LOOKUPS):
        bench.discovery.handle_network({6})
    assert len(bench.lookups) == MAX_LOOKUPS
    assert bench.discovery._timer is not None
    await bench.answer(ONE)
    bench.discovery._ask()
    assert len(bench.lookups) == MAX_LOOKUPS
    await bench.answer(ONE, lookup=-1)
    assert bench.changes == [ONE]


@pytest.mark.parametrize("code", [socket.EAI_NONAME, socket.EAI_NODATA])
def test_no_such_address_means_no_nat64(monkeypatch, code):
    monkeypatch.setattr(nat64.socket, "getaddrinfo", raising(socket.gaierror(code, "")))
    assert lookup() == []


@pytest.mark.parametrize("error", [socket.gaierror(socket.EAI_AGAIN, ""), OSError(24, "")])
def test_no_answer_means_nothing(monkeypatch, error):
    monkeypatch.setattr(nat64.socket, "getaddrinfo", raising(error))
    with pytest.raises(NoAnswerError):
        lookup()


def raising(error):
    def getaddrinfo(*_):
        raise error

    return getaddrinfo


def test_the_addresses_of_the_known_name_show_the_prefix(monkeypatch):
    def getaddrinfo(name, port, family, kind):
        assert (name, family) == ("ipv4only.arpa", socket.AF_INET6)
        texts = ("2001:db8:1::192.0.0.170", "2001:db8:1::192.0.0.171", "fe80::1%eth0")
        return [(family, kind, 17, "", (text, port, 0, 0)) for text in texts]

    monkeypatch.setattr(nat64.socket, "getaddrinfo", getaddrinfo)
    assert lookup() == [ONE]


def test_a_single_lookup_does_not_wait_for_ever():
    waiting = threading.Event()

    def silent():
        waiting.wait(10)
        return [ONE]

    assert find_prefix(5, lambda: [ONE, OTHER]) == ONE
    assert find_prefix(5, list) is None
    assert find_prefix(0.01, silent) is None
    waiting.set()


def test_a_single_lookup_without_answer():
    def refused():
        raise NoAnswerError

    assert find_prefix(5, refused) is None
