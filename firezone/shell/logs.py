"""Logging of the programs: lines for people, or one JSON object a line for machines.

Fields are passed the standard way, `logger.info("listening", extra={"event": "ready", "port": 1})`,
and come out as keys of the JSON object next to `time`, `level`, `target` and `message`. Addresses,
ids and numbers are fine as fields; keys, tokens and packets are not, and bytes are never printed.
"""

from __future__ import annotations

import logging
import os
import sys
import traceback
from datetime import UTC, datetime
from logging.handlers import SysLogHandler
from pathlib import Path
from typing import IO, Any, Literal

import msgspec

from firezone.errors import ConfigurationError

Format = Literal["human", "json"]

ENVIRONMENT = "FIREZONE_LOG"
TRACE = 5
SYSLOG = Path("/dev/log")


def setup(
    format: Format = "human", level: str | None = None, stream: IO[str] | None = None
) -> None:
    """Send all logging to `stream` (default stderr), replacing what was set up before.

    `level` is a comma-separated list such as `info` or `warn,firezone.ice=debug`; None reads it
    from $FIREZONE_LOG, then $RUST_LOG, then takes `info`. Raises ConfigurationError if it is wrong.
    """
    text, source = _directives(level)
    levels = _parse(text, source)
    target = stream if stream is not None else sys.stderr
    handler = logging.StreamHandler(target)
    handler.setFormatter(JsonFormatter() if format == "json" else HumanFormatter(_colour(target)))
    logging.basicConfig(handlers=[handler], level=levels.pop("", logging.INFO), force=True)
    for name in list(_previous):
        logging.getLogger(name).setLevel(logging.NOTSET)
    _previous.clear()
    for name, wanted in {**_QUIET, **levels}.items():
        logging.getLogger(name).setLevel(wanted)
        _previous.add(name)


def move(handler: logging.Handler, format: Format) -> None:
    """Send all logging through `handler` from now on, at the levels of before."""
    handler.setFormatter(JsonFormatter() if format == "json" else HumanFormatter())
    root = logging.getLogger()
    for old in root.handlers[:]:
        root.removeHandler(old)
    root.addHandler(handler)


def syslog_handler(path: Path = SYSLOG) -> logging.Handler:
    """One that tells the daemon of this host, also one that comes later."""
    handler = SysLogHandler(str(path), SysLogHandler.LOG_DAEMON)
    handler.ident = f"firezone[{os.getpid()}]: "
    return handler


class JsonFormatter(logging.Formatter):
    """One JSON object: time (RFC 3339, UTC), level, target, message, then the record's fields."""

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": _time(record),
            "level": _level_name(record),
            "target": record.name,
            "message": record.getMessage(),
        }
        for name, value in fields(record).items():
            line[f"{name}_" if name in line else name] = value
        if record.exc_info:
            line["exception"] = "".join(traceback.format_exception(*record.exc_info))
        return msgspec.json.encode(line, enc_hook=_plain).decode()


class HumanFormatter(logging.Formatter):
    """`2026-01-02T03:04:05.678Z  INFO target: message key=value`."""

    def __init__(self, colour: bool = False) -> None:
        super().__init__()
        self._colour = colour

    def format(self, record: logging.LogRecord) -> str:
        level = f"{_level_name(record):>5}"
        if self._colour and record.levelno >= logging.WARNING:
            level = f"\x1b[{31 if record.levelno >= logging.ERROR else 33}m{level}\x1b[0m"
        pairs = "".join(f" {k}={_one_line(v)}" for k, v in fields(record).items())
        line = f"{_time(record)} {level} {record.name}: {_one_line(record.getMessage())}{pairs}"
        if record.exc_info:
            line += "\n" + "".join(traceback.format_exception(*record.exc_info)).rstrip()
        return line


def fields(record: logging.LogRecord) -> dict[str, Any]:
    """What the caller passed as `extra`, fit for JSON."""
    return {
        name: _value(value)
        for name, value in record.__dict__.items()
        if name not in _STANDARD and not name.startswith("_")
    }


_STANDARD = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "taskName"}
_QUIET = {"asyncio": logging.WARNING, "websockets": logging.WARNING}
_LEVELS = {
    "off": logging.CRITICAL + 10,
    "error": logging.ERROR,
    "warn": logging.WARNING,
    "warning": logging.WARNING,
    "info": logging.INFO,
    "debug": logging.DEBUG,
    "trace": TRACE,
}
_NAMES = {logging.WARNING: "WARN", logging.CRITICAL: "ERROR", TRACE: "TRACE"}
_previous: set[str] = set()


def _directives(level: str | None) -> tuple[str, str]:
    if level is not None:
        return level, "--log-level"
    for variable in (ENVIRONMENT, "RUST_LOG"):
        if text := os.environ.get(variable):
            return text, variable
    return "info", "default"


def _parse(text: str, source: str) -> dict[str, int]:
    """Logger name -> level; the name "" is the rest."""
    levels: dict[str, int] = {}
    for directive in filter(None, (part.strip() for part in text.split(","))):
        name, _, wanted = directive.rpartition("=")
        if wanted.lower() not in _LEVELS:
            raise ConfigurationError(
                "log level",
                source,
                f"{wanted!r} is none",
                f"use one of {', '.join(_LEVELS)}, or logger=level, joined by commas",
            )
        levels[name.replace("::", ".")] = _LEVELS[wanted.lower()]
    return levels


def _colour(stream: IO[str]) -> bool:
    return stream.isatty() and "NO_COLOR" not in os.environ


def _time(record: logging.LogRecord) -> str:
    at = datetime.fromtimestamp(record.created, UTC)
    return f"{at:%Y-%m-%dT%H:%M:%S}.{at.microsecond // 1000:03d}Z"


def _value(value: object) -> Any:
    if isinstance(value, bytes | bytearray | memoryview):
        return f"<{len(value)} bytes>"
    if value is None or isinstance(value, bool | int | float | str | list | tuple | dict):
        return value
    return str(value)


def _plain(value: object) -> Any:
    """What JSON has no form for, inside a list or dict."""
    return str(_value(value))


def _level_name(record: logging.LogRecord) -> str:
    """The short names. Logging's own table is the process's, not ours to change."""
    return _NAMES.get(record.levelno, record.levelname)


def _one_line(value: object) -> str:
    """Text from peers must not forge lines of their own or drive the terminal."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in str(value))
