"""ChaCha20-Poly1305 (RFC 8439) over the packets of a batch, and over one message."""

from _typeshed import ReadableBuffer

from firezone._ext.batch import PacketBatch

def backend_name() -> str:
    """Which code works on batches: "avx512", "avx2", "libsodium (PyNaCl)" or "libsodium (system)".

    Behind libsodium's it says so if a better one has failed its self-test.
    """

def backends() -> tuple[str, ...]:
    """The backends that this CPU can run; the first is the one that "auto" means."""

def use_backend(name: str) -> None:
    """Change the backend, for tests and benchmarks; no data thread may run.

    At import, the environment's FIREZONE_AEAD does the same. ValueError for a name that is neither
    "auto" nor one of `backends`.
    """

def seal(key: bytes, nonce: bytes, data: ReadableBuffer, associated_data: ReadableBuffer) -> bytes:
    """Ciphertext and tag. ValueError unless the key has 32 bytes and the nonce 12."""

def open(
    key: bytes, nonce: bytes, data: ReadableBuffer, associated_data: ReadableBuffer
) -> bytes | None:
    """The plaintext, or None if the tag does not verify. ValueError as for `seal`."""

def seal_batch(batch: PacketBatch, key: bytes, counters: ReadableBuffer) -> None:
    """PASS slots: seal in place; each grows by the tag of 16 bytes, or becomes TOO_LONG.

    `counters` is an array of `Q` with one element a slot: the nonce is four zero bytes and the
    counter in little endian. ValueError if it has another number of elements.
    """

def open_batch(batch: PacketBatch, key: bytes, counters: ReadableBuffer) -> None:
    """PASS slots: open in place; each shrinks by the tag, or becomes BAD_TAG."""
