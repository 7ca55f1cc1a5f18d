"""What the portal must remember over a restart, in one SQLite file.

Peers keep their id, tunnel addresses and `psk_base` for as long as the file lives: they are known
by who they belong to (an actor, a site) and the external id that they send. Flows are remembered
so that access which ended while its gateway was away can still be taken back from it.
"""

from __future__ import annotations

import logging
import os
import sqlite3
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from itertools import chain
from pathlib import Path
from typing import Any

from firezone.errors import ConfigurationError, FirezoneError
from firezone.model import Entropy, IPAddress

IPV4_POOL = IPv4Network("100.64.0.0/11")
IPV6_POOL = IPv6Network("fd00:2021:1111::/107")
VERSION = 1

_log = logging.getLogger(__name__)

_SCHEMA = """
CREATE TABLE peers (
    id TEXT PRIMARY KEY,
    account TEXT NOT NULL,
    role TEXT NOT NULL,
    owner TEXT NOT NULL,
    external_id TEXT NOT NULL,
    name TEXT NOT NULL,
    public_key TEXT NOT NULL,
    ipv4 TEXT NOT NULL,
    ipv6 TEXT NOT NULL,
    psk_base BLOB NOT NULL,
    UNIQUE (account, role, owner, external_id),
    UNIQUE (account, ipv4),
    UNIQUE (account, ipv6)
) STRICT;
CREATE TABLE flows (
    client_id TEXT NOT NULL,
    gateway_id TEXT NOT NULL,
    resource_id TEXT NOT NULL,
    actor TEXT NOT NULL,
    site TEXT NOT NULL,
    token_hash TEXT NOT NULL,
    remote_ip TEXT NOT NULL,
    target TEXT NOT NULL,
    expires_at INTEGER NOT NULL,
    revoked INTEGER NOT NULL,
    PRIMARY KEY (client_id, gateway_id, resource_id)
) STRICT;
"""


FlowKey = tuple[str, str, str]
"""The ids of client, gateway and resource."""


class AddressesExhausted(FirezoneError):
    """The account has no tunnel address left."""


@dataclass(frozen=True, slots=True)
class Identity:
    """A client or gateway as the portal knows it."""

    id: str
    ipv4: IPv4Address
    ipv6: IPv6Address
    psk_base: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Flow:
    """A client's access to a resource through a gateway until `expires_at` (Unix seconds).

    The rest is what the decision rested on, so that it can be taken again. `revoked`: it ended
    before its time, and its gateway may not have heard of that.
    """

    client_id: str
    gateway_id: str
    resource_id: str
    actor: str
    site: str
    token_hash: str = field(repr=False)
    remote_ip: str
    target: str
    expires_at: int
    revoked: bool = False

    @property
    def key(self) -> FlowKey:
        return self.client_id, self.gateway_id, self.resource_id


class Store:
    """Open with `Store.open`; every call is one transaction, on disk when it returns."""

    def __init__(self, connection: sqlite3.Connection, entropy: Entropy) -> None:
        self._db = connection
        self._entropy = entropy

    @classmethod
    def open(cls, path: Path | None, entropy: Entropy) -> Store:
        """The file at `path`, made if absent; None keeps everything in memory.

        A damaged file is refused and left as it is. Raises ConfigurationError.
        """
        try:
            connection = _connect(path)
            _prepare(connection)
        except sqlite3.DatabaseError as error:
            raise ConfigurationError(
                "state", str(path), f"cannot use the database: {error}", _REMEDY
            ) from None
        except OSError as error:
            raise ConfigurationError(
                "state", str(path), error.strerror or str(error), "give a path we may write to"
            ) from None
        return cls(connection, entropy)

    def close(self) -> None:
        self._db.close()

    def identify(
        self, account: str, role: str, owner: str, external_id: str, name: str, public_key: str
    ) -> Identity:
        """The peer that sends this external id; a new one gets id, addresses and psk_base.

        Raises AddressesExhausted.
        """
        where = (account, role, owner, external_id)
        row = self._find(where)
        if row is None:
            with self._transaction():
                self._create(where, name, public_key)
            row = self._find(where)
        else:
            self._rename(row[0], name, public_key)
        assert row is not None
        return Identity(row[0], IPv4Address(row[1]), IPv6Address(row[2]), row[3])

    def flows(self, account: str) -> list[Flow]:
        """All of an account that are remembered."""
        rows = self._db.execute(
            "SELECT client_id, gateway_id, resource_id, actor, site, token_hash, remote_ip,"
            " target, expires_at, revoked FROM flows"
            " WHERE client_id IN (SELECT id FROM peers WHERE account = ?)",
            (account,),
        )
        return [_flow(row) for row in rows]

    def put_flow(self, flow: Flow) -> None:
        """Remember a flow, in place of one with the same key."""
        with self._transaction():
            self._db.execute(
                "INSERT OR REPLACE INTO flows VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    *flow.key,
                    flow.actor,
                    flow.site,
                    flow.token_hash,
                    flow.remote_ip,
                    flow.target,
                    flow.expires_at,
                    int(flow.revoked),
                ),
            )

    def delete_flow(self, key: FlowKey) -> None:
        with self._transaction():
            self._db.execute(
                "DELETE FROM flows WHERE client_id = ? AND gateway_id = ? AND resource_id = ?",
                key,
            )

    def _find(self, where: tuple[str, str, str, str]) -> tuple[str, str, str, bytes] | None:
        cursor = self._db.execute(
            "SELECT id, ipv4, ipv6, psk_base FROM peers"
            " WHERE account = ? AND role = ? AND owner = ? AND external_id = ?",
            where,
        )
        row: tuple[str, str, str, bytes] | None = cursor.fetchone()
        return row

    def _create(self, where: tuple[str, str, str, str], name: str, public_key: str) -> None:
        account = where[0]
        self._db.execute(
            "INSERT INTO peers VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                str(uuid.UUID(bytes=self._entropy(16), version=4)),
                *where,
                name,
                public_key,
                str(self._free_address(account, "ipv4", IPV4_POOL)),
                str(self._free_address(account, "ipv6", IPV6_POOL)),
                self._entropy(32),
            ),
        )

    def _rename(self, id: str, name: str, public_key: str) -> None:
        """For whoever reads the file. A known peer is let in even where that cannot be written."""
        try:
            with self._transaction():
                self._db.execute(
                    "UPDATE peers SET name = ?, public_key = ? WHERE id = ?",
                    (name, public_key, id),
                )
        except sqlite3.Error as error:
            _log.error("cannot write the portal's state: %s", error)

    def _free_address(
        self, account: str, column: str, pool: IPv4Network | IPv6Network
    ) -> IPAddress:
        """From a random place upward, then downward; the ends of the pool are never given out."""
        last = pool.num_addresses - 2
        start = 2 + int.from_bytes(self._entropy(8), "big") % (last - 2)
        for offset in chain(range(start, last + 1), range(start - 1, 1, -1)):
            address: IPAddress = pool[offset]
            if not self._is_taken(account, column, address):
                return address
        raise AddressesExhausted(f"account {account} has no tunnel address left")

    def _is_taken(self, account: str, column: str, address: IPAddress) -> bool:
        query = f"SELECT 1 FROM peers WHERE account = ? AND {column} = ?"
        return self._db.execute(query, (account, str(address))).fetchone() is not None

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        with self._db:
            yield


def _flow(row: tuple[Any, ...]) -> Flow:
    *fields, revoked = row
    return Flow(*fields, revoked=bool(revoked))  # type: ignore[misc]


_REMEDY = "restore it from a backup, or move it away to start with new identities"


def _connect(path: Path | None) -> sqlite3.Connection:
    if path is None:
        return sqlite3.connect(":memory:")
    # Made by us first: it holds secrets, and SQLite would go by the umask alone.
    os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
    return sqlite3.connect(path, timeout=1)


def _prepare(connection: sqlite3.Connection) -> None:
    """Check the whole file once, then bring an empty one to our schema."""
    problems = connection.execute("PRAGMA quick_check(1)").fetchone()
    if problems != ("ok",):
        raise sqlite3.DatabaseError(f"it is damaged: {problems[0]}")
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if version not in (0, VERSION):
        raise sqlite3.DatabaseError(f"its version is {version}, ours is {VERSION}")
    connection.execute("PRAGMA secure_delete = ON")
    if version == 0:
        with connection:
            connection.executescript(f"BEGIN; {_SCHEMA} PRAGMA user_version = {VERSION}; COMMIT;")
