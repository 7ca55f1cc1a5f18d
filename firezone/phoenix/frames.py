"""The envelope of every message: a text frame with one JSON object.

Keys are sent in the order topic, event, payload, ref. `ref` is a number; a reply repeats the one
it answers. There is no `vsn` in the URL, so the portal speaks the object form and not the array
form of its serializer. Four control events come before the messages of a topic: `phx_reply`,
`phx_error`, `phx_close` and `disconnect`.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import msgspec

from firezone.errors import RemoteError

PHOENIX_TOPIC = "phoenix"
"""Where heartbeats go."""


class MalformedFrame(RemoteError):
    """A text frame that is no envelope. `truncated`: it ends before the JSON does."""

    def __init__(self, problem: str, truncated: bool = False) -> None:
        super().__init__(problem)
        self.truncated = truncated


class ErrorReason(StrEnum):
    """Why a message was refused."""

    UNMATCHED_TOPIC = "unmatched topic"
    INVALID_VERSION = "invalid_version"
    DISABLED = "disabled"
    OTHER = "other"

    @classmethod
    def _missing_(cls, value: object) -> ErrorReason:
        return cls.OTHER


@dataclass(frozen=True, slots=True)
class Frame:
    """One message. `payload` is decoded JSON."""

    topic: str
    event: str
    payload: Any
    ref: int | None = None


@dataclass(frozen=True, slots=True)
class OkReply:
    """`plain`: the response is `{}`, as the answer to a join or heartbeat must be."""

    topic: str
    ref: int | None
    plain: bool


@dataclass(frozen=True, slots=True)
class ErrorReply:
    """`text` is the portal's word for the reason."""

    topic: str
    ref: int | None
    reason: ErrorReason
    text: str


@dataclass(frozen=True, slots=True)
class ChannelError:
    topic: str


@dataclass(frozen=True, slots=True)
class ChannelClosed:
    topic: str


@dataclass(frozen=True, slots=True)
class Disconnect:
    """The portal ends it: `token_expired`."""

    reason: str


Inbound = Frame | OkReply | ErrorReply | ChannelError | ChannelClosed | Disconnect


def encode(frame: Frame) -> str:
    """As a text frame."""
    envelope = {
        "topic": frame.topic,
        "event": frame.event,
        "payload": frame.payload,
        "ref": frame.ref,
    }
    return msgspec.json.encode(envelope).decode()


def decode(text: str | bytes) -> Frame:
    """A text frame as its envelope; unknown keys are ignored. Raises MalformedFrame."""
    try:
        envelope = msgspec.json.decode(text, type=_Envelope)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        truncated = "truncated" in str(error)
        raise MalformedFrame(_problem(error), truncated) from None
    return Frame(envelope.topic, envelope.event, envelope.payload, envelope.ref)


def classify(frame: Frame) -> Inbound:
    """Tell control events from a topic's own messages. Raises MalformedFrame."""
    match frame.event:
        case "phx_reply":
            return _reply(frame)
        case "phx_error":
            return ChannelError(frame.topic)
        case "phx_close":
            return ChannelClosed(frame.topic)
        case "disconnect":
            return Disconnect(_text(frame.payload, "reason"))
    return frame


def _reply(frame: Frame) -> OkReply | ErrorReply:
    match frame.payload:
        case {"status": "ok", "response": response}:
            return OkReply(frame.topic, frame.ref, response == {})
        case {"status": "error", "response": response}:
            text = _text(response, "reason")
            return ErrorReply(frame.topic, frame.ref, ErrorReason(text), text)
    raise MalformedFrame("a reply is neither ok nor error")


def _text(payload: object, key: str) -> str:
    match payload:
        case dict() if isinstance(payload.get(key), str):
            return str(payload[key])
    raise MalformedFrame(f"no {key}")


def _problem(error: Exception) -> str:
    """Without the offending text: a frame may hold secrets."""
    return "no UTF-8" if isinstance(error, UnicodeDecodeError) else str(error)


class _Envelope(msgspec.Struct):
    topic: str
    event: str
    payload: Any = None
    ref: int | None = None


def ok_reply(frame: Frame) -> Frame:
    """The portal's consent to a message. Nothing else may stand in the response."""
    return Frame(frame.topic, "phx_reply", {"status": "ok", "response": {}}, frame.ref)


def error_reply(frame: Frame, reason: str) -> Frame:
    """The portal's refusal of a message."""
    response = {"status": "error", "response": {"reason": reason}}
    return Frame(frame.topic, "phx_reply", response, frame.ref)
