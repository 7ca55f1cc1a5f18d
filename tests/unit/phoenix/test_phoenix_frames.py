import contextlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from firezone.phoenix.frames import (
    ChannelClosed,
    ChannelError,
    Disconnect,
    ErrorReason,
    ErrorReply,
    Frame,
    MalformedFrame,
    OkReply,
    classify,
    decode,
    encode,
    error_reply,
    ok_reply,
)

OK = '{"event":"phx_reply","topic":"client","ref":0,"payload":{"status":"ok","response":{}}}'


def test_a_frame_has_its_keys_in_order_and_a_number_as_ref() -> None:
    assert (
        encode(Frame("client", "phx_join", None, 0))
        == '{"topic":"client","event":"phx_join","payload":null,"ref":0}'
    )
    assert (
        encode(Frame("phoenix", "heartbeat", {}, 7))
        == '{"topic":"phoenix","event":"heartbeat","payload":{},"ref":7}'
    )


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (OK, OkReply("client", 0, True)),
        (OK.replace("{}", '{"extra":1}'), OkReply("client", 0, False)),
        (OK.replace("{}", "null"), OkReply("client", 0, False)),
        (
            '{"event":"phx_close","topic":"client","ref":null,"payload":{}}',
            ChannelClosed("client"),
        ),
        ('{"event":"phx_error","topic":"client","ref":0,"payload":{}}', ChannelError("client")),
        (
            '{"event":"disconnect","topic":"client","payload":{"reason":"token_expired"}}',
            Disconnect("token_expired"),
        ),
        (
            '{"event":"init","topic":"client","join_ref":"1","payload":{"a":1}}',
            Frame("client", "init", {"a": 1}),
        ),
    ],
)
def test_control_events_come_before_a_topics_own(text: str, expected: object) -> None:
    assert classify(decode(text)) == expected


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("unmatched topic", ErrorReason.UNMATCHED_TOPIC),
        ("invalid_version", ErrorReason.INVALID_VERSION),
        ("disabled", ErrorReason.DISABLED),
        ("bad cheese", ErrorReason.OTHER),
    ],
)
def test_the_four_error_reasons(text: str, reason: ErrorReason) -> None:
    payload = {"status": "error", "response": {"reason": text, "more": [1]}}
    frame = Frame("client", "phx_reply", payload, 4)
    assert classify(frame) == ErrorReply("client", 4, reason, text)


@pytest.mark.parametrize(
    "text",
    [
        OK.replace('"ref":0', '"ref":"0"'),
        OK.replace('"topic":"client",', ""),
        OK.replace('"ok"', '"maybe"'),
        '{"event":"disconnect","topic":"client","payload":{}}',
        '{"event":"disconnect","topic":"client","payload":null}',
        '{"event":"phx_reply","topic":"client","ref":1,"payload":{"status":"error","response":{"reason":5}}}',
        "[]",
        "null",
        "[" * 100_000,
        b"\xff\xfe",
    ],
)
def test_what_fits_no_envelope_is_malformed(text: str | bytes) -> None:
    with pytest.raises(MalformedFrame):
        classify(decode(text))


def test_every_truncation_says_that_it_is_one() -> None:
    for length in range(len(OK)):
        with pytest.raises(MalformedFrame) as caught:
            decode(OK[:length])
        assert caught.value.truncated


@given(st.one_of(st.binary(max_size=80), st.text(max_size=80)))
def test_random_input_never_raises_anything_else(text: str | bytes) -> None:
    with contextlib.suppress(MalformedFrame):
        classify(decode(text))


@given(st.integers(0, len(OK) - 1), st.binary(min_size=1, max_size=3))
def test_mutated_frames_never_raise_anything_else(at: int, patch: bytes) -> None:
    raw = OK.encode()
    with contextlib.suppress(MalformedFrame):
        classify(decode(raw[:at] + patch + raw[at + len(patch) :]))


def test_replies_repeat_topic_and_ref() -> None:
    frame = Frame("client", "create_flow", {}, 9)
    assert json.loads(encode(ok_reply(frame)))["payload"] == {"status": "ok", "response": {}}
    assert classify(error_reply(frame, "disabled")) == ErrorReply(
        "client", 9, ErrorReason.DISABLED, "disabled"
    )
