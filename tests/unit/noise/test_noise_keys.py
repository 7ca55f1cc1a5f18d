import copy
import pickle
import random

import pytest

from firezone.errors import LocalError
from firezone.noise import NoiseError, StaticKeypair

ALICE = bytes.fromhex("77076d0a7318a57d3c16c17251b26645df4c2f87ebc0992ab177fba51db92c2a")
BOB = bytes.fromhex("5dab087e624a8a4b79e17f8b83800ee66f3bb1292618b6fd1c2f8b27ff88e0eb")
ALICE_PUBLIC = bytes.fromhex("8520f0098930a754748b7ddcb43ef75a0dbf3a0d26381af4eba4a98eaa9b4e6a")
BOB_PUBLIC = bytes.fromhex("de9edb7d7b7dc1b4d35b61c2ece435373f8343c85b78674dadfc7e146f882b4f")
SHARED = bytes.fromhex("4a5d9d5ba4ce2de1728e3bf480350f25e07e21c947d19e3376f09b3c1e161742")


def test_key_agreement() -> None:
    """RFC 7748 section 6.1."""
    alice, bob = StaticKeypair.from_private(ALICE), StaticKeypair.from_private(BOB)
    assert (alice.public, bob.public) == (ALICE_PUBLIC, BOB_PUBLIC)
    assert alice.dh(bob.public) == bob.dh(alice.public) == SHARED


def test_generate_uses_the_entropy() -> None:
    first, second = (StaticKeypair.generate(random.Random(seed).randbytes) for seed in (1, 1))
    assert first.public == second.public


@pytest.mark.parametrize("public", [bytes(32), b"\1" + bytes(31)])
def test_small_order(public: bytes) -> None:
    with pytest.raises(NoiseError):
        StaticKeypair.from_private(ALICE).dh(public)


@pytest.mark.parametrize("size", [0, 31, 33])
def test_wrong_size(size: int) -> None:
    with pytest.raises(LocalError):
        StaticKeypair.from_private(bytes(size))


def test_private_key_does_not_leave() -> None:
    pair = StaticKeypair.from_private(ALICE)
    assert ALICE.hex() not in repr(pair)
    assert ALICE_PUBLIC.hex() in repr(pair)
    for leave in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError):
            leave(pair)


def test_wipe() -> None:
    pair = StaticKeypair.from_private(ALICE)
    pair.wipe()
    assert pair.dh(BOB_PUBLIC) == StaticKeypair.from_private(bytes(32)).dh(BOB_PUBLIC) != SHARED
