"""How long the relay remembers its last answers, and how many of them."""

from __future__ import annotations

from turn_relay_kit import CLIENT_4, RELAY_4, START

from firezone.durations import SECOND
from firezone.model import Endpoint, Transmit
from firezone.turn.relay_commands import FiveTuple
from firezone.turn.relay_farewells import CAPACITY, REMEMBERED_FOR, Farewells

TUPLE = FiveTuple(CLIENT_4, RELAY_4)
ANSWER = Transmit(b"answer", CLIENT_4, RELAY_4)


def test_same_client_and_transaction_for_a_while() -> None:
    farewells = Farewells()
    farewells.remember(TUPLE, b"one", ANSWER, START)
    assert farewells.recall(TUPLE, b"one", START + REMEMBERED_FOR - 1) is ANSWER
    assert farewells.recall(TUPLE, b"one", START + REMEMBERED_FOR) is None
    assert farewells.recall(TUPLE, b"two", START) is None
    other = FiveTuple(Endpoint(CLIENT_4.address, 1), RELAY_4)
    assert farewells.recall(other, b"one", START) is None


def test_old_ones_and_too_many_are_forgotten() -> None:
    farewells = Farewells()
    for i in range(CAPACITY + 10):
        farewells.remember(TUPLE, i.to_bytes(12, "big"), ANSWER, START)
    assert len(farewells) == CAPACITY
    assert farewells.recall(TUPLE, (9).to_bytes(12, "big"), START) is None
    assert farewells.recall(TUPLE, (10).to_bytes(12, "big"), START) is ANSWER
    farewells.remember(TUPLE, b"new", ANSWER, START + 41 * SECOND)
    assert len(farewells) == 1
