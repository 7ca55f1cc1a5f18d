"""How many workers the data plane has: pairs of threads, one thread for each direction."""

from __future__ import annotations

import os

from firezone._ext.pipeline import WORKERS as MAX_WORKERS
from firezone.errors import ConfigurationError

__all__ = ["MAX_WORKERS", "choose_workers", "default_workers"]

_CORES_OF_ONE = 4
"""Fewer have enough to do with one pair of threads, the kernel's part and the programs."""


def choose_workers(wanted: int | None) -> int:
    """What was asked for, None for the default. Raises ConfigurationError if it cannot be."""
    if wanted is None:
        return default_workers()
    if not 1 <= wanted <= MAX_WORKERS:
        raise ConfigurationError(
            "workers",
            "--workers or FIREZONE_WORKERS",
            f"there cannot be {wanted}",
            f"use 1 to {MAX_WORKERS}",
        )
    return wanted


def default_workers() -> int:
    """Half of the cores that this process may use, one below four."""
    cores = len(os.sched_getaffinity(0))
    return 1 if cores < _CORES_OF_ONE else min(cores // 2, MAX_WORKERS)
