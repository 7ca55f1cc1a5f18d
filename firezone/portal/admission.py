"""Who is at the door: checks an upgrade request before the WebSocket is opened.

A status of 400 to 499 makes a peer give up for good, so these are only for what no retry mends:
401 for a token we do not take, 403 for an account that is off, 422 for a request that is wrong.
"""

from __future__ import annotations

import hmac
import re
import uuid
from base64 import b64decode
from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address

from firezone.model import IPAddress
from firezone.portal import tokens
from firezone.portal.balance import Version
from firezone.portal.config import Config, Token, TokenKind
from firezone.portal.store import Identity, Store

MAX_TEXT = 255
DEFAULT_RELAY_PORT = 3478
_NAMESPACE = uuid.UUID("4b7a7f5e-93d5-5b0c-9e0b-27a2d19a5c11")
_VERSION = re.compile(r"(connlib|relay)/(\d{1,6})\.(\d{1,6})\.(\d{1,6})")


@dataclass(frozen=True, slots=True)
class Request:
    """An upgrade request. `query` holds the first value of each parameter."""

    path: str
    query: Mapping[str, str] = field(repr=False)
    user_agent: str
    remote_ip: IPAddress


@dataclass(frozen=True, slots=True)
class Refusal:
    """An HTTP status and a line of text."""

    status: int
    reason: str


@dataclass(frozen=True, slots=True)
class PeerAdmission:
    """A client or a gateway. `public_key` is its text on the wire."""

    token: Token
    identity: Identity
    public_key: str
    version: Version
    remote_ip: IPAddress
    name: str


@dataclass(frozen=True, slots=True)
class RelayAdmission:
    """A relay and where it can be reached."""

    token: Token
    id: str
    ipv4: IPv4Address | None
    ipv6: IPv6Address | None
    port: int


Admission = PeerAdmission | RelayAdmission

_PATHS = {f"/{kind}/websocket": kind for kind in TokenKind}


def admit(config: Config, store: Store, request: Request, unix_now: int) -> Admission | Refusal:
    """Raises AddressesExhausted, and sqlite3.Error when the store fails."""
    kind = _PATHS.get(request.path)
    if kind is None:
        return Refusal(404, "not found")
    token = _token(config, request.query.get("token", ""))
    if token is None or token.kind is not kind or not token.is_live(unix_now):
        return Refusal(401, "invalid token")
    if config.account.disabled or _actor_is_disabled(config, token):
        return Refusal(403, "disabled")
    version = _version(request.user_agent)
    if version is None:
        return Refusal(422, "user agent names no version")
    if kind is TokenKind.RELAY:
        return _admit_relay(token, request)
    return _admit_peer(config, store, token, version, request)


def _token(config: Config, shown: str) -> Token | None:
    """Found by its hash, so the time it takes tells nothing of other tokens."""
    if not shown or len(shown) > tokens.MAX_LENGTH:
        return None
    hash = tokens.token_hash(shown)
    found = config.tokens.get(hash)
    return found if found is not None and hmac.compare_digest(found.hash, hash) else None


def _actor_is_disabled(config: Config, token: Token) -> bool:
    return token.kind is TokenKind.CLIENT and config.actors[token.owner].disabled


def _version(user_agent: str) -> Version | None:
    for word in user_agent.split(" "):
        if found := _VERSION.match(word):
            return int(found[2]), int(found[3]), int(found[4])
    return None


def _admit_peer(
    config: Config, store: Store, token: Token, version: Version, request: Request
) -> Admission | Refusal:
    external_id = request.query.get("external_id", "")
    name = request.query.get("name", "")
    public_key = request.query.get("public_key", "")
    if not external_id or max(len(external_id), len(name)) > MAX_TEXT:
        return Refusal(422, "external_id or name is missing or too long")
    if not _is_key(public_key):
        return Refusal(422, "public_key is no WireGuard key")
    identity = store.identify(
        config.account.slug, token.kind, token.owner, external_id, name, public_key
    )
    return PeerAdmission(token, identity, public_key, version, request.remote_ip, name)


def _is_key(text: str) -> bool:
    try:
        return len(text) == 44 and len(b64decode(text, validate=True)) == 32
    except ValueError:
        return False


def _admit_relay(token: Token, request: Request) -> Admission | Refusal:
    try:
        ipv4, ipv6 = request.query.get("ipv4"), request.query.get("ipv6")
        v4 = IPv4Address(ipv4) if ipv4 else None
        v6 = IPv6Address(ipv6) if ipv6 else None
        port = int(request.query.get("port") or DEFAULT_RELAY_PORT)
    except ValueError:
        return Refusal(422, "bad address or port")
    if (v4 is None and v6 is None) or not 0 < port <= 0xFFFF:
        return Refusal(422, "no address, or no port")
    id = str(uuid.uuid5(_NAMESPACE, f"{v4 or v6}:{port}"))
    return RelayAdmission(token, id, v4, v6, port)
