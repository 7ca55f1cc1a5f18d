from dataclasses import dataclass

import pytest

from firezone.portal.balance import Version, choose_gateway, choose_relays, compatible


@dataclass(frozen=True)
class Gateway:
    id: str
    version: Version


OLD, NINE, FIFTEEN = (
    Gateway("old", (1, 3, 9)),
    Gateway("nine", (1, 4, 9)),
    Gateway("fifteen", (1, 4, 15)),
)


def first(n: int) -> bytes:
    return bytes(n)


@pytest.mark.parametrize(
    ("client", "gateway", "fits"),
    [
        ((1, 5, 3), (1, 4, 0), True),
        ((1, 4, 0), (1, 3, 99), False),
        ((1, 3, 0), (1, 1, 0), True),
        ((1, 1, 0), (1, 0, 9), False),
        ((1, 0, 0), (0, 9, 0), True),
    ],
)
def test_versions(client: Version, gateway: Version, fits: bool) -> None:
    assert compatible(client, gateway) is fits


def test_versions_compare_as_numbers() -> None:
    """The original compares text, by which 1.4.9 beats 1.4.15."""
    assert choose_gateway([NINE, FIFTEEN, OLD], (1, 5, 0), [], first) == FIFTEEN


def test_a_connected_gateway_is_preferred_if_it_fits() -> None:
    assert choose_gateway([NINE, FIFTEEN], (1, 5, 0), ["nine", "x"], first) == NINE
    assert choose_gateway([OLD, FIFTEEN], (1, 5, 0), ["old"], first) == FIFTEEN
    assert choose_gateway([OLD], (1, 5, 0), ["old"], first) is None


def test_relays_are_kept_and_topped_up() -> None:
    assert choose_relays("abc", "", first) == ["a", "b"]
    assert choose_relays("abc", "c", first) == ["c", "a"]
    assert choose_relays("abc", "cb", first) == ["c", "b"]
    assert choose_relays("a", "", first) == ["a"]
    assert choose_relays("", "", first) == []
