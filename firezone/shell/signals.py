"""Signals that mean the same to several programs."""

from __future__ import annotations

import asyncio
import logging
import signal


def ignore_hangup() -> None:
    """Go on at SIGHUP: the terminal that a program was started from may close before it ends."""
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGHUP, logger.info, "SIGHUP is ignored; SIGTERM ends this")


logger = logging.getLogger(__name__)
