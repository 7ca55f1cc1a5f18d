"""Remembers how the relay answered requests that must not be carried out twice.

A Refresh of lifetime 0 that arrives again, as its answer was lost, finds no allocation: it would be
told of a mismatch; or it finds the next one of the same client, which it would end. RFC 8489
section 6.3.1 wants the same answer for the same transaction, for 40 s.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

from firezone.durations import SECOND
from firezone.model import Transmit
from firezone.turn.relay_commands import FiveTuple

REMEMBERED_FOR: Final = 40 * SECOND
CAPACITY: Final = 1024


class Farewells:
    """The last answers to those who ended their allocation, the oldest forgotten first."""

    def __init__(self) -> None:
        self._answers: OrderedDict[tuple[FiveTuple, bytes], tuple[Transmit, int]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._answers)

    def remember(
        self, five_tuple: FiveTuple, transaction_id: bytes, answer: Transmit, now: int
    ) -> None:
        """How this transaction was answered."""
        while self._answers and (len(self._answers) >= CAPACITY or self._is_old(now)):
            self._answers.popitem(last=False)
        self._answers[five_tuple, transaction_id] = (answer, now)

    def recall(self, five_tuple: FiveTuple, transaction_id: bytes, now: int) -> Transmit | None:
        """The answer to the same transaction, if it is not long ago."""
        answer, at = self._answers.get((five_tuple, transaction_id), (None, 0))
        return answer if now - at < REMEMBERED_FOR else None

    def _is_old(self, now: int) -> bool:
        _, at = next(iter(self._answers.values()))
        return now - at >= REMEMBERED_FOR
