"""What proves who somebody is, is compared in constant time: elsewhere `==` tells by how long it
takes how many bytes were right."""

from __future__ import annotations

import ast
import hmac
import random
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from firezone.durations import SECOND
from firezone.model import Endpoint
from firezone.noise import RateLimiter
from firezone.turn.relay_auth import NonceMint
from firezone.turn.relay_commands import FiveTuple

ROOT = Path(__file__).parents[2]
SECRET = re.compile(r"(^|_)(mac[12]?|integrity|digest|tag|password|secret|hash|token|psk)$")
HARMLESS = {("presence.py", "known != relay.stamp_secret")}
"""Told by a relay that the portal has let in, about itself."""


def name_of(node: ast.expr) -> str:
    match node:
        case ast.Call(func=function):
            return name_of(function)
        case ast.Attribute(attr=name) | ast.Name(id=name):
            return name
        case ast.Subscript(value=value):
            return name_of(value)
    return ""


def compares(source: str) -> Iterator[ast.Compare]:
    """Those of which an operand is a secret by its name."""
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Compare) or not isinstance(node.ops[0], ast.Eq | ast.NotEq):
            continue
        if any(SECRET.search(name_of(operand)) for operand in (node.left, *node.comparators)):
            yield node


def test_python_compares_no_secret_with_an_operator() -> None:
    found = {
        (path.name, ast.unparse(node))
        for path in (ROOT / "firezone").rglob("*.py")
        for node in compares(path.read_text())
    }
    assert found == HARMLESS


@pytest.mark.parametrize("source", ["mac == given", "a.password != b", "x(1) == hash(y)"])
def test_such_an_operator_is_found(source: str) -> None:
    assert [*compares(source)]


def test_compiled_code_compares_macs_in_constant_time() -> None:
    sources = [*(ROOT / "ext").glob("*.pyx"), *(ROOT / "ext" / "c").glob("*.[ch]")]
    text = {path.name: path.read_text() for path in sources}
    leaks = [
        n for n, t in text.items() if re.search(r"memcmp\([^;\n]*\b(mac1?|tag|integrity)\b", t)
    ]
    assert leaks == []
    body = text["stun.pyx"].partition("def verify_integrity(")[2].partition("\ndef ")[0]
    assert "equal_constant_time(mac," in body
    assert text["demux.pyx"].count("equal_constant_time(mac") == 2


def test_nonces_and_macs_of_handshakes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that Python judges. A wrong one is compared to its end as well as a right one."""
    compared: list[tuple[int, bool]] = []
    compare = hmac.compare_digest

    def spy(a: bytes, b: bytes) -> bool:
        equal = compare(a, b)
        compared.append((len(a), equal))
        return equal

    monkeypatch.setattr(hmac, "compare_digest", spy)
    monkeypatch.setattr("firezone.noise.cookie.compare_digest", spy)
    client = FiveTuple(Endpoint.of("192.0.2.1", 4000), Endpoint.of("192.0.2.2", 3478))
    mint = NonceMint(random.Random(1).randbytes)
    nonce = mint.issue(client, SECOND)
    assert mint.accepts(nonce, client, SECOND)
    wrong = nonce[:-1] + ("A" if nonce[-1] != "A" else "B")
    assert not mint.accepts(wrong, client, SECOND)
    assert compared == [(16, True), (16, False)]
    limiter = RateLimiter(bytes(32), random.Random(2).randbytes, now=0)
    limiter.verify(b"\x01\0\0\0" + bytes(144), client.client, 0)
    assert compared[2:] == [(16, False)]
