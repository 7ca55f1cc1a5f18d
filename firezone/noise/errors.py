"""Why a WireGuard control message was refused."""

from __future__ import annotations

from enum import StrEnum

from firezone.errors import RemoteError


class Reason(StrEnum):
    """The keys of this package's counters."""

    MALFORMED = "malformed"
    """Unknown type, reserved bytes not zero, or a length that is not the type's."""
    BAD_MAC1 = "bad_mac1"
    UNDER_LOAD = "under_load"
    LOW_ORDER = "low_order"
    """A public key of small order: the shared secret would be no secret."""
    BAD_TAG = "bad_tag"
    WRONG_KEY = "wrong_key"
    """An initiation of somebody else than the tunnel's peer."""
    REPLAYED = "replayed"
    WRONG_INDEX = "wrong_index"
    UNEXPECTED = "unexpected"
    """A cookie though we sent nothing, or a session that we do not have."""


class NoiseError(RemoteError):
    """A message broke a rule of the protocol. Caught at the edge of this package, and counted."""

    def __init__(self, reason: Reason) -> None:
        super().__init__(reason.value)
        self.reason = reason
