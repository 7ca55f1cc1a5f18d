"""Log lines of both forms, their levels, and what must never be in them."""

from __future__ import annotations

import io
import json
import logging
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from firezone.errors import ConfigurationError
from firezone.model import Endpoint
from firezone.shell import logs


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    root = logging.getLogger()
    before = root.level, root.handlers[:]
    yield
    root.handlers[:] = before[1]
    root.setLevel(before[0])
    for name in ("firezone.ice", "firezone.turn"):
        logging.getLogger(name).setLevel(logging.NOTSET)


def test_json_lines_carry_the_fields() -> None:
    stream = io.StringIO()
    logs.setup("json", "info", stream)
    relay = Endpoint.of("2001:db8::1", 3478)
    logging.getLogger("firezone.x").info("up in %d ms", 3, extra={"event": "ready", "relay": relay})
    line = json.loads(stream.getvalue())
    assert line.pop("time").endswith("Z")
    assert line == {
        "level": "INFO",
        "target": "firezone.x",
        "message": "up in 3 ms",
        "event": "ready",
        "relay": "[2001:db8::1]:3478",
    }


def test_human_lines() -> None:
    stream = io.StringIO()
    logs.setup("human", "info", stream)
    logging.getLogger("firezone.x").warning("late", extra={"elapsed_ms": 12})
    time, rest = stream.getvalue().split(" ", 1)
    assert len(time) == len("2026-01-02T03:04:05.678Z")
    assert rest == " WARN firezone.x: late elapsed_ms=12\n"


@pytest.mark.parametrize("form", ["human", "json"])
def test_a_record_is_one_line_whatever_it_says(form: logs.Format) -> None:
    stream = io.StringIO()
    logs.setup(form, "info", stream)
    logging.getLogger("x").info("a\nb\x1b[2J", extra={"name_of_peer": "c\r\nd"})
    assert stream.getvalue().count("\n") == 1
    assert "\x1b" not in stream.getvalue()


@pytest.mark.parametrize("form", ["human", "json"])
def test_bytes_are_never_shown(form: logs.Format) -> None:
    stream = io.StringIO()
    logs.setup(form, "info", stream)
    extra = {"key": b"secret", "nested": [bytearray(b"secret")]}
    logging.getLogger("x").info("hello", extra=extra)
    if form == "json":
        assert "secret" not in stream.getvalue()
    assert "<6 bytes>" in stream.getvalue()


def test_a_field_cannot_replace_what_every_line_has() -> None:
    stream = io.StringIO()
    logs.setup("json", "info", stream)
    logging.getLogger("x").info("hello", extra={"level": "forged", "time": 1})
    line = json.loads(stream.getvalue())
    assert (line["level"], line["level_"], line["time_"]) == ("INFO", "forged", 1)


def test_exceptions_come_with_their_trace() -> None:
    stream = io.StringIO()
    logs.setup("json", "info", stream)
    try:
        raise ValueError("boom")
    except ValueError:
        logging.getLogger("x").exception("failed")
    line = json.loads(stream.getvalue())
    assert line["exception"].endswith("ValueError: boom\n")


def test_levels_by_logger() -> None:
    stream = io.StringIO()
    logs.setup("human", "warn,firezone.ice=debug,firezone::turn=off", stream)
    logging.getLogger("firezone.ice.agent").debug("one")
    logging.getLogger("firezone.turn.allocation").error("two")
    logging.getLogger("firezone.node").info("three")
    logging.getLogger("firezone.node").warning("four")
    assert [line.rsplit(" ", 1)[1] for line in stream.getvalue().splitlines()] == ["one", "four"]


def test_a_new_setup_forgets_the_old_levels() -> None:
    logs.setup("human", "info,firezone.ice=debug", io.StringIO())
    logs.setup("human", "info", io.StringIO())
    assert not logging.getLogger("firezone.ice").isEnabledFor(logging.DEBUG)


@pytest.mark.parametrize(
    ("variables", "enabled"),
    [
        ({}, logging.INFO),
        ({"RUST_LOG": "debug"}, logging.DEBUG),
        ({"RUST_LOG": "debug", "FIREZONE_LOG": "error"}, logging.ERROR),
        ({"FIREZONE_LOG": "trace"}, logs.TRACE),
    ],
)
def test_the_level_comes_from_the_environment(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], enabled: int
) -> None:
    for name in ("FIREZONE_LOG", "RUST_LOG"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    logs.setup("human", None, io.StringIO())
    assert logging.getLogger().level == enabled


def test_a_wrong_level_names_its_source(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FIREZONE_LOG", "loud")
    with pytest.raises(ConfigurationError, match=r"FIREZONE_LOG.*'loud'"):
        logs.setup()


def test_syslog(tmp_path: Path) -> None:
    path = tmp_path / "log"
    handler = logs.syslog_handler(path)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as daemon:
        daemon.bind(str(path))
        logs.setup("human", "info")
        logs.move(handler, "human")
        logging.getLogger("firezone.x").debug("too much")
        logging.getLogger("firezone.x").error("it broke", extra={"port": 7})
        line = daemon.recv(4096)
    # daemon is facility 3, an error severity 3 (RFC 5424 section 6.2.1)
    assert line.startswith(b"<27>firezone[%d]: " % os.getpid())
    assert b"firezone.x: it broke port=7" in line
    handler.close()
