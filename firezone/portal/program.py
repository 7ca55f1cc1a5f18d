"""Runs the portal as a program: state, file, server and signals together."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import ssl
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from firezone.durations import MILLISECOND
from firezone.model import Endpoint
from firezone.portal.accounts import Accounts
from firezone.portal.failures import PortalFailed, report
from firezone.portal.reload import Reloader, fingerprint, load
from firezone.portal.server import PortalServer, listen
from firezone.portal.store import Store
from firezone.shell.clock import boottime_ns

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Settings:
    """What the command line says."""

    config: Path
    state: Path
    listen: Endpoint
    ssl_context: ssl.SSLContext | None


async def run_portal(settings: Settings) -> None:
    """Serve until SIGINT or SIGTERM.

    Raises ConfigurationError if it cannot start, PortalFailed if it cannot go on.
    """
    started = boottime_ns()
    loaded = fingerprint(settings.config)
    file = load(settings.config)
    store = Store.open(settings.state, os.urandom)
    try:
        sock = listen(settings.listen)
        accounts = Accounts(
            file=file,
            store=store,
            entropy=os.urandom,
            wall_clock=lambda: int(time.time()),
            now=started,
        )
        server = PortalServer(
            accounts, sock=sock, clock=boottime_ns, ssl_context=settings.ssl_context
        )
        async with server:
            reloader = Reloader(settings.config, server.apply, loaded=loaded)
            await _serve(settings, server, reloader, started)
    finally:
        store.close()


async def _serve(
    settings: Settings, server: PortalServer, reloader: Reloader, started: int
) -> None:
    stop = asyncio.Event()
    with _signals(stop, reloader):
        watching = asyncio.create_task(reloader.run(), name="reloader")
        watching.add_done_callback(report)
        fields = {
            "event": "ready",
            "listen": str(settings.listen),
            "tls": settings.ssl_context is not None,
            "elapsed_ms": (boottime_ns() - started) // MILLISECOND,
        }
        _log.info("the portal serves", extra=fields)
        stopping = asyncio.create_task(stop.wait())
        tasks = [watching, server.timekeeper, stopping]
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        failed = [task.get_name() for task in tasks if task.done() and task is not stopping]
        stopping.cancel()
        watching.cancel()
    if failed:
        raise PortalFailed(f"the portal cannot go on: its {failed[0]} failed, see the log")
    _log.info("the portal stops", extra={"event": "stopped"})


@contextmanager
def _signals(stop: asyncio.Event, reloader: Reloader) -> Iterator[None]:
    loop = asyncio.get_running_loop()
    handlers = {
        signal.SIGINT: stop.set,
        signal.SIGTERM: stop.set,
        signal.SIGHUP: reloader.request,
    }
    for number, handler in handlers.items():
        loop.add_signal_handler(number, handler)
    try:
        yield
    finally:
        for number in handlers:
            loop.remove_signal_handler(number)
