"""What a relay says to strangers: to Binding, and to Allocate without credentials (401).

Anybody may ask for it, by the thousand, and nothing is to be remembered of whoever does. So a shell
may answer by itself where it can do that cheaper (`ext/c/relay_answers.h`), with what stands here,
byte for byte as `Relay` would.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from firezone import stun
from firezone.stun import Class, Message, Method

_ANY_TRANSACTION = bytes(12)


@dataclass(frozen=True, slots=True)
class StrangerAnswers:
    """Header and first attributes of both answers, the transaction id being anything.

    After them come XOR-MAPPED-ADDRESS, or NONCE, made with `nonce_key` as `NonceMint` does; and
    FINGERPRINT, if the request had one.
    """

    binding: bytes
    challenge: bytes
    nonce_key: bytes = field(repr=False)

    @classmethod
    def of(cls, software: str, realm: str, nonce_key: bytes) -> StrangerAnswers:
        """Those of a relay of that name and realm."""
        binding = Message(Class.SUCCESS, Method.BINDING, _ANY_TRANSACTION)
        allocate = Message(Class.REQUEST, Method.ALLOCATE, _ANY_TRANSACTION)
        challenge = allocate.error(401, "").with_(stun.REALM, realm)
        return cls(binding.with_(stun.SOFTWARE, software).encode(), challenge.encode(), nonce_key)
