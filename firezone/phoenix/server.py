"""The portal's side of one channel: answer joins and heartbeats, hand on the rest.

A peer joins one topic, its role's, and may leave nothing out of a message: topic, event, payload
and ref. A message to a topic that was not joined is answered with the error "unmatched topic", on
which the peer joins again. The portal decides what a join or a request means; it answers through
`accept_join`, `ok` and `refuse` and speaks first through `push`.
"""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass

from firezone.phoenix.frames import (
    PHOENIX_TOPIC,
    Frame,
    MalformedFrame,
    decode,
    encode,
    error_reply,
    ok_reply,
)


@dataclass(frozen=True, slots=True)
class JoinRequested:
    """Answer with `accept_join(frame)` or `refuse(frame, reason)`."""

    frame: Frame


@dataclass(frozen=True, slots=True)
class Requested:
    """A message on the joined topic."""

    frame: Frame


ServerEvent = JoinRequested | Requested


class ServerChannel:
    """One connected peer whose role has `topic`."""

    def __init__(self, topic: str) -> None:
        self.counters: Counter[str] = Counter()
        self.joined = False
        self._topic = topic
        self._texts: deque[str] = deque()

    def handle_text(self, text: str | bytes) -> ServerEvent | None:
        """A text frame arrived: what the portal must see to, if anything."""
        try:
            frame = decode(text)
        except MalformedFrame:
            self.counters["malformed_frame"] += 1
            return None
        if frame.ref is None:
            self.counters["no_ref"] += 1
            return None
        return self._dispatch(frame)

    def accept_join(self, frame: Frame) -> None:
        """Answer the join; pushes may follow."""
        self.joined = True
        self.ok(frame)

    def ok(self, frame: Frame) -> None:
        """Answer with success."""
        self._texts.append(encode(ok_reply(frame)))

    def refuse(self, frame: Frame, reason: str) -> None:
        """Answer with an error."""
        self._texts.append(encode(error_reply(frame, reason)))

    def push(self, event: str, payload: object) -> None:
        """Say something of our own accord; nothing before the join was answered."""
        if self.joined:
            self._texts.append(encode(Frame(self._topic, event, payload)))

    def poll_text(self) -> str | None:
        """The next text frame to send."""
        return self._texts.popleft() if self._texts else None

    def _dispatch(self, frame: Frame) -> ServerEvent | None:
        match (frame.topic, frame.event):
            case (topic, "heartbeat") if topic == PHOENIX_TOPIC:
                self.ok(frame)
            case (topic, "phx_join") if topic == self._topic:
                return JoinRequested(frame)
            case (topic, "phx_leave") if topic == self._topic and self.joined:
                self.joined = False
                self.ok(frame)
            case (topic, _) if topic == self._topic and self.joined:
                return Requested(frame)
            case _:
                self.refuse(frame, "unmatched topic")
        return None
