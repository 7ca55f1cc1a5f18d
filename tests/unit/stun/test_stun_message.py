"""Messages and attributes: both ways, the rules of order, what is malformed."""

import struct

import pytest

from firezone import stun
from firezone._ext.stun import message_integrity
from firezone.errors import LocalError, RemoteError
from firezone.model import Endpoint
from firezone.stun import Class, DecodeError, Message, Method

TID = bytes(range(12))
KEY = b"key"

V4 = Endpoint.parse("192.0.2.1:50000")
V6 = Endpoint.parse("[2001:db8::1]:443")


def request(method: int = Method.BINDING) -> Message:
    return Message.request(method, lambda size: TID[:size])


def raw_message(*attributes: tuple[int, bytes], type_: int = 1) -> bytes:
    body = b"".join(
        struct.pack(">HH", code, len(value)) + value + bytes(-len(value) % 4)
        for code, value in attributes
    )
    return struct.pack(">HHI", type_, len(body), 0x2112A442) + TID + body


VALUES = [
    (stun.MAPPED_ADDRESS, V4),
    (stun.MAPPED_ADDRESS, V6),
    (stun.XOR_MAPPED_ADDRESS, V4),
    (stun.XOR_MAPPED_ADDRESS, V6),
    (stun.XOR_PEER_ADDRESS, V6),
    (stun.XOR_RELAYED_ADDRESS, V4),
    (stun.ALTERNATE_SERVER, V6),
    (stun.USERNAME, "1685984278:uvdgKvS9GXYZ_vmv"),
    (stun.REALM, "firezone"),
    (stun.NONCE, "é" * 127),
    (stun.SOFTWARE, ""),
    (stun.ERROR_CODE, stun.ErrorCode(438, "Stale Nonce")),
    (stun.UNKNOWN_ATTRIBUTES, (0x0001, 0x7FFF, 0x0024)),
    (stun.LIFETIME, 3600),
    (stun.CHANNEL_NUMBER, 0x4FFF),
    (stun.REQUESTED_TRANSPORT, 17),
    (stun.REQUESTED_ADDRESS_FAMILY, 4),
    (stun.ADDITIONAL_ADDRESS_FAMILY, 6),
    (stun.ADDRESS_ERROR_CODE, stun.AddressError(6, stun.ErrorCode(440))),
    (stun.EVEN_PORT, True),
    (stun.EVEN_PORT, False),
    (stun.DONT_FRAGMENT, True),
    (stun.RESERVATION_TOKEN, b"12345678"),
    (stun.DATA, b"payload"),
    (stun.PRIORITY, 0x6E0001FF),
    (stun.USE_CANDIDATE, True),
    (stun.ICE_CONTROLLED, 2**64 - 1),
    (stun.ICE_CONTROLLING, 0),
]


@pytest.mark.parametrize(("attribute", "value"), VALUES)
def test_each_attribute_survives_the_wire(attribute: stun.Attribute, value: object) -> None:
    raw = request().with_(attribute, value).encode(KEY, fingerprint=True)

    message = stun.decode(raw)

    assert len(raw) % 4 == 0
    assert message.get(attribute) == value
    assert message.malformed is None and message.unknown == ()
    assert message.verify_integrity(KEY) and message.verify_fingerprint()


def test_classes_and_methods_survive_the_wire() -> None:
    for class_ in Class:
        for method in (*Method, 0x000, 0x00B, 0x07F, 0x0FF):
            message = stun.decode(Message(class_, method, TID).encode())
            assert (message.class_, message.method) == (class_, method)


@pytest.mark.parametrize(
    ("class_", "method", "type_"),
    [  # RFC 8489 section 5, RFC 8656 section 17
        (Class.REQUEST, Method.BINDING, 0x0001),
        (Class.SUCCESS, Method.BINDING, 0x0101),
        (Class.ERROR, Method.BINDING, 0x0111),
        (Class.INDICATION, Method.SEND, 0x0016),
        (Class.ERROR, Method.CHANNEL_BIND, 0x0119),
    ],
)
def test_message_types(class_: Class, method: Method, type_: int) -> None:
    assert Message(class_, method, TID).encode()[:2] == type_.to_bytes(2)


def test_responses_belong_to_their_request() -> None:
    allocate = request(Method.ALLOCATE)

    success, error = allocate.success(), allocate.error(437)

    assert (success.class_, success.method) == (Class.SUCCESS, Method.ALLOCATE)
    assert success.transaction_id == error.transaction_id == TID
    assert error.get(stun.ERROR_CODE) == stun.ErrorCode(437, "Allocation Mismatch")
    assert allocate.error(699).get(stun.ERROR_CODE) == stun.ErrorCode(699, "")
    assert Message.indication(Method.SEND, lambda size: TID).class_ is Class.INDICATION


def test_repeatable_attributes_keep_all_values_others_the_first() -> None:
    raw = (
        request()
        .with_(stun.XOR_RELAYED_ADDRESS, V4)
        .with_(stun.REALM, "first")
        .with_(stun.XOR_RELAYED_ADDRESS, V6)
        .with_(stun.REALM, "second")
        .encode()
    )

    message = stun.decode(raw)

    assert message.get_all(stun.XOR_RELAYED_ADDRESS) == (V4, V6)
    assert message.get(stun.XOR_RELAYED_ADDRESS) == V4
    assert message.get_all(stun.REALM) == ("first",)


def test_attributes_after_integrity_are_ignored_but_for_the_fingerprint() -> None:
    """The original honours them though nothing covers them."""
    signed = request().with_(stun.REALM, "covered").encode(KEY)
    injected = stun.decode(_append(signed, (0x000D, bytes(4)), (0x0003, b""), (0x0024, b"x")))

    assert injected.verify_integrity(KEY)
    assert injected.get(stun.LIFETIME) is None
    assert injected.unknown == () and injected.malformed is None
    assert stun.decode(request().encode(KEY, fingerprint=True)).has_fingerprint


def test_integrity_after_the_fingerprint_does_not_count() -> None:
    unsigned = request().encode(fingerprint=True)

    message = stun.decode(_append(unsigned, (0x0008, bytes(20))))

    assert not message.has_integrity
    assert not message.verify_integrity(KEY)


def test_a_second_integrity_does_not_replace_the_first() -> None:
    signed = request().encode(KEY)

    assert stun.decode(_append(signed, (0x0008, bytes(20)))).verify_integrity(KEY)


def test_integrity_covers_padding_and_reserved_bits_as_they_were_sent() -> None:
    """The original checks a re-encoded message and so refuses these."""
    unsigned = raw_message((0x0019, b"\x11\x01\x02\x03"), (0x0022, b"8 bytes!"))
    digest = message_integrity(unsigned, KEY)

    message = stun.decode(_append(unsigned, (0x0008, digest)))

    assert message.get(stun.REQUESTED_TRANSPORT) == 17
    assert message.verify_integrity(KEY)


@pytest.mark.parametrize(
    ("code", "value"),
    [
        (0x0006, b"\xff\xfe"),  # not UTF-8
        (0x0006, b"a\x80b"),
        (0x0006, b"x" * 513),
        (0x0014, b"x" * 128),
        (0x0015, b"x" * 128),
        (0x8022, b"x" * 128),
        (0x0008, bytes(19)),
        (0x0009, b"\0\0\x07\x00"),
        (0x0009, b"\0\0\x04\x64"),
        (0x0009, b"\0\0\x04"),
        (0x000A, b"\0"),
        (0x000C, b"\x40\x00"),
        (0x000D, bytes(5)),
        (0x0012, b"\0\x03" + bytes(6)),
        (0x0012, b"\0\x01" + bytes(18)),
        (0x0016, b""),
        (0x0017, b"\x03\0\0\0"),
        (0x0018, b""),
        (0x0019, b"\x11"),
        (0x001A, b"\0"),
        (0x0022, bytes(7)),
        (0x0024, bytes(3)),
        (0x0025, bytes(4)),
        (0x802A, bytes(4)),
        (0x8028, bytes(3)),
        (0x8000, b"\x02"),
    ],
)
def test_malformed_values_are_named_and_keep_the_transaction(code: int, value: bytes) -> None:
    message = stun.decode(raw_message((code, value), (0x8022, b"software")))

    assert message.malformed == code
    assert message.transaction_id == TID
    assert all(attribute.code != code for attribute, _ in message.attributes)


def test_unknown_attributes_are_listed_if_they_had_to_be_understood() -> None:
    message = stun.decode(
        raw_message((0x0003, b""), (0x8001 + 0x100, b"x"), (0x7FFF, b"abc"), (0x0003, b""))
    )

    assert message.unknown == (0x0003, 0x7FFF)


def test_unknown_attributes_do_not_pile_up() -> None:
    message = stun.decode(raw_message(*((0x3000 + i, b"") for i in range(1000))))

    assert len(message.unknown) == 32


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (b"", "too_short"),
        (request().encode()[:19], "too_short"),
        (b"\x04" + request().encode()[1:], "not_stun"),
        (request().encode()[:4] + b"\x21\x12\xa4\x43" + TID, "wrong_cookie"),
        (request().encode() + bytes(4), "wrong_length"),
        (raw_message((0x8022, b"abcd"))[:-4], "wrong_length"),
        (b"\0\x01\0\x02\x21\x12\xa4\x42" + TID + b"ab", "wrong_length"),
        (b"\0\x01\0\x04\x21\x12\xa4\x42" + TID + b"\x80\x22\0\x01", "attribute_overruns"),
    ],
)
def test_what_is_not_stun(raw: bytes, reason: str) -> None:
    with pytest.raises(DecodeError) as caught:
        stun.decode(raw)

    assert caught.value.reason == reason
    assert isinstance(caught.value, RemoteError)
    assert stun.looks_like_stun(raw) is (reason == "attribute_overruns")


def test_v4_mapped_addresses_are_seen_as_ipv4() -> None:
    mapped = b"\0\x02\x00\x50" + bytes(10) + b"\xff\xff\x7f\0\0\x01"

    message = stun.decode(raw_message((0x0001, mapped)))

    assert message.get(stun.MAPPED_ADDRESS) == Endpoint.parse("127.0.0.1:80")


@pytest.mark.parametrize(
    ("attribute", "value"),
    [
        (stun.USERNAME, "x" * 513),
        (stun.REALM, "\ud800"),
        (stun.CHANNEL_NUMBER, 0x10000),
        (stun.LIFETIME, -1),
        (stun.REQUESTED_ADDRESS_FAMILY, 5),
        (stun.ERROR_CODE, stun.ErrorCode(700)),
        (stun.RESERVATION_TOKEN, b"short"),
        (stun.USE_CANDIDATE, False),
        (stun.DATA, bytes(0x10000)),
    ],
)
def test_our_own_values_must_fit(attribute: stun.Attribute, value: object) -> None:
    with pytest.raises(LocalError, match=attribute.name):
        request().with_(attribute, value).encode()


def test_our_own_messages_must_fit() -> None:
    with pytest.raises(LocalError):
        request().with_(stun.DATA, bytes(0xFFFC)).encode(KEY)


def test_a_message_shows_no_values() -> None:
    message = request().with_(stun.USERNAME, "someone").with_(stun.DATA, b"content")

    assert "someone" not in repr(message) and "content" not in repr(message)


def _append(raw: bytes, *attributes: tuple[int, bytes]) -> bytes:
    more = raw_message(*attributes)[20:]
    return raw[:2] + (len(raw) - 20 + len(more)).to_bytes(2) + raw[4:] + more
