"""ChaCha20-Poly1305 against RFC 8439 and `cryptography`, by message and by batch."""

from __future__ import annotations

import pickle

import pytest
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305 as Oracle
from hypothesis import given
from hypothesis import strategies as st

from firezone._ext import aead as kernel
from firezone._ext.batch import PacketBatch, Verdict
from firezone.aead import ChaCha20Poly1305, InvalidTag
from firezone.errors import FirezoneError

KEY = bytes(range(32))
NONCE = bytes(12)

keys = st.binary(min_size=32, max_size=32)
nonces = st.binary(min_size=12, max_size=12)


# https://www.rfc-editor.org/rfc/rfc8439#appendix-A.5
def test_vector_of_the_standard() -> None:
    key = bytes.fromhex("1c9240a5eb55d38af333888604f6b5f0473917c1402b80099dca5cbc207075c0")
    sealed = bytes.fromhex(
        "64a0861575861af460f062c79be643bd5e805cfd345cf389f108670ac76c8cb24c6cfc18755d43eea09ee94e"
        "382d26b0bdb7b73c321b0100d4f03b7f355894cf332f830e710b97ce98c8a84abd0b948114ad176e008d33bd"
        "60f982b1ff37c8559797a06ef4f0ef61c186324e2b3506383606907b6a7c02b0f9f6157b53c867e4b9166c76"
        "7b804d46a59b5216cde7a4e99040c5a40433225ee282a1b0a06c523eaf4534d7f83fa1155b0047718cbc546a"
        "0d072b04b3564eea1b422273f548271a0bb2316053fa76991955ebd63159434ecebb4e466dae5a1073a67276"
        "27097a1049e617d91d361094fa68f0ff77987130305beaba2eda04df997b714d6c6f2c29a6ad5cb4022b0270"
        "9beead9d67890cbb22392336fea1851f38"
    )
    nonce, ad = bytes.fromhex("000000000102030405060708"), bytes.fromhex("f33388860000000000004e91")
    plain = ChaCha20Poly1305(key).decrypt(nonce, sealed, ad)
    assert plain.startswith(b"Internet-Drafts are draft documents valid for a maximum")
    assert ChaCha20Poly1305(key).encrypt(nonce, plain, ad) == sealed


@given(keys, nonces, st.binary(max_size=300), st.none() | st.binary(max_size=40))
def test_agrees_with_the_oracle(key: bytes, nonce: bytes, data: bytes, ad: bytes | None) -> None:
    sealed = ChaCha20Poly1305(key).encrypt(nonce, data, ad)
    assert sealed == Oracle(key).encrypt(nonce, data, ad)
    assert ChaCha20Poly1305(key).decrypt(nonce, sealed, ad) == data


@given(st.binary(max_size=80), st.integers(0, 95), st.integers(1, 255))
def test_damage_is_noticed(data: bytes, at: int, flip: int) -> None:
    sealed = bytearray(ChaCha20Poly1305(KEY).encrypt(NONCE, data, b"ad"))
    sealed[at % len(sealed)] ^= flip
    with pytest.raises(InvalidTag):
        ChaCha20Poly1305(KEY).decrypt(NONCE, sealed, b"ad")


def test_every_truncation_is_noticed() -> None:
    sealed = ChaCha20Poly1305(KEY).encrypt(NONCE, b"some data", None)
    for size in range(len(sealed)):
        with pytest.raises(InvalidTag):
            ChaCha20Poly1305(KEY).decrypt(NONCE, sealed[:size], None)


WRONG_CALLS = [
    (KEY, bytes(11), b"", None),
    (KEY, bytes(13), b"", None),
    (KEY, "a" * 12, b"", None),
    (KEY, NONCE, "text", None),
    (KEY, NONCE, b"", "text"),
    (KEY, NONCE, None, None),
    (bytes(31), NONCE, b"", None),
    (bytearray(33), NONCE, b"", None),
    ("k" * 32, NONCE, b"", None),
]


@pytest.mark.parametrize(("key", "nonce", "data", "ad"), WRONG_CALLS)
@pytest.mark.parametrize("method", ["encrypt", "decrypt"])
def test_wrong_calls_raise_as_the_oracle_does(
    method: str, key: object, nonce: object, data: object, ad: object
) -> None:
    raised = []
    for implementation in (ChaCha20Poly1305, Oracle):
        with pytest.raises((TypeError, ValueError)) as caught:
            getattr(implementation(key), method)(nonce, data, ad)  # type: ignore[arg-type]
        raised.append(caught.type)
    assert raised[0] is raised[1]


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_takes_every_bytes_like(kind: type) -> None:
    sealed = ChaCha20Poly1305(kind(KEY)).encrypt(kind(NONCE), kind(b"abc"), kind(b"d"))
    assert sealed == Oracle(KEY).encrypt(NONCE, b"abc", b"d")


def test_key_is_never_shown() -> None:
    cipher = ChaCha20Poly1305(KEY)
    assert repr(cipher) == "<ChaCha20Poly1305>"
    with pytest.raises(TypeError):
        pickle.dumps(cipher)
    assert issubclass(InvalidTag, FirezoneError)


def test_generate_key_is_fresh() -> None:
    first, second = ChaCha20Poly1305.generate_key(), ChaCha20Poly1305.generate_key()
    assert len(first) == len(second) == 32 and first != second


def test_backend_has_a_name() -> None:
    ours = [name for name in kernel.backends() if name != "libsodium"]
    assert kernel.backend_name() in (*ours, "libsodium (PyNaCl)", "libsodium (system)")


@given(keys, st.lists(st.binary(max_size=200), max_size=130), st.integers(0, 2**64 - 200))
def test_batch_agrees_with_the_oracle(key: bytes, plain: list[bytes], counter: int) -> None:
    batch = filled(plain)
    assert ChaCha20Poly1305(key).seal_batch(batch, counter) == counter + len(plain)
    assert batch.packets() == [
        Oracle(key).encrypt(wireguard_nonce(counter + i), packet, None)
        for i, packet in enumerate(plain)
    ]
    assert ChaCha20Poly1305(key).open_batch(batch, counter) == len(plain)
    assert batch.packets() == plain


def test_open_batch_in_another_order() -> None:
    cipher = ChaCha20Poly1305(KEY)
    sealed = [cipher.encrypt(wireguard_nonce(n), bytes([n]), None) for n in range(4)]
    batch = filled([sealed[2], sealed[0], sealed[3]])
    assert cipher.open_batch(batch, [2, 0, 1]) == 2
    assert [batch.verdict(i) for i in range(3)] == [Verdict.PASS, Verdict.PASS, Verdict.BAD_TAG]
    assert batch.packets() == [b"\x02", b"\x00"]


def test_batch_skips_decided_slots_and_names_what_it_cannot_do() -> None:
    batch = PacketBatch(3, stride=128)
    batch.append(b"decided")
    batch.set_verdict(0, Verdict.SLOW)
    batch.append(bytes(32))
    batch.append(b"short")
    ChaCha20Poly1305(KEY).seal_batch(batch, 7)
    ChaCha20Poly1305(KEY).seal_batch(batch, 7)
    assert batch.packet(0) == b"decided" and batch.length(1) == 64
    ChaCha20Poly1305(KEY).seal_batch(batch, 7)
    assert batch.verdict(1) == Verdict.TOO_LONG
    short = filled([b"fifteen bytes.."])
    assert ChaCha20Poly1305(KEY).open_batch(short, 0) == 0
    assert short.verdict(0) == Verdict.BAD_TAG


@pytest.mark.parametrize("counters", [[1], [1, 2, 3], [-1, 0], [0, 2**64]])
def test_batch_wants_one_counter_a_slot(counters: list[int]) -> None:
    with pytest.raises(ValueError):
        ChaCha20Poly1305(KEY).open_batch(filled([bytes(20), bytes(20)]), counters)


def filled(packets: list[bytes]) -> PacketBatch:
    batch = PacketBatch(max(1, len(packets)))
    for packet in packets:
        batch.append(packet)
    return batch


def wireguard_nonce(counter: int) -> bytes:
    return bytes(4) + counter.to_bytes(8, "little")
