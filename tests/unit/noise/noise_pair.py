"""Two tunnels, a data plane twin for each, a wire with latency, and a clock that jumps."""

from __future__ import annotations

import heapq
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import count

from firezone.commands import Activity, InstallKeypair, RemoveKeypair, SendKeepalive
from firezone.durations import MILLISECOND, SECOND
from firezone.noise import (
    MessageType,
    SessionEstablished,
    StaticKeypair,
    Tunnel,
    TunnelEvent,
    message_type,
)

START = 1000 * SECOND
UNIX_START = 1_754_266_828 * SECOND
LATENCY = 10 * MILLISECOND

INITIATION = MessageType.HANDSHAKE_INITIATION
RESPONSE = MessageType.HANDSHAKE_RESPONSE


@dataclass(frozen=True, slots=True)
class Data:
    """A transport message, "sealed" by naming its key."""

    receiver_index: int
    counter: int
    key: bytes
    payload: bytes


Message = bytes | Data


class Side:
    """A tunnel and a plain twin of what the session kernel does for it."""

    def __init__(self, name: str, tunnel: Tunnel) -> None:
        self.name = name
        self.tunnel = tunnel
        self.out: list[Message] = []
        self.events: list[TunnelEvent] = []
        self.received: list[bytes] = []
        self.waiting: list[bytes] = []
        self.keypairs: dict[int, InstallKeypair] = {}
        self.current: InstallKeypair | None = None
        self.activity = Activity()
        self.counters: dict[int, int] = {}

    @property
    def established(self) -> list[SessionEstablished]:
        return [event for event in self.events if isinstance(event, SessionEstablished)]

    def send(self, payload: bytes, now: int) -> None:
        """A packet of the application."""
        if not self._seal(payload, now):
            self.waiting.append(payload)
            self.tunnel.handle_unsent_data(now)
        self.drain(now)

    def receive(self, message: Message, now: int) -> None:
        if isinstance(message, bytes):
            self.tunnel.handle_handshake(message, now)
        else:
            self._open(message, now)
        self.drain(now)

    def handle_timeout(self, now: int) -> None:
        self.tunnel.handle_timeout(self.activity, now)
        self.drain(now)

    def drain(self, now: int) -> None:
        """Commands before transmits; then data that waited."""
        while (command := self.tunnel.poll_command()) is not None:
            match command:
                case InstallKeypair():
                    self._install(command)
                case RemoveKeypair():
                    self._remove(command)
                case SendKeepalive():
                    self._seal(b"", now)
        while (message := self.tunnel.poll_transmit()) is not None:
            self.out.append(message)
        while (event := self.tunnel.poll_event()) is not None:
            self.events.append(event)
        while self.waiting and self._seal(self.waiting[0], now):
            del self.waiting[0]

    def _install(self, keypair: InstallKeypair) -> None:
        self.keypairs[keypair.local_index % 8] = keypair
        self.counters[keypair.local_index] = 0
        if keypair.initiator:
            self._switch(keypair)

    def _remove(self, command: RemoveKeypair) -> None:
        del self.keypairs[command.local_index % 8]
        if self.current is not None and self.current.local_index == command.local_index:
            self.current = None

    def _switch(self, keypair: InstallKeypair) -> None:
        if self.current is None or keypair.created_at >= self.current.created_at:
            self.current = keypair
            self.activity = replace(self.activity, current_index=keypair.local_index)

    def _seal(self, payload: bytes, now: int) -> bool:
        keypair = self.current
        if keypair is None or now >= keypair.send_until:
            return False
        counter = self.counters[keypair.local_index]
        self.counters[keypair.local_index] += 1
        self.out.append(Data(keypair.remote_index, counter, keypair.send_key, payload))
        seen = self.activity
        if payload:
            unanswered = seen.unanswered_since
            since = unanswered if unanswered > seen.received_any else now
            seen = replace(seen, sent_data=now, unanswered_since=since)
        self.activity = replace(seen, sent_any=now, send_counter=counter + 1)
        return True

    def _open(self, message: Data, now: int) -> None:
        keypair = self.keypairs.get(message.receiver_index % 8)
        if keypair is None or keypair.local_index != message.receiver_index:
            return
        if now >= keypair.receive_until or message.key != keypair.receive_key:
            return
        seen = self.activity
        if message.payload:
            self.received.append(message.payload)
            unacknowledged = seen.unacknowledged_since
            since = unacknowledged if unacknowledged > seen.sent_any else now
            seen = replace(seen, received_data=now, unacknowledged_since=since)
        self.activity = replace(seen, received_any=now)
        if not keypair.initiator and self.current is not keypair:
            self._switch(keypair)
            self.tunnel.handle_session_confirmed(keypair.local_index, now)


class Pair:
    """`a` and `b` on one wire. `lost` decides which messages vanish."""

    def __init__(
        self,
        *,
        psk_a: bytes | None = b"p" * 32,
        psk_b: bytes | None = b"p" * 32,
        seed: int = 1,
        rekey_attempt_time: int = 20 * SECOND,
    ) -> None:
        self.now = START
        self.entropy = random.Random(seed).randbytes
        keys = [StaticKeypair.generate(self.entropy) for _ in range(2)]
        self.keys = keys
        self.a, self.b = (
            Side(
                "ab"[i],
                Tunnel(
                    slot=i + 1,
                    tunnel_id=0x0A0000 + i,
                    static=keys[i],
                    peer_public_key=keys[1 - i].public,
                    preshared_key=(psk_a, psk_b)[i],
                    entropy=self.entropy,
                    unix_now=UNIX_START,
                    now=START,
                    rekey_attempt_time=rekey_attempt_time,
                ),
            )
            for i in range(2)
        )
        self.lost: Callable[[Side, Message], bool] = lambda sender, message: False
        self.log: list[tuple[int, str, Message]] = []
        self._wire: list[tuple[int, int, Side, Message]] = []
        self._order = count()

    def peer_of(self, side: Side) -> Side:
        return self.b if side is self.a else self.a

    def flush(self) -> None:
        """Put what both sides have to say on the wire."""
        for side in (self.a, self.b):
            for message in side.out:
                self.log.append((self.now - START, side.name, message))
                if not self.lost(side, message):
                    arrival = (self.now + LATENCY, next(self._order), self.peer_of(side), message)
                    heapq.heappush(self._wire, arrival)
            side.out.clear()

    def send(self, side: Side, payload: bytes = b"data") -> None:
        side.send(payload, self.now)
        self.flush()

    def connect(self, initiator: Side | None = None) -> None:
        """A session, confirmed, with nothing left on the wire."""
        (initiator or self.a).tunnel.initiate(self.now)
        (initiator or self.a).drain(self.now)
        self.flush()
        self.run(4 * LATENCY)
        assert self.a.established and self.b.established
        self.log.clear()

    def run(self, duration: int) -> None:
        """Let time pass, jumping from one thing due to the next."""
        until = self.now + duration
        self.flush()
        for _ in range(20_000):
            due = [t for side in (self.a, self.b) if (t := self.deadline(side)) is not None]
            if self._wire:
                due.append(self._wire[0][0])
            self.now = max(self.now, min(due, default=until))
            if self.now >= until:
                self.now = until
                return
            while self._wire and self._wire[0][0] <= self.now:
                _, _, receiver, message = heapq.heappop(self._wire)
                receiver.receive(message, self.now)
            for side in (self.a, self.b):
                deadline = self.deadline(side)
                if deadline is not None and deadline <= self.now:
                    side.handle_timeout(self.now)
            self.flush()
        raise AssertionError("a timer spins")

    def deadline(self, side: Side) -> int | None:
        timeout = side.tunnel.poll_timeout(side.activity)
        return None if timeout is None else timeout.deadline

    def sent(self, kind: MessageType, by: Side | None = None) -> list[int]:
        """When messages of this type were sent, since the start."""
        return [
            at
            for at, name, message in self.log
            if kind_of(message) is kind and (by is None or by.name == name)
        ]

    def keepalives(self, by: Side) -> list[int]:
        return [
            at
            for at, name, message in self.log
            if isinstance(message, Data) and not message.payload and name == by.name
        ]

    def counters(self) -> Counter[str]:
        return self.a.tunnel.counters + self.b.tunnel.counters


def kind_of(message: Message) -> MessageType | None:
    return message_type(message) if isinstance(message, bytes) else MessageType.TRANSPORT_DATA
