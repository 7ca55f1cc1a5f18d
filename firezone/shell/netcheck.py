"""Runs a check of the network over real sockets, and asks the portal whether it is well."""

from __future__ import annotations

import errno
import http.client
import os
import select
import socket
import ssl
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from urllib.parse import urlsplit

from firezone.durations import MILLISECOND
from firezone.errors import ConfigurationError
from firezone.model import Endpoint, Transmit
from firezone.nat64 import Prefix
from firezone.netcheck import (
    MAIN,
    PROBED,
    RELAYING,
    SECOND,
    Netcheck,
    NetcheckReport,
    PortalReport,
    SendProbe,
    Server,
)
from firezone.shell.clock import boottime_ns
from firezone.shell.nat64 import find_prefix, is_needed
from firezone.shell.netcheck_streams import check_streams
from firezone.shell.network_watch import outward_families
from firezone.shell.sockets import UdpSocket, set_mark

STUN_PORT = 3478
PORTAL_TIMEOUT_SECONDS = 5.0
NAT64_TIMEOUT_SECONDS = 5.0

_ADDRESSES_PER_FAMILY = 2
_PORTS = {"http": 80, "https": 443}
_SCHEMES = {"ws": "http", "http": "http", "wss": "https", "https": "https"}


def resolve(text: str) -> Server:
    """The server that `HOST`, `HOST:PORT` or `[ADDRESS]:PORT` names.

    Raises ConfigurationError for nonsense. A name that does not resolve is a server without
    addresses.
    """
    host, port = _split(text)
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)
    except (OSError, UnicodeError):
        return Server(text, ())
    endpoints = dict.fromkeys(Endpoint.of(str(info[4][0]), port) for info in found)
    kept = [
        endpoint
        for family in (4, 6)
        for endpoint in [e for e in endpoints if e.family == family][:_ADDRESSES_PER_FAMILY]
    ]
    return Server(text, tuple(kept))


def check_network(
    servers: Iterable[Server], api_url: str | None, ssl_context: ssl.SSLContext | None = None
) -> NetcheckReport:
    """Takes a few seconds. Without `api_url` the portal is left out.

    Raises ConfigurationError for a URL that is none.
    """
    url = None if api_url is None else health_url(api_url)
    with ThreadPoolExecutor(1) as pool:
        portal = None if url is None else pool.submit(check_portal, url, ssl_context)
        with ExitStack() as opened:
            check = Netcheck(servers, entropy=os.urandom, nat64=_nat64(), now=boottime_ns())
            _drive(check, _open(opened))
        streams = check_streams(check.unreached)
        return check.report(None if portal is None else portal.result(), streams)


def health_url(api_url: str) -> str:
    """Where the portal at that URL answers health checks. Raises ConfigurationError."""
    try:
        parts = urlsplit(api_url)
        host, port = parts.hostname, parts.port
    except ValueError:
        host = port = None
    scheme = _SCHEMES.get(parts.scheme) if host else None
    if host is None or scheme is None:
        raise ConfigurationError(
            "api-url",
            "--api-url or FIREZONE_API_URL",
            "not the URL of a portal",
            "give the portal's address as wss://host[:port]",
        )
    shown = f"[{host}]" if ":" in host else host
    return f"{scheme}://{shown}:{port or _PORTS[scheme]}{parts.path.rstrip('/')}/healthz"


def check_portal(url: str, ssl_context: ssl.SSLContext | None) -> PortalReport:
    """Gets a URL of `health_url`, past the tunnel. Never raises for what the network does."""
    parts = urlsplit(url)
    host, port = parts.hostname or "", parts.port or 0
    started = time.monotonic()
    tls = None
    try:
        with ExitStack() as opened:
            connection = opened.enter_context(_connect(host, port))
            if parts.scheme == "https":
                context = ssl_context or ssl.create_default_context()
                connection = opened.enter_context(
                    context.wrap_socket(connection, server_hostname=host)
                )
                tls = _certificate(connection)
            status = _get(connection, host, port, parts.path)
    except ssl.SSLCertVerificationError as error:
        return PortalReport(url, False, tls="not trusted", error=error.verify_message)
    except TimeoutError:
        return PortalReport(url, False, tls=tls, error="no answer in time")
    except (OSError, http.client.HTTPException) as error:
        return PortalReport(url, False, tls=tls, error=_reason(error))
    milliseconds = round((time.monotonic() - started) * 1000, 3)
    error_text = None if status == 200 else f"HTTP status {status}"
    return PortalReport(url, status == 200, status, milliseconds, tls, error_text)


Sockets = dict[tuple[int, int], UdpSocket]
"""By family and use: MAIN and the others."""


def _nat64() -> Prefix | None:
    """Of this network, if it has IPv6 alone."""
    try:
        families = outward_families()
    except OSError:
        return None
    return find_prefix(NAT64_TIMEOUT_SECONDS) if is_needed(families) else None


def _drive(check: Netcheck, sockets: Sockets) -> None:
    poller = select.poll()
    by_fd = {opened.fileno(): (key, opened) for key, opened in sockets.items()}
    for fd in by_fd:
        poller.register(fd, select.POLLIN)
    while True:
        while (probe := check.poll_transmit()) is not None:
            _send(check, sockets, probe)
        timeout = check.poll_timeout()
        if timeout is None:
            return
        wait = max(0, timeout.deadline - boottime_ns())
        for fd, _ in poller.poll(wait / MILLISECOND):
            (_, which), opened = by_fd[fd]
            while (received := opened.receive()) is not None:
                data, local, source = received
                check.handle_datagram(which, local, source, data, boottime_ns())
        if timeout.deadline <= boottime_ns():
            check.handle_timeout(boottime_ns())


def _send(check: Netcheck, sockets: Sockets, probe: SendProbe) -> None:
    chosen = sockets.get((probe.destination.family, probe.socket))
    if chosen is None:
        reason = f"this host has no IPv{probe.destination.family}"
    elif chosen.send(Transmit(probe.payload, probe.destination)):
        return
    else:
        reason = f"cannot send: {_last_error(chosen)}"
    check.handle_unsent(probe, reason, boottime_ns())


def _last_error(chosen: UdpSocket) -> str:
    number = chosen.last_error
    return os.strerror(number) if number else "unknown"


def _open(opened: ExitStack) -> Sockets:
    sockets: Sockets = {}
    for family in (4, 6):
        for which in (MAIN, SECOND, PROBED, RELAYING):
            try:
                made = UdpSocket(family, port=0)
            except OSError:
                continue
            opened.callback(made.close)
            made.forbid_fragmentation()
            sockets[family, which] = made
    return sockets


def _split(text: str) -> tuple[str, int]:
    host, colon, port = text.rpartition(":")
    if not colon or (":" in host and not host.endswith("]")):
        host, port = text, str(STUN_PORT)
    host = host.removeprefix("[").removesuffix("]")
    if not host or not port.isdecimal() or not 0 < int(port) <= 65535:
        raise ConfigurationError(
            "STUN server",
            "--stun",
            f"{text!r} is no host",
            "write it like host, host:3478, [::1]:3478",
        )
    return host, int(port)


def _connect(host: str, port: int) -> socket.socket:
    """To the first address that answers. Marked, so that it never enters the tunnel."""
    problem: OSError = OSError(errno.EADDRNOTAVAIL, "the name has no address")
    for family, kind, protocol, _, address in socket.getaddrinfo(
        host, port, type=socket.SOCK_STREAM
    ):
        made = socket.socket(family, kind, protocol)
        set_mark(made)
        made.settimeout(PORTAL_TIMEOUT_SECONDS)
        try:
            made.connect(address)
        except OSError as error:
            made.close()
            problem = error
            continue
        return made
    raise problem


def _get(connection: socket.socket, host: str, port: int, path: str) -> int:
    client = http.client.HTTPConnection(host, port, timeout=PORTAL_TIMEOUT_SECONDS)
    client.sock = connection
    client.request("GET", path, headers={"Connection": "close"})
    return client.getresponse().status


def _certificate(connection: ssl.SSLSocket) -> str:
    certificate = connection.getpeercert() or {}
    until = str(certificate.get("notAfter", "?"))
    try:
        left = ssl.cert_time_to_seconds(until) - time.time()
    except ValueError:
        return "trusted"
    return f"trusted, valid until {until} ({left / 86400:.0f} days)"


def _reason(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error) or type(error).__name__
