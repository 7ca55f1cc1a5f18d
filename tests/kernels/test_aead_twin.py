"""The cipher beside its slow twin: the twin by the standard's vectors, then every backend by it."""

from __future__ import annotations

from array import array
from collections.abc import Iterator

import pytest
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305 as Oracle
from hypothesis import given, settings
from hypothesis import strategies as st

from firezone._ext import aead
from firezone._ext.batch import PacketBatch, Verdict
from tests.reference import aead as slow

keys = st.binary(min_size=32, max_size=32)
nonces = st.binary(min_size=12, max_size=12)
counters = st.integers(0, 2**64 - 1)
texts = st.one_of(st.binary(max_size=40), st.sampled_from([63, 64, 65, 128, 240]).map(bytes))

SUNSCREEN = (
    b"Ladies and Gentlemen of the class of '99: If I could offer you "
    b"only one tip for the future, sunscreen would be it."
)


@pytest.fixture(params=aead.backends(), autouse=True, scope="module")
def backend(request: pytest.FixtureRequest) -> Iterator[None]:
    before = aead.backend_name().split()[0]
    aead.use_backend(request.param)
    yield
    aead.use_backend(before)


# https://www.rfc-editor.org/rfc/rfc8439#section-2.3.2
def test_block_of_the_standard() -> None:
    stream = slow.block(bytes(range(32)), 1, bytes.fromhex("000000090000004a00000000"))
    assert stream == bytes.fromhex(
        "10f1e7e4d13b5915500fdd1fa32071c4c7d1f4c733c068030422aa9ac3d46c4e"
        "d2826446079faa0914c2d705d98b02a2b5129cd1de164eb9cbd083e8a2503c4e"
    )


# https://www.rfc-editor.org/rfc/rfc8439#section-2.5.2
def test_authenticator_of_the_standard() -> None:
    key = "85d6be7857556d337f4452fe42d506a80103808afb0db2fd4abff6af4149f51b"
    tag = slow.poly1305(bytes.fromhex(key), b"Cryptographic Forum Research Group")
    assert tag == bytes.fromhex("a8061dc1305136c6c22b8baf0c0127a9")


# https://www.rfc-editor.org/rfc/rfc8439#section-2.8.2
def test_seal_of_the_standard() -> None:
    key, nonce = bytes(range(0x80, 0xA0)), bytes.fromhex("070000004041424344454647")
    sealed = slow.seal(key, nonce, SUNSCREEN, bytes.fromhex("50515253c0c1c2c3c4c5c6c7"))
    assert sealed == bytes.fromhex(
        "d31a8d34648e60db7b86afbc53ef7ec2a4aded51296e08fea9e2b5a736ee62d6"
        "3dbea45e8ca9671282fafb69da92728b1a71de0a9e060b2905d6a5b67ecd3b36"
        "92ddbd7f2d778b8c9803aee328091b58fab324e4fad675945585808b4831d7bc"
        "3ff4def08e4b7a9de576d26586cec64b61161ae10b594f09e26a7e902ecbd0600691"
    )


@given(keys, nonces, texts, st.binary(max_size=20))
@settings(max_examples=50, deadline=None)
def test_one_message(key: bytes, nonce: bytes, text: bytes, ad: bytes) -> None:
    sealed = slow.seal(key, nonce, text, ad)
    assert sealed == Oracle(key).encrypt(nonce, text, ad) == aead.seal(key, nonce, text, ad)
    damaged = bytes([sealed[0] ^ 1]) + sealed[1:]
    for message in (sealed, damaged, sealed[:-1], sealed[:15], text):
        assert aead.open(key, nonce, message, ad) == slow.open(key, nonce, message, ad)


packets = st.lists(st.tuples(texts, counters, st.booleans()), max_size=9)


@given(keys, packets, st.integers(1, 3))
@settings(max_examples=60, deadline=None)
def test_seal_a_batch(key: bytes, slots: list[tuple[bytes, int, bool]], times: int) -> None:
    """Up to the third time, when the longest do not fit any more."""
    batch = filled([text for text, _, _ in slots], [skip for _, _, skip in slots])
    numbers = array("Q", [counter for _, counter, _ in slots])
    states = [(batch.verdict(slot), text) for slot, (text, _, _) in enumerate(slots)]
    for _ in range(times):
        aead.seal_batch(batch, key, numbers)
        states = [
            slow.seal_slot(key, counter, packet, batch.stride - 64)
            if verdict is Verdict.PASS
            else (verdict, packet)
            for (verdict, packet), counter in zip(states, numbers, strict=True)
        ]
    assert [(batch.verdict(i), batch.packet(i)) for i in range(len(batch))] == states


damages = st.sampled_from(["none", "bit", "counter", "cut", "short", "key"])


@given(keys, st.lists(st.tuples(texts, counters, st.booleans(), damages), max_size=9))
@settings(max_examples=60, deadline=None)
def test_open_a_batch(key: bytes, slots: list[tuple[bytes, int, bool, str]]) -> None:
    messages = [damaged(key, text, counter, damage) for text, counter, _, damage in slots]
    batch = filled(messages, [skip for _, _, skip, _ in slots])
    aead.open_batch(batch, key, array("Q", [counter for _, counter, _, _ in slots]))
    for slot, (text, counter, skip, damage) in enumerate(slots):
        if skip:
            assert batch.verdict(slot) is Verdict.SLOW and batch.packet(slot) == messages[slot]
            continue
        verdict, opened = slow.open_slot(key, counter, messages[slot])
        assert batch.verdict(slot) is verdict
        assert opened is None or batch.packet(slot) == opened == text
        assert (opened is not None) == (damage == "none")


def damaged(key: bytes, text: bytes, counter: int, damage: str) -> bytes:
    if damage == "counter":
        counter ^= 1 << counter % 64
    if damage == "key":
        key = bytes([key[0] ^ 1]) + key[1:]
    sealed = slow.seal(key, slow.wireguard_nonce(counter), text)
    if damage == "bit":
        at = counter % len(sealed)
        return sealed[:at] + bytes([sealed[at] ^ 1 << counter % 8]) + sealed[at + 1 :]
    return {"cut": sealed[:-1], "short": sealed[: counter % 16]}.get(damage, sealed)


def filled(packets: list[bytes], skips: list[bool]) -> PacketBatch:
    """In small slots. What is to be skipped has its verdict already."""
    batch = PacketBatch(max(1, len(packets)), stride=384)
    for slot, (packet, skip) in enumerate(zip(packets, skips, strict=True)):
        batch.append(packet)
        if skip:
            batch.set_verdict(slot, Verdict.SLOW)
    return batch
