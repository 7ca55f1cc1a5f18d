"""Who is connected, and what is still to be written to whom."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TypeVar

from firezone.phoenix.server import ServerChannel
from firezone.portal.admission import Admission, PeerAdmission, RelayAdmission
from firezone.portal.balance import Version
from firezone.portal.config import Resource, TokenKind


@dataclass(slots=True, eq=False)
class Session:
    """One WebSocket."""

    connection: int
    admission: Admission
    channel: ServerChannel

    @property
    def is_joined(self) -> bool:
        return self.channel.joined


@dataclass(slots=True, eq=False)
class PeerSession(Session):
    """A client or gateway. `relays` maps the relays it was told of to their stamp secrets."""

    admission: PeerAdmission
    relays: dict[str, str] = field(default_factory=dict, repr=False)

    @property
    def id(self) -> str:
        return self.admission.identity.id

    @property
    def version(self) -> Version:
        return self.admission.version


@dataclass(slots=True, eq=False)
class ClientSession(PeerSession):
    """`offered` holds the resources as the client was last told."""

    offered: dict[str, Resource] = field(default_factory=dict)


@dataclass(slots=True, eq=False)
class GatewaySession(PeerSession):
    @property
    def site(self) -> str:
        return self.admission.token.owner


@dataclass(slots=True, eq=False)
class RelaySession(Session):
    admission: RelayAdmission
    stamp_secret: str = field(default="", repr=False)

    @property
    def id(self) -> str:
        return self.admission.id


AnySession = ClientSession | GatewaySession | RelaySession
S = TypeVar("S", bound=AnySession)


@dataclass(frozen=True, slots=True)
class SendText:
    connection: int
    text: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class CloseConnection:
    connection: int


Output = SendText | CloseConnection


class Switchboard:
    """The sessions by connection and by peer. Of one peer the latest session counts."""

    def __init__(self) -> None:
        self._sessions: dict[int, AnySession] = {}
        self._by_peer: dict[tuple[type[Session], str], list[AnySession]] = {}
        self._outputs: deque[Output] = deque()
        self._next = 0

    def open(self, admission: Admission) -> AnySession:
        """A new session, not joined yet."""
        self._next += 1
        session = _session(self._next, admission)
        self._sessions[self._next] = session
        self._by_peer.setdefault(_peer(session), []).append(session)
        return session

    def get(self, connection: int) -> AnySession | None:
        return self._sessions.get(connection)

    def remove(self, connection: int) -> AnySession | None:
        session = self._sessions.pop(connection, None)
        if session is not None:
            of_peer = self._by_peer[_peer(session)]
            of_peer.remove(session)
            if not of_peer:
                del self._by_peer[_peer(session)]
        return session

    def close(self, session: AnySession) -> None:
        """Close a WebSocket; its peer may come back."""
        self._outputs.append(CloseConnection(session.connection))

    def push(self, session: AnySession, event: str, payload: object) -> None:
        session.channel.push(event, payload)
        self.flush(session)

    def flush(self, session: AnySession) -> None:
        """Hand out what the session's channel has to say."""
        while (text := session.channel.poll_text()) is not None:
            self._outputs.append(SendText(session.connection, text))

    def poll_output(self) -> Output | None:
        return self._outputs.popleft() if self._outputs else None

    def all(self) -> list[AnySession]:
        return list(self._sessions.values())

    def joined(self, kind: type[S]) -> Iterator[S]:
        """Sessions of a role whose join was answered."""
        return (s for s in self.all() if isinstance(s, kind) and s.is_joined)

    def find(self, kind: type[S], id: str) -> S | None:
        """The joined session of one peer."""
        sessions = self._by_peer.get((kind, id), ())
        return next((s for s in sessions if isinstance(s, kind) and s.is_joined), None)

    def older(self, session: AnySession) -> Iterator[AnySession]:
        """Sessions of the same peer that a reconnect left behind."""
        return (s for s in list(self._by_peer.get(_peer(session), ())) if s is not session)


def _peer(session: AnySession) -> tuple[type[Session], str]:
    return type(session), session.id


def _session(connection: int, admission: Admission) -> AnySession:
    channel = ServerChannel(admission.token.kind)
    match admission:
        case RelayAdmission():
            return RelaySession(connection, admission, channel)
        case PeerAdmission(token=token) if token.kind is TokenKind.CLIENT:
            return ClientSession(connection, admission, channel)
        case PeerAdmission():
            return GatewaySession(connection, admission, channel)
