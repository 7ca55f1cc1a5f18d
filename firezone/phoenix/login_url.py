"""Where a role logs in: `wss://host[:port][/base]/<role>/websocket?token=…`.

The token travels in the query, so the whole URL is a secret: only `display` may be shown.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from ipaddress import IPv4Address, IPv6Address
from urllib.parse import urlencode, urlsplit

from firezone.errors import ConfigurationError

_UUID = re.compile(
    r"(?:\{|urn:uuid:)?[0-9a-f]{8}(-?)(?:[0-9a-f]{4}\1){3}[0-9a-f]{12}\}?", re.IGNORECASE
)
_SCHEMES = {"ws": "ws", "http": "ws", "wss": "wss", "https": "wss"}
_DEFAULT_PORTS = {"ws": 80, "wss": 443}


@dataclass(frozen=True, slots=True)
class LoginUrl:
    """One role's way in. `host` is a name or an address without brackets."""

    scheme: str
    host: str
    port: int
    path: str
    query: tuple[tuple[str, str], ...] = field(repr=False)

    @classmethod
    def client(
        cls,
        api_url: str,
        token: str,
        *,
        device_id: str,
        name: str,
        device_serial: str | None = None,
        device_uuid: str | None = None,
    ) -> LoginUrl:
        """For a client. Raises ConfigurationError."""
        return cls._of(
            api_url,
            "client",
            token=token,
            external_id=external_id(device_id),
            name=name,
            device_serial=device_serial,
            device_uuid=device_uuid,
        )

    @classmethod
    def gateway(cls, api_url: str, token: str, *, device_id: str, name: str) -> LoginUrl:
        """For a gateway. Raises ConfigurationError."""
        return cls._of(
            api_url, "gateway", token=token, external_id=external_id(device_id), name=name
        )

    @classmethod
    def relay(
        cls,
        api_url: str,
        token: str,
        *,
        name: str | None = None,
        ipv4: IPv4Address | None = None,
        ipv6: IPv6Address | None = None,
        port: int = 3478,
    ) -> LoginUrl:
        """For a relay that clients reach at these addresses. Raises ConfigurationError."""
        return cls._of(
            api_url,
            "relay",
            token=token,
            name=name,
            ipv4=str(ipv4) if ipv4 else None,
            ipv6=str(ipv6) if ipv6 else None,
            port=str(port),
        )

    @classmethod
    def _of(cls, api_url: str, role: str, **query: str | None) -> LoginUrl:
        try:
            parts = urlsplit(api_url)
            host, port = parts.hostname, parts.port
        except ValueError as error:
            raise _bad_url(api_url, str(error)) from None
        scheme = _SCHEMES.get(parts.scheme)
        if scheme is None:
            raise _bad_url(api_url, f"scheme {parts.scheme!r} is none of ws, wss, http, https")
        if not host:
            raise _bad_url(api_url, "no host")
        base = parts.path.removesuffix("/")
        given = tuple((key, value) for key, value in query.items() if value is not None)
        port = port or _DEFAULT_PORTS[scheme]
        return cls(scheme, host, port, f"{base}/{role}/websocket", given)

    def with_query(self, extra: Mapping[str, str]) -> LoginUrl:
        """With parameters appended that change from connect to connect, as `public_key`."""
        kept = tuple((key, value) for key, value in self.query if key not in extra)
        return replace(self, query=(*kept, *extra.items()))

    @property
    def text(self) -> str:
        """The whole URL, token included."""
        return f"{self.display}?{urlencode(self.query)}"

    @property
    def display(self) -> str:
        """The URL without its query: fit to be shown."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}:{self.port}{self.path}"


def external_id(device_id: str) -> str:
    """How the portal knows this device: a UUID is hashed, exactly as written, case included."""
    if _UUID.fullmatch(device_id):
        return hashlib.sha256(device_id.encode()).hexdigest()
    return device_id


def _bad_url(api_url: str, problem: str) -> ConfigurationError:
    shown = api_url.partition("?")[0].rpartition("@")[2]
    return ConfigurationError(
        "api-url",
        "--api-url or FIREZONE_API_URL",
        f"{shown!r}: {problem}",
        "give the portal's address as wss://host[:port]",
    )
