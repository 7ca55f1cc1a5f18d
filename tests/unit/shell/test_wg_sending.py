"""One line when packets cannot be sent, and one when they are again."""

import errno
import os

import pytest

from firezone.durations import SECOND
from firezone.model import Endpoint
from firezone.shell.wg_sending import QUIET, SendFailures, why_unreachable


def test_one_line_each_however_long_it_lasts(caplog: pytest.LogCaptureFixture):
    caplog.set_level("INFO")
    watch = SendFailures(lambda: "the network is down")
    now = 0
    assert not watch.look(0, 5, now)
    for failed in range(1, 100):
        now += 5 * SECOND
        assert watch.look(failed, 5, now)
        assert watch.look(failed, 5, now + SECOND)
    (record,) = caplog.records
    assert record.levelname == "WARNING" and record.reason == "the network is down"
    assert not watch.look(99, 5, now + QUIET), "nothing was sent, and there is nothing to wait for"
    assert len(caplog.records) == 1
    assert not watch.look(99, 6, now + 2 * QUIET)
    assert [each.levelname for each in caplog.records] == ["WARNING", "INFO"]
    assert watch.look(100, 6, now + 3 * QUIET)
    assert len(caplog.records) == 3


def test_one_of_many_peers_that_fails_is_no_flood(caplog: pytest.LogCaptureFixture):
    caplog.set_level("INFO")
    watch = SendFailures(lambda: "")
    for second in range(200):
        watch.look(1 + second // 25, second, second * SECOND)
    assert len(caplog.records) == 1


def test_fresh_counters_are_no_failure(caplog: pytest.LogCaptureFixture):
    watch = SendFailures(lambda: "")
    watch.look(7, 0, 0)
    caplog.clear()
    assert watch.look(0, 0, SECOND)
    assert watch.look(1, 0, 2 * SECOND)
    assert not caplog.records


def test_the_reason():
    there = Endpoint.parse("127.0.0.1:9")
    nowhere = Endpoint.parse("255.255.255.255:9")  # takes SO_BROADCAST, which we never ask for
    assert why_unreachable([there], 0) is None
    assert why_unreachable([there, nowhere], 0) == f"{nowhere}: {os.strerror(errno.EACCES)}"
