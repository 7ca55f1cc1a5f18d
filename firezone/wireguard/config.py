"""The configuration file of wg-quick(8): what it says, or where and how it is wrong.

Sections and keys are case-insensitive, `#` begins a comment, lists are joined by commas and may go
on in another line of the same key. An error names the line, the key and the form that was expected,
and never shows what could be a secret.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Interface, IPv6Interface, ip_interface, ip_network
from typing import Any

from firezone.errors import ConfigurationError
from firezone.model import Endpoint
from firezone.wireguard.allowed_ips import IPNetwork
from firezone.wireguard.settings import (
    KEY_SIZE,
    MAX_PEERS,
    NO_KEY,
    AllowedIP,
    DeviceChange,
    PeerChange,
    is_usable,
)

IPInterface = IPv4Interface | IPv6Interface

MTU_RANGE = range(576, 1921)
"""A packet and what wraps it must fit a slot of the data plane, 2048 bytes."""


@dataclass(frozen=True, slots=True)
class Table:
    """Where the routes go: None is `off`, 0 is `auto`, else the number of a routing table."""

    number: int | None = 0


@dataclass(frozen=True, slots=True)
class HostPort:
    """An endpoint as it stands in a file: the host may be a name."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class InterfaceSection:
    """`[Interface]`. `dns` is read but not applied: set the resolver up in `post_up`."""

    private_key: bytes = field(repr=False)
    addresses: tuple[IPInterface, ...] = ()
    listen_port: int = 0
    mtu: int | None = None
    table: Table = Table()
    fwmark: int | None = None
    dns: tuple[str, ...] = ()
    save_config: bool = False
    """What the file asks for. It is never written."""
    pre_up: tuple[str, ...] = ()
    post_up: tuple[str, ...] = ()
    pre_down: tuple[str, ...] = ()
    post_down: tuple[str, ...] = ()
    places: Mapping[str, str] = field(default_factory=dict, repr=False, compare=False)
    """Of each field that was set, `file:line`."""


@dataclass(frozen=True, slots=True)
class PeerSection:
    """`[Peer]`."""

    public_key: bytes
    preshared_key: bytes | None = field(default=None, repr=False)
    allowed_ips: tuple[IPNetwork, ...] = ()
    endpoint: HostPort | None = None
    persistent_keepalive: int = 0
    places: Mapping[str, str] = field(default_factory=dict, repr=False, compare=False)
    """Of each field that was set, `file:line`."""


@dataclass(frozen=True, slots=True)
class Config:
    """A whole file."""

    interface: InterfaceSection
    peers: tuple[PeerSection, ...] = ()

    def change(self, resolved: Mapping[HostPort, Endpoint]) -> DeviceChange:
        """The change that makes an interface what the file says; `resolved` tells the addresses of
        the endpoints. A peer whose endpoint is not among them gets none."""
        return DeviceChange(
            private_key=self.interface.private_key,
            listen_port=self.interface.listen_port,
            fwmark=self.interface.fwmark or 0,
            replace_peers=True,
            peers=tuple(_peer_change(peer, resolved) for peer in self.peers),
        )


def parse_config(text: str, source: str) -> Config:
    """Read a file; `source` is what errors call it. Raises ConfigurationError."""
    reader = _Reader(source)
    for number, line in enumerate(text.splitlines(), 1):
        reader.read(line.partition("#")[0].strip(), number)
    return reader.finish()


def _peer_change(peer: PeerSection, resolved: Mapping[HostPort, Endpoint]) -> PeerChange:
    return PeerChange(
        peer.public_key,
        preshared_key=peer.preshared_key or NO_KEY,
        endpoint=resolved.get(peer.endpoint) if peer.endpoint is not None else None,
        persistent_keepalive=peer.persistent_keepalive,
        replace_allowed_ips=True,
        allowed_ips=tuple(map(AllowedIP, peer.allowed_ips)),
    )


class _Reader:
    """Reads line by line; `_section` is the one under way, of which `_values` are known."""

    def __init__(self, source: str) -> None:
        self._source = source
        self._section = ""
        self._began = 0
        self._values: dict[str, Any] = {}
        self._places: dict[str, str] = {}
        self._interface: InterfaceSection | None = None
        self._peers: list[PeerSection] = []
        self._keys: set[bytes] = set()

    def read(self, line: str, number: int) -> None:
        if not line:
            return
        if line.startswith("["):
            self._close()
            self._open(line, number)
            return
        key, equals, value = (part.strip() for part in line.partition("="))
        at = f"{self._source}:{number}"
        if not equals:
            raise ConfigurationError("line", at, "has no `=`", "write it as Key = value")
        if not self._section:
            raise ConfigurationError(
                _shown(key), at, "stands before any section", "begin the file with [Interface]"
            )
        self._set(key, value, at)

    def finish(self) -> Config:
        self._close()
        if self._interface is None:
            raise ConfigurationError(
                "[Interface]", self._source, "missing", "add it, with a PrivateKey"
            )
        return Config(self._interface, tuple(self._peers))

    def _open(self, line: str, number: int) -> None:
        section = line.lower()
        at = f"{self._source}:{number}"
        if section not in _SECTIONS:
            known = " or ".join(title for title, _ in _SECTIONS.values())
            raise ConfigurationError("section", at, "unknown", f"use {known}")
        if section == "[interface]" and self._interface is not None:
            raise ConfigurationError("[Interface]", at, "is there twice", "keep one of them")
        self._section, self._began = section, number
        self._values, self._places = {}, {}

    def _set(self, key: str, value: str, at: str) -> None:
        title, keys = _SECTIONS[self._section]
        setting = keys.get(key.lower())
        if setting is None:
            names = ", ".join(known.title for known in keys.values())
            raise ConfigurationError(
                f"{title} {_shown(key)}", at, "unknown key", f"use one of {names}"
            )
        try:
            parsed = setting.parse(value)
        except ValueError as error:
            problem = str(error) or ("malformed" if setting.secret else _malformed(value))
            raise ConfigurationError(
                f"{title} {setting.title}", at, problem, f"write {setting.expected}"
            ) from None
        if isinstance(parsed, tuple):
            parsed = self._values.get(setting.field, ()) + parsed
        if setting.field:
            self._values[setting.field] = parsed
            self._places[setting.field] = at

    def _close(self) -> None:
        match self._section:
            case "[interface]":
                self._require("private_key", "PrivateKey")
                self._interface = InterfaceSection(**self._values, places=self._places)
            case "[peer]":
                self._require("public_key", "PublicKey")
                self._add_peer(PeerSection(**self._values, places=self._places))
        self._section = ""

    def _add_peer(self, peer: PeerSection) -> None:
        self._keys.add(peer.public_key)
        if len(self._keys) > MAX_PEERS:
            raise ConfigurationError(
                "[Peer] PublicKey",
                f"{self._source}:{self._began}",
                f"is one more than the {MAX_PEERS} peers that there can be",
                "leave some out",
            )
        self._peers.append(peer)

    def _require(self, name: str, title: str) -> None:
        if name not in self._values:
            section = _SECTIONS[self._section][0]
            raise ConfigurationError(
                f"{section} {title}",
                f"{self._source}:{self._began}",
                "missing",
                f"add {title} = <{_KEY_FORM}>",
            )


@dataclass(frozen=True, slots=True)
class _Setting:
    """One key of a section. `parse` raises ValueError, whose text is the problem unless empty."""

    title: str
    field: str
    parse: Callable[[str], object]
    expected: str
    secret: bool = False


_KEY_FORM = "44 characters of base64, as `wg genkey` prints them"


def _shown(key: str) -> str:
    """The key, unless it could be a secret in the wrong place."""
    return key if re.fullmatch(r"[A-Za-z]{1,24}", key) else "key"


def _malformed(value: str) -> str:
    """What is long enough to be a key is not repeated, whatever setting it stands in."""
    return "malformed" if re.search(r"[A-Za-z0-9+/]{32}", value) else f"{value!r} is malformed"


def _key(text: str) -> bytes:
    if not re.fullmatch(r"[A-Za-z0-9+/]{42}[AEIMQUYcgkosw048]=", text):
        raise ValueError
    key = base64.b64decode(text)
    assert len(key) == KEY_SIZE
    return key


def _public_key(text: str) -> bytes:
    key = _key(text)
    if not is_usable(key):
        raise ValueError("is of small order: nobody has the private key of it")
    return key


def _optional_key(text: str) -> bytes | None:
    key = _key(text)
    return None if key == NO_KEY else key


def _number(limit: int, *, least: int = 0, off: bool = False) -> Callable[[str], int]:
    def parse(text: str) -> int:
        if off and text.lower() == "off":
            return 0
        if not re.fullmatch(r"0x[0-9A-Fa-f]{1,8}|[0-9]{1,10}", text):
            raise ValueError
        number = int(text, 0) if text.startswith("0x") else int(text)
        if not least <= number <= limit:
            raise ValueError(f"{text} is out of range")
        return number

    return parse


def _list(parse: Callable[[str], object]) -> Callable[[str], tuple[object, ...]]:
    def parse_all(text: str) -> tuple[object, ...]:
        made = []
        for part in filter(None, (part.strip() for part in text.split(","))):
            try:
                made.append(parse(part))
            except ValueError:
                raise ValueError(_malformed(part)) from None
        return tuple(made)

    return parse_all


def _network(text: str) -> IPNetwork:
    return ip_network(_strict(text), strict=False)


def _address(text: str) -> IPInterface:
    return ip_interface(_strict(text))


def _strict(text: str) -> str:
    """Of the forms of a mask that Python reads, only the length of a prefix is meant here."""
    _, slash, length = text.partition("/")
    if slash and not re.fullmatch(r"[0-9]{1,3}", length):
        raise ValueError
    return text


def _endpoint(text: str) -> HostPort:
    host, _, port = text.rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    bare = host[1:-1] if bracketed else host
    if not bare or (":" in bare) != bracketed or not re.fullmatch(r"[\w.:%-]+", bare):
        raise ValueError
    if "%" in bare:
        raise ValueError("has a scope (%): link-local endpoints are not supported")
    return HostPort(bare, _number(0xFFFF, least=1)(port))


def _table(text: str) -> Table:
    match text.lower():
        case "off":
            return Table(None)
        case "auto":
            return Table()
    return Table(_number(0xFFFFFFFF, least=1)(text))


def _command(text: str) -> tuple[str, ...]:
    if not text:
        raise ValueError("is empty")
    return (text,)


def _boolean(text: str) -> bool:
    if text.lower() not in ("true", "false"):
        raise ValueError
    return text.lower() == "true"


def _commands(*titles: str) -> dict[str, _Setting]:
    return {
        title.lower(): _Setting(
            title, re.sub(r"(?<=.)([A-Z])", r"_\1", title).lower(), _command, "a shell command"
        )
        for title in titles
    }


def _by_key(*settings: _Setting) -> dict[str, _Setting]:
    return {setting.title.lower(): setting for setting in settings}


_PREFIXES = "addresses with or without /length, joined by commas"
_PORT = "a number from 0 to 65535"
_INTERFACE = _by_key(
    _Setting("PrivateKey", "private_key", _key, _KEY_FORM, secret=True),
    _Setting("Address", "addresses", _list(_address), _PREFIXES),
    _Setting("ListenPort", "listen_port", _number(0xFFFF), _PORT),
    _Setting(
        "MTU",
        "mtu",
        _number(MTU_RANGE[-1], least=MTU_RANGE[0]),
        f"a number from {MTU_RANGE[0]} to {MTU_RANGE[-1]}",
    ),
    _Setting("Table", "table", _table, "auto, off, or the number of a routing table"),
    _Setting(
        "FwMark", "fwmark", _number(0xFFFFFFFF, off=True), "off, or 32 bits such as 51820 or 0xca6c"
    ),
    _Setting("DNS", "dns", _list(str), "addresses and domains, joined by commas"),
    _Setting("SaveConfig", "save_config", _boolean, "true or false"),
) | _commands("PreUp", "PostUp", "PreDown", "PostDown")
_PEER = _by_key(
    _Setting("PublicKey", "public_key", _public_key, _KEY_FORM, secret=True),
    _Setting("PresharedKey", "preshared_key", _optional_key, _KEY_FORM, secret=True),
    _Setting("AllowedIPs", "allowed_ips", _list(_network), _PREFIXES),
    _Setting("Endpoint", "endpoint", _endpoint, "host:port, or [IPv6 address]:port"),
    _Setting(
        "PersistentKeepalive",
        "persistent_keepalive",
        _number(0xFFFF, off=True),
        "off, or seconds from 0 to 65535",
    ),
)
_SECTIONS = {"[interface]": ("[Interface]", _INTERFACE), "[peer]": ("[Peer]", _PEER)}
