"""The `candidate` attribute of SDP, the form in which candidates are signalled (RFC 8839 5.1)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from ipaddress import ip_address

from firezone.errors import RemoteError
from firezone.model import Endpoint

_MAX_LENGTH = 1024
_FOUNDATION = re.compile(r"[A-Za-z0-9+/]{1,32}")
_UFRAG = re.compile(r"[A-Za-z0-9+/]{1,256}")
_NUMBER = re.compile(r"[0-9]{1,10}")


@dataclass(frozen=True, slots=True)
class Line:
    """The fields of one candidate line. `kind` is the word after `typ`."""

    foundation: str
    component: int
    priority: int
    address: Endpoint
    kind: str
    related: Endpoint | None
    ufrag: str | None


def format_line(line: Line) -> str:
    words = [
        f"candidate:{line.foundation}",
        str(line.component),
        "udp",
        str(line.priority),
        str(line.address.address),
        str(line.address.port),
        "typ",
        line.kind,
    ]
    if line.related is not None:
        words += ["raddr", str(line.related.address), "rport", str(line.related.port)]
    if line.ufrag is not None:
        words += ["ufrag", line.ufrag]
    return " ".join(words)


def parse(text: str, kinds: frozenset[str]) -> Line:
    """Read a candidate line of UDP. Unknown extensions are skipped. Raises RemoteError."""
    if len(text) > _MAX_LENGTH:
        raise RemoteError("candidate: line too long")
    words = text.removeprefix("a=").split()
    if len(words) < 8 or not words[0].startswith("candidate:") or words[6] != "typ":
        raise RemoteError("candidate: not a candidate line")
    if words[2].lower() != "udp":
        raise RemoteError("candidate: transport is not UDP")
    if words[7] not in kinds:
        raise RemoteError("candidate: unknown type")
    extensions = dict(zip(words[8::2], words[9::2], strict=False))
    return Line(
        foundation=_matching(_FOUNDATION, words[0].removeprefix("candidate:"), "foundation"),
        component=_number(words[1], "component", 256),
        priority=_number(words[3], "priority", 0xFFFFFFFF),
        address=_endpoint(words[4], words[5]),
        kind=words[7],
        related=_related(extensions),
        ufrag=_optional_ufrag(extensions.get("ufrag")),
    )


def _related(extensions: dict[str, str]) -> Endpoint | None:
    if "raddr" not in extensions or "rport" not in extensions:
        return None
    return _endpoint(extensions["raddr"], extensions["rport"])


def _optional_ufrag(text: str | None) -> str | None:
    return None if text is None else _matching(_UFRAG, text, "ufrag")


def _endpoint(host: str, port: str) -> Endpoint:
    try:
        address = ip_address(host)
    except ValueError:
        raise RemoteError("candidate: not an IP address") from None
    return Endpoint(address, _number(port, "port", 0xFFFF))


def _number(text: str, what: str, maximum: int) -> int:
    value = int(_matching(_NUMBER, text, what))
    if value > maximum:
        raise RemoteError(f"candidate: {what} out of range")
    return value


def _matching(pattern: re.Pattern[str], text: str, what: str) -> str:
    if pattern.fullmatch(text) is None:
        raise RemoteError(f"candidate: malformed {what}")
    return text
