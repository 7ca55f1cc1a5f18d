"""What the portal derives for a pair of peers and for the users of a relay.

Everything is deterministic: asking for the same flow again yields the same preshared key and ICE
credentials until a public key changes, so a repeated request never breaks a live connection. Keys
enter as their text on the wire, padded base64.
"""

from __future__ import annotations

import hashlib
from base64 import b32encode, b64encode
from dataclasses import dataclass, field

from firezone.model import IceCredentials


@dataclass(frozen=True, slots=True)
class TurnCredentials:
    """A username that says when it expires, and what only the portal and the relay can compute."""

    username: str
    password: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Party:
    """One end of a flow. `psk_base` is 32 random bytes that never leave the portal."""

    id: str
    public_key: str
    psk_base: bytes = field(repr=False)


def preshared_key(client: Party, gateway: Party) -> str:
    """The WireGuard preshared key of the pair, base64."""
    salt = (
        f"WG_PSK|C_ID:{client.id}|G_ID:{gateway.id}"
        f"|C_PK:{client.public_key}|G_PK:{gateway.public_key}"
    )
    secret = client.psk_base + gateway.psk_base
    # One iteration: the input is 512 random bits, which need no stretching.
    return b64encode(hashlib.pbkdf2_hmac("sha256", secret, salt.encode(), 1, 32)).decode()


def ice_credentials(client: Party, gateway: Party) -> tuple[IceCredentials, IceCredentials]:
    """The client's and the gateway's."""
    text = f"{client.id}:{client.public_key}:{gateway.id}:{gateway.public_key}"
    digest = hashlib.sha256(text.encode()).digest()
    chars = b32encode(digest).decode().rstrip("=").lower()
    return (
        IceCredentials(chars[0:4], chars[4:26]),
        IceCredentials(chars[26:30], chars[30:52]),
    )


def turn_credentials(public_key: str, stamp_secret: str, expires_at: int) -> TurnCredentials:
    """For the peer with this key, at the relay with this secret, until Unix `expires_at`."""
    salt = _unpadded(hashlib.sha256(public_key.encode()).digest())
    signed = f"{expires_at}:{stamp_secret}:{salt}"
    password = _unpadded(hashlib.sha256(signed.encode()).digest())
    return TurnCredentials(f"{expires_at}:{salt}", password)


def _unpadded(digest: bytes) -> str:
    return b64encode(digest).decode().rstrip("=")
