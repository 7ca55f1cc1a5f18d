"""Randomness that a seed decides, so that equal seeds give equal runs."""

from __future__ import annotations

from hashlib import shake_256


class SeededEntropy:
    """An `Entropy` for simulations. Never for keys that protect anything."""

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._calls = 0

    def __call__(self, size: int) -> bytes:
        self._calls += 1
        return shake_256(f"{self._seed}:{self._calls}".encode()).digest(size)
