"""Tokens: random text that a peer shows, of which the portal keeps only a hash.

A token holds 256 random bits, so a plain SHA-256 cannot be searched and needs no salt.
"""

from __future__ import annotations

import hashlib
import re
from base64 import urlsafe_b64encode

from firezone.model import Entropy

_HASH = re.compile(r"sha256:[0-9a-f]{64}")
MAX_LENGTH = 1024


def mint(entropy: Entropy) -> str:
    """A new token."""
    return urlsafe_b64encode(entropy(32)).decode().rstrip("=")


def token_hash(token: str) -> str:
    """What the portal file holds in the token's place: `sha256:…`."""
    return f"sha256:{hashlib.sha256(token.encode()).hexdigest()}"


def is_hash(text: str) -> bool:
    return _HASH.fullmatch(text) is not None
