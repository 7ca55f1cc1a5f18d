"""Messages from RFC 5769 and one as a Firezone client sends it."""

import json
from pathlib import Path

import pytest

from firezone import stun
from firezone.model import Endpoint

VECTORS = json.loads((Path(__file__).parents[2] / "vectors" / "stun.json").read_text())


def message_of(name: str) -> tuple[bytes, stun.Message]:
    raw = bytes.fromhex(VECTORS[name]["message"])
    return raw, stun.decode(raw)


def key_of(name: str) -> bytes:
    vector = VECTORS[name]
    if "realm" in vector:
        return stun.long_term_key(vector["username"], vector["realm"], vector["password"])
    return stun.short_term_key(vector["password"])


@pytest.mark.parametrize("name", VECTORS)
def test_integrity_holds_under_the_right_key_only(name: str) -> None:
    _, message = message_of(name)

    assert message.malformed is None and message.unknown == ()
    assert message.verify_integrity(key_of(name))
    assert not message.verify_integrity(b"another key")


@pytest.mark.parametrize("name", VECTORS)
def test_integrity_covers_every_byte_before_it(name: str) -> None:
    raw, original = message_of(name)
    covered = raw.index(bytes.fromhex("00080014"))

    for at in range(20, covered):
        changed = raw[:at] + bytes([raw[at] ^ 0x04]) + raw[at + 1 :]
        try:
            message = stun.decode(changed)
        except stun.DecodeError:
            continue
        assert not message.verify_integrity(key_of(name)), at
    assert original.has_integrity


@pytest.mark.parametrize("name", ["short_term_request", "ipv4_response", "ipv6_response"])
def test_fingerprints_hold(name: str) -> None:
    raw, message = message_of(name)

    assert message.has_fingerprint and message.verify_fingerprint()
    assert not stun.decode(raw[:-1] + bytes([raw[-1] ^ 1])).verify_fingerprint()


def test_values_of_the_short_term_request() -> None:
    _, message = message_of("short_term_request")

    assert (message.class_, message.method) == (stun.Class.REQUEST, stun.Method.BINDING)
    assert message.transaction_id == bytes.fromhex("b7e7a701bc34d686fa87dfae")
    assert message.get(stun.SOFTWARE) == "STUN test client"
    assert message.get(stun.PRIORITY) == 0x6E0001FF
    assert message.get(stun.ICE_CONTROLLED) == 0x932FF9B151263B36
    assert message.get(stun.USERNAME) == "evtj:h6vY"


@pytest.mark.parametrize(
    ("name", "mapped"),
    [
        ("ipv4_response", "192.0.2.1:32853"),
        ("ipv6_response", "[2001:db8:1234:5678:11:2233:4455:6677]:32853"),
    ],
)
def test_values_of_the_responses(name: str, mapped: str) -> None:
    _, message = message_of(name)

    assert (message.class_, message.method) == (stun.Class.SUCCESS, stun.Method.BINDING)
    assert message.get(stun.SOFTWARE) == "test vector"
    assert message.get(stun.XOR_MAPPED_ADDRESS) == Endpoint.parse(mapped)


def test_values_of_the_long_term_request() -> None:
    _, message = message_of("long_term_request")

    assert message.get(stun.USERNAME) == "マトリックス"
    assert message.get(stun.NONCE) == "f//499k954d6OL34oL9FSTvy64sA"
    assert message.get(stun.REALM) == "example.org"
    assert not message.has_fingerprint and not message.verify_fingerprint()


def test_allocate_is_encoded_byte_for_byte() -> None:
    raw, message = message_of("firezone_allocate")
    vector = VECTORS["firezone_allocate"]

    key = key_of("firezone_allocate")
    built = (
        stun.Message.request(stun.Method.ALLOCATE, lambda _: message.transaction_id)
        .with_(stun.REQUESTED_TRANSPORT, 17)
        .with_(stun.USERNAME, vector["username"])
        .with_(stun.REALM, "firezone")
        .with_(stun.NONCE, "00000000-0000-0000-0000-000000000000")
    )

    assert key.hex() == vector["key"]
    assert built.encode(integrity_key=key) == raw
    assert built == message
