"""Who a TURN client is to its relay, and which of the relay's responses count.

Long-term credentials (RFC 8489 section 9.2), with the exceptions of `requests.py`.
"""

from __future__ import annotations

from firezone import stun
from firezone.stun import Message, Method
from firezone.turn.events import Credentials
from firezone.turn.requests import Request

MAX_CHALLENGES = 8
"""How often one request is resent with another nonce before that counts as an error."""


class Authentication:
    """Credentials and the latest nonce. `credentials` are None once the relay has refused them."""

    def __init__(self, credentials: Credentials) -> None:
        self.credentials: Credentials | None = credentials
        self.nonce: str | None = None
        self._key = credentials.key

    def vouches_for(self, response: Message, request: Request, *, by_the_book: bool) -> bool:
        """Whether the response is signed, or need not be. What a relay that goes by the book does
        not sign can be forged by whoever sees our requests; but it only makes us start over, and
        rarely."""
        if not request.is_authenticated or response.verify_integrity(self._key):
            return True
        if response.has_integrity:
            return False
        code, is_first = error_code(response), request.nonce is None
        if by_the_book:
            return code == 438 or (code == 401 and is_first)
        return code == 400 and is_first and request.method == Method.ALLOCATE

    def take_challenge(self, response: Message) -> bool:
        """Use the nonce that it brings. False: it brings none, or is for another realm."""
        nonce, realm = response.get(stun.NONCE), response.get(stun.REALM)
        ours = self.credentials.realm if self.credentials is not None else None
        if nonce is None or (realm is not None and realm != ours):
            return False
        self.nonce = nonce
        return True

    def drop(self) -> None:
        """The relay knows us no more."""
        self.credentials = None
        self._key = b""


def error_code(response: Message) -> int:
    """0 without one."""
    error = response.get(stun.ERROR_CODE)
    return error.code if error is not None else 0
