"""The portal without its sockets: peers come, join, ask; the file and the time change.

A peer is admitted by its upgrade request, joins its topic, and gets `init` with the whole state.
From then on it is told of changes only. Three things cause those: another portal file, the minute
tick that decides anew what depends on time, and relays that come and go.

`now` is monotonic nanoseconds; what peers see is wall time, read through `wall_clock` in seconds.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable
from typing import Annotated, TypeVar

import msgspec

from firezone.durations import SECOND
from firezone.model import Entropy, Timeout
from firezone.phoenix.frames import Frame
from firezone.phoenix.server import JoinRequested, Requested
from firezone.portal import views
from firezone.portal.access import offered
from firezone.portal.admission import Admission, Refusal, Request, admit
from firezone.portal.conditions import Context
from firezone.portal.config import Config, Resource, Token
from firezone.portal.flow_table import FlowTable
from firezone.portal.flows import CreateFlow, FlowAuthorized, Flows, Id
from firezone.portal.presence import RelayPresence
from firezone.portal.sessions import (
    AnySession,
    ClientSession,
    GatewaySession,
    Output,
    RelaySession,
    Switchboard,
)
from firezone.portal.store import Store

RECOMPUTE_INTERVAL = 60 * SECOND
STORE_RETRY_INTERVAL = 5 * SECOND

_log = logging.getLogger(__name__)
T = TypeVar("T")


Ids = Annotated[list[Id], msgspec.Meta(max_length=32)]
Candidate = Annotated[str, msgspec.Meta(max_length=256)]
Candidates = Annotated[list[Candidate], msgspec.Meta(max_length=64)]


class ClientCandidates(msgspec.Struct):
    """Peers send them for one another singly; the limits keep what one message costs small."""

    gateway_ids: Ids
    candidates: Candidates


class GatewayCandidates(msgspec.Struct):
    client_ids: Ids
    candidates: Candidates


class RelayJoin(msgspec.Struct):
    stamp_secret: str


_FORWARDED = {
    "broadcast_ice_candidates": "ice_candidates",
    "broadcast_invalidated_ice_candidates": "invalidate_ice_candidates",
}


class ControlPlane:
    """One account's control plane. Peers are known by the connection number they get."""

    def __init__(
        self,
        *,
        config: Config,
        store: Store,
        entropy: Entropy,
        wall_clock: Callable[[], int],
        now: int,
    ) -> None:
        self.counters: Counter[str] = Counter()
        self._config = config
        self._store = store
        self._wall_clock = wall_clock
        self._board = Switchboard()
        self._presence = RelayPresence(self._board, entropy)
        flows = FlowTable(store, config.account.slug)
        self._flows = Flows(self._board, self._presence, flows, entropy)
        self._next_tick = now + RECOMPUTE_INTERVAL
        self._store_tried_at = now

    def admit(self, request: Request) -> Admission | Refusal:
        """Whether to accept an upgrade. Raises AddressesExhausted and sqlite3.Error."""
        return admit(self._config, self._store, request, self._wall_clock())

    def handle_connected(self, admission: Admission, now: int) -> int:
        """A WebSocket is open. Gives its connection number."""
        session = self._board.open(admission)
        if self._token_of(session) is None:
            self._drop(session, now)
        return session.connection

    def handle_text(self, connection: int, text: str | bytes, now: int) -> None:
        """A frame arrived."""
        session = self._board.get(connection)
        if session is None:
            return
        match session.channel.handle_text(text):
            case JoinRequested(frame):
                self._handle_join(session, frame)
            case Requested(frame):
                self._handle_request(session, frame)
        self._board.flush(session)

    def handle_disconnected(self, connection: int, now: int) -> None:
        """A WebSocket is closed."""
        session = self._board.remove(connection)
        if session is not None:
            self._handle_left(session, now)

    def handle_config(self, config: Config, now: int) -> None:
        """Another version of the account is in force: everyone hears what it changes for them."""
        before, self._config = self._config, config
        self._drop_unwelcome(now)
        self._recompute()
        self._announce_account(before)
        for id, resource in config.resources.items():
            old = before.resources.get(id)
            if old is not None and (old.filters, old.name) != (resource.filters, resource.name):
                self._flows.announce_filters(resource)

    def handle_timeout(self, now: int) -> None:
        """Do what is due."""
        self._presence.handle_timeout(self._wall_clock(), now)
        if not self._flows.is_saved and now >= self._store_tried_at + STORE_RETRY_INTERVAL:
            self._store_tried_at = now
            self._flows.save()
        if now >= self._next_tick:
            self._next_tick = now + RECOMPUTE_INTERVAL
            self._drop_unwelcome(now)
            self._recompute()

    def poll_output(self) -> Output | None:
        """What to write, or which connection to close."""
        return self._board.poll_output()

    def poll_timeout(self) -> Timeout:
        """When to call `handle_timeout`."""
        timeouts = [Timeout(self._next_tick, "recompute")]
        if (deadline := self._presence.poll_deadline()) is not None:
            timeouts.append(Timeout(deadline, "relay gone"))
        if not self._flows.is_saved:
            timeouts.append(Timeout(self._store_tried_at + STORE_RETRY_INTERVAL, "store"))
        return min(timeouts, key=lambda timeout: timeout.deadline)

    # Joining.

    def _handle_join(self, session: AnySession, frame: Frame) -> None:
        if isinstance(session, RelaySession):
            self._join_relay(session, frame)
            return
        self._supersede(session)
        if isinstance(session, ClientSession):
            self._flows.handle_client_joined(session)
        self._flows.reevaluate(self._config, self._wall_clock())
        session.channel.accept_join(frame)
        match session:
            case ClientSession():
                self._init_client(session)
            case GatewaySession():
                self._init_gateway(session)
        self._renew_flows()
        _log.info("%s joined", session.admission.token.kind, extra=_log_fields(session))

    def _join_relay(self, relay: RelaySession, frame: Frame) -> None:
        join = _convert(frame.payload, RelayJoin)
        if join is None or not 0 < len(join.stamp_secret) <= 255:
            relay.channel.refuse(frame, "invalid stamp_secret")
            return
        self._supersede(relay)
        relay.stamp_secret = join.stamp_secret
        relay.channel.accept_join(frame)
        self._board.push(relay, "init", {})
        self._presence.handle_joined(relay, self._wall_clock())
        _log.info("relay joined", extra={"event": "relay_joined", "relay": relay.id})

    def _supersede(self, session: AnySession) -> None:
        """A peer that reconnects before we missed it: its old connection is history.

        A relay's is only forgotten: whether the relay was ever gone is for its secret to tell.
        """
        for old in list(self._board.older(session)):
            self._board.close(old)
            self._board.remove(old.connection)
            if isinstance(old, ClientSession | GatewaySession):
                self._flows.handle_left(old)

    def _init_client(self, client: ClientSession) -> None:
        client.offered = self._offered_to(client)
        payload = {
            "interface": views.interface(client.admission, self._config.account),
            "resources": [views.client_resource(r) for r in client.offered.values()],
            "relays": self._presence.supply(client, self._wall_clock()),
        }
        self._board.push(client, "init", payload)

    def _init_gateway(self, gateway: GatewaySession) -> None:
        flows = self._flows.in_force(gateway)
        payload = {
            "interface": views.interface(gateway.admission, self._config.account),
            "config": {"ipv4_masquerade_enabled": True, "ipv6_masquerade_enabled": True},
            "account_slug": self._config.account.slug,
            "relays": self._presence.supply(gateway, self._wall_clock()),
            "authorizations": views.authorizations(flows),
        }
        self._board.push(gateway, "init", payload)
        self._flows.catch_up(self._config, gateway, self._wall_clock())

    def _renew_flows(self) -> None:
        """Make clients ask anew for what a gateway served them that has restarted, and for what
        expired although they may have it again.

        No message says so, but every client forgets the gateway of a resource that is deleted.
        Else it would send to a key that is gone until its connectivity checks time out, or to a
        gateway that refuses it for ever.
        """
        for client, id in self._flows.take_outdated():
            if (resource := client.offered.get(id)) is not None:
                self._board.push(client, "resource_deleted", id)
                view = views.client_resource(resource)
                self._board.push(client, "resource_created_or_updated", view)

    # Requests.

    def _handle_request(self, session: AnySession, frame: Frame) -> None:
        match session, frame.event:
            case ClientSession(), "create_flow":
                if (request := self._read(frame, CreateFlow)) is not None:
                    now = self._wall_clock()
                    self._flows.handle_create_flow(self._config, session, request, now)
            case GatewaySession(), "flow_authorized":
                if (answer := self._read(frame, FlowAuthorized)) is not None:
                    self._flows.handle_flow_authorized(session, frame, answer.ref)
            case ClientSession(), event if event in _FORWARDED:
                self._forward_to_gateways(session, frame)
            case GatewaySession(), event if event in _FORWARDED:
                self._forward_to_clients(session, frame)
            case _:
                session.channel.refuse(frame, "unknown_message")

    def _forward_to_gateways(self, client: ClientSession, frame: Frame) -> None:
        message = self._read(frame, ClientCandidates)
        for id in dict.fromkeys(message.gateway_ids if message else ()):
            gateway = self._board.find(GatewaySession, id)
            if message and gateway and self._flows.are_linked(client.id, id):
                payload = {"client_id": client.id, "candidates": message.candidates}
                self._board.push(gateway, _FORWARDED[frame.event], payload)

    def _forward_to_clients(self, gateway: GatewaySession, frame: Frame) -> None:
        message = self._read(frame, GatewayCandidates)
        for id in dict.fromkeys(message.client_ids if message else ()):
            client = self._board.find(ClientSession, id)
            if message and client and self._flows.are_linked(id, gateway.id):
                payload = {"gateway_id": gateway.id, "candidates": message.candidates}
                self._board.push(client, _FORWARDED[frame.event], payload)

    def _read(self, frame: Frame, shape: type[T]) -> T | None:
        value = _convert(frame.payload, shape)
        if value is None:
            self.counters[f"malformed {shape.__name__}"] += 1
        return value

    # Changes.

    def _drop_unwelcome(self, now: int) -> None:
        """Whose token is gone: it comes back, and hears 401."""
        for session in self._board.all():
            if self._token_of(session) is None:
                self._drop(session, now)

    def _drop(self, session: AnySession, now: int) -> None:
        """Nothing more is heard from it, not even what is under way."""
        self._board.close(session)
        self._board.remove(session.connection)
        self._handle_left(session, now)

    def _handle_left(self, session: AnySession, now: int) -> None:
        match session:
            case RelaySession():
                self._presence.handle_left(session, now)
            case ClientSession() | GatewaySession():
                self._flows.handle_left(session)

    def _token_of(self, session: AnySession) -> Token | None:
        """The session's token as the portal file has it now; None if it is no longer good."""
        mine = session.admission.token
        token = self._config.tokens.get(mine.hash)
        if token is None or (token.kind, token.owner) != (mine.kind, mine.owner):
            return None
        if self._config.account.disabled or not token.is_live(self._wall_clock()):
            return None
        if isinstance(session, ClientSession) and self._config.actors[token.owner].disabled:
            return None
        return token

    def _offered_to(self, client: ClientSession) -> dict[str, Resource]:
        token = self._token_of(client)
        if token is None:
            return {}
        context = Context(client.admission.remote_ip, self._wall_clock())
        return offered(self._config, token, context)

    def _recompute(self) -> None:
        for client in list(self._board.joined(ClientSession)):
            self._update_client(client)
        self._flows.reevaluate(self._config, self._wall_clock())
        self._renew_flows()

    def _update_client(self, client: ClientSession) -> None:
        """A change of sites is told as a deletion and a creation."""
        before, client.offered = client.offered, self._offered_to(client)
        for id, old in before.items():
            new = client.offered.get(id)
            if new is None or new.sites != old.sites:
                self._board.push(client, "resource_deleted", id)
        for id, new in client.offered.items():
            known = before.get(id)
            if known is None or views.client_resource(known) != views.client_resource(new):
                view = views.client_resource(new)
                self._board.push(client, "resource_created_or_updated", view)

    def _announce_account(self, before: Config) -> None:
        old, new = before.account, self._config.account
        if (old.upstream_dns, old.search_domain) != (new.upstream_dns, new.search_domain):
            for client in list(self._board.joined(ClientSession)):
                payload = {"interface": views.interface(client.admission, new)}
                self._board.push(client, "config_changed", payload)
        if old.slug != new.slug:
            for gateway in list(self._board.joined(GatewaySession)):
                self._init_gateway(gateway)


def _convert(payload: object, shape: type[T]) -> T | None:
    try:
        return msgspec.convert(payload, shape)
    except (msgspec.ValidationError, RecursionError):
        return None


def _log_fields(session: ClientSession | GatewaySession) -> views.Json:
    admission = session.admission
    kind = admission.token.kind
    return {
        "event": f"{kind}_joined",
        kind.value: session.id,
        "owner": admission.token.owner,
        "peer_name": admission.name,
        "ipv4": str(admission.identity.ipv4),
    }
