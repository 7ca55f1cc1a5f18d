"""One peer of a WireGuard interface: its tunnel, where it is reached, and what waits for it.

Where it is reached follows its authenticated messages. A handshake message proves itself when it
leads to keys, so `settle` is told where the message that it follows came from.
"""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass, field

from firezone.commands import (
    Activity,
    AddPeer,
    Command,
    InstallKeypair,
    Path,
    SealPacket,
    SendKeepalive,
    SetPath,
)
from firezone.durations import SECOND
from firezone.model import Endpoint, Entropy, Timeout, Transmit, earliest
from firezone.noise import (
    Expired,
    MessageType,
    SessionEstablished,
    StaticKeypair,
    Tunnel,
    message_type,
)
from firezone.wireguard.settings import NO_KEY

REKEY_ATTEMPT_TIME = 90 * SECOND
"""The standard's, unlike the tunnels that a portal sets up."""

STAGED_PACKETS = 128
"""How many packets of a peer wait for a session; then the oldest goes."""

_RACE_WINDOW = 1 * SECOND
"""A packet that comes back this soon after a session was installed had only missed it."""


@dataclass(frozen=True, slots=True)
class Arrival:
    """Where a message came in."""

    local: Endpoint
    remote: Endpoint


@dataclass(slots=True)
class Outbox:
    """What an interface and its peers want done, in order."""

    commands: deque[Command] = field(default_factory=deque)
    transmits: deque[Transmit] = field(default_factory=deque)
    counters: Counter[str] = field(default_factory=Counter)


@dataclass(slots=True)
class Peer:
    """Slot and tunnel id are its own for as long as it exists, the tunnel while we have a key."""

    public_key: bytes
    slot: int
    tunnel_id: int
    outbox: Outbox = field(repr=False)
    preshared_key: bytes | None = field(default=None, repr=False)
    tunnel: Tunnel | None = None
    endpoint: Endpoint | None = None
    source: Endpoint | None = None
    """The local address that the peer reaches us at; None lets the host choose."""
    keepalive_interval: int = 0
    _keepalive_at: int = 0
    _session_at: int = 0
    _initiations: int = 0
    """Since the last one that was answered."""
    _staged: deque[bytes] = field(default_factory=lambda: deque(maxlen=STAGED_PACKETS), repr=False)

    def introduce(self) -> None:
        """Tell a data plane that does not know the peer."""
        self.outbox.commands.append(AddPeer(self.slot, self.tunnel_id))
        self._apply_path()

    def reset(
        self, static: StaticKeypair | None, entropy: Entropy, unix_now: int, now: int
    ) -> None:
        """Forget every session, and go on with this key of ours."""
        if self.tunnel is not None:
            self.tunnel.close()
            self.settle(now)
        self._staged.clear()
        self.tunnel = None
        if static is not None:
            self.tunnel = Tunnel(
                slot=self.slot,
                tunnel_id=self.tunnel_id,
                static=static,
                peer_public_key=self.public_key,
                preshared_key=self.preshared_key,
                entropy=entropy,
                unix_now=unix_now,
                now=now,
                rekey_attempt_time=REKEY_ATTEMPT_TIME,
                renew_idle=False,
            )

    def set_preshared_key(self, key: bytes) -> None:
        """Of the next handshake on; sessions stay, as with every other WireGuard."""
        self.preshared_key = None if key == NO_KEY else key
        if self.tunnel is not None:
            self.tunnel.set_preshared_key(self.preshared_key)

    def set_endpoint(self, endpoint: Endpoint) -> None:
        if endpoint != self.endpoint:
            self.endpoint, self.source = endpoint, None
            self._apply_path()

    def set_keepalive(self, interval: int, now: int) -> None:
        """Nanoseconds, 0 for none. One that begins is due at once."""
        if interval and not self.keepalive_interval:
            self._keepalive_at = now - interval
        self.keepalive_interval = interval

    def move(self, arrival: Arrival) -> None:
        """An authenticated message came in there."""
        source = None if arrival.local.address.is_unspecified else arrival.local
        if (self.endpoint, self.source) != (arrival.remote, source):
            self.endpoint, self.source = arrival.remote, source
            self._apply_path()

    def forget_source(self) -> None:
        """Let the host choose where to send from."""
        if self.source is not None:
            self.source = None
            self._apply_path()

    def stage(self, packet: bytes, now: int) -> None:
        """Keep a packet until there is a session, and see to one."""
        if self.tunnel is None:
            return
        if self.tunnel.has_session(now) and now - self._session_at < _RACE_WINDOW:
            self.outbox.commands.append(SealPacket(self.slot, packet))
            return
        self._staged.append(packet)
        self.tunnel.handle_unsent_data(now)

    def handle_timeout(self, activity: Activity, now: int) -> None:
        """Do what is due."""
        if self.tunnel is None:
            return
        self.tunnel.handle_timeout(activity, now)
        keepalive = self._keepalive_due(activity)
        if keepalive is None or keepalive.deadline > now:
            return
        self._keepalive_at = now
        if self.tunnel.has_session(now):
            self.outbox.commands.append(SendKeepalive(self.slot))
        elif self.endpoint is not None:
            self.tunnel.handle_unsent_data(now)

    def next_timeout(self, activity: Activity) -> Timeout | None:
        if self.tunnel is None:
            return None
        return earliest(self.tunnel.poll_timeout(activity), self._keepalive_due(activity))

    def settle(self, now: int, arrival: Arrival | None = None) -> None:
        """Let out all that the tunnel has to say."""
        if self.tunnel is None:
            return
        while (command := self.tunnel.poll_command()) is not None:
            if isinstance(command, InstallKeypair):
                self._initiations = 0
                if arrival is not None:  # only an authentic message leads to keys
                    self.move(arrival)
            self.outbox.commands.append(command)
        while (message := self.tunnel.poll_transmit()) is not None:
            self._send(message)
        while (event := self.tunnel.poll_event()) is not None:
            match event:
                case SessionEstablished():
                    self._session_at = now
                    self._release()
                case Expired():
                    self._initiations = 0
                    self._staged.clear()

    def _send(self, message: bytes) -> None:
        if self.endpoint is None:
            self.outbox.counters["handshake without an endpoint"] += 1
            return
        if message_type(message) is MessageType.HANDSHAKE_INITIATION:
            self._initiations += 1
            if self._initiations > 1:
                self.forget_source()
        self.outbox.transmits.append(Transmit(message, self.endpoint, self.source))

    def _release(self) -> None:
        while self._staged:
            self.outbox.commands.append(SealPacket(self.slot, self._staged.popleft()))

    def _apply_path(self) -> None:
        path = None if self.endpoint is None else Path(self.endpoint, self.source)
        self.outbox.commands.append(SetPath(self.slot, path))

    def _keepalive_due(self, activity: Activity) -> Timeout | None:
        if not self.keepalive_interval:
            return None
        last = max(activity.sent_any, activity.received_any, self._keepalive_at)
        return Timeout(last + self.keepalive_interval, "persistent keepalive")
