"""Several accounts behind one door: each has a control plane of its own and knows no other.

A token leads to its account. Only a relay may be everyone's: its one connection is a session in
every account's control plane. Those say the same to it, so one of them is its speaker, and what the
others say is left out; the connection ends when the last of them has closed it.

Connections are numbered here, and once more within each account.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from firezone.model import Entropy, Timeout
from firezone.portal.admission import Admission, Refusal, Request
from firezone.portal.config import Config, PortalFile
from firezone.portal.control_plane import ControlPlane
from firezone.portal.sessions import CloseConnection, Output, SendText
from firezone.portal.store import Store
from firezone.portal.tokens import token_hash

Local = tuple[str, int]
"""An account's name and a connection number within it."""


@dataclass(frozen=True, slots=True)
class _Connection:
    """`members` are its sessions that are not closed; the first of them speaks."""

    number: int
    admission: Admission
    members: tuple[Local, ...]


class Accounts:
    """The control planes of a portal file, to be driven as one."""

    def __init__(
        self,
        *,
        file: PortalFile,
        store: Store,
        entropy: Entropy,
        wall_clock: Callable[[], int],
        now: int,
    ) -> None:
        self._store = store
        self._entropy = entropy
        self._wall_clock = wall_clock
        self._file = file
        self._planes: dict[str, ControlPlane] = {}
        self._connections: dict[int, _Connection] = {}
        self._numbers: dict[Local, int] = {}
        self._next = 0
        self._closing: list[Output] = []
        for name, config in file.accounts.items():
            self._open(name, config, now)

    def admit(self, request: Request) -> Admission | Refusal:
        """Whether to accept an upgrade. Raises AddressesExhausted and sqlite3.Error."""
        names = self._file.accounts_of(token_hash(request.query.get("token", "")))
        # Any account knows how to refuse a token that none has.
        outcomes = [self._planes[name].admit(request) for name in names or list(self._planes)[:1]]
        admitted = (outcome for outcome in outcomes if not isinstance(outcome, Refusal))
        return next(admitted, outcomes[0])

    def handle_connected(self, admission: Admission, now: int) -> int:
        """A WebSocket is open. Gives its connection number."""
        self._next += 1
        members: list[Local] = []
        for name in self._file.accounts_of(admission.token.hash):
            local = name, self._planes[name].handle_connected(admission, now)
            self._numbers[local] = self._next
            members.append(local)
        self._connections[self._next] = _Connection(self._next, admission, tuple(members))
        if not members:
            self._closing.append(CloseConnection(self._next))
        return self._next

    def handle_text(self, connection: int, text: str | bytes, now: int) -> None:
        """A frame arrived."""
        for name, local in self._members(connection):
            self._planes[name].handle_text(local, text, now)

    def handle_disconnected(self, connection: int, now: int) -> None:
        """A WebSocket is closed."""
        for name, local in self._members(connection):
            del self._numbers[name, local]
            self._planes[name].handle_disconnected(local, now)
        self._connections.pop(connection, None)

    def handle_file(self, file: PortalFile, now: int) -> None:
        """Another portal file is in force: everyone hears what it changes for them."""
        before, self._file = self._file, file
        for name, plane in self._planes.items():
            config = file.accounts.get(name)
            # An account that is gone has no tokens: that ends everything in it.
            plane.handle_config(config or replace(before.accounts[name], tokens={}), now)
        for name, config in file.accounts.items():
            if name not in self._planes:
                self._open(name, config, now)
        self._bring_relays()

    def handle_timeout(self, now: int) -> None:
        """Do what is due."""
        for plane in self._planes.values():
            if plane.poll_timeout().deadline <= now:
                plane.handle_timeout(now)

    def poll_output(self) -> Output | None:
        """What to write, or which connection to close."""
        for name, plane in list(self._planes.items()):
            while (output := plane.poll_output()) is not None:
                if (translated := self._translate(name, output)) is not None:
                    return translated
            if name not in self._file.accounts:
                del self._planes[name]
        return self._closing.pop() if self._closing else None

    def poll_timeout(self) -> Timeout:
        """When to call `handle_timeout`."""
        timeouts = (plane.poll_timeout() for plane in self._planes.values())
        return min(timeouts, key=lambda timeout: timeout.deadline)

    def _open(self, name: str, config: Config, now: int) -> None:
        self._planes[name] = ControlPlane(
            config=config,
            store=self._store,
            entropy=self._entropy,
            wall_clock=self._wall_clock,
            now=now,
        )

    def _members(self, connection: int) -> tuple[Local, ...]:
        found = self._connections.get(connection)
        return () if found is None else found.members

    def _bring_relays(self) -> None:
        """Relays of everyone come anew to accounts that were added or enabled.

        For those that have them already, a relay that is back within seconds was never gone.
        """
        for connection in self._connections.values():
            present = {name for name, _ in connection.members}
            names = self._file.accounts_of(connection.admission.token.hash)
            wanted = {name for name in names if not self._file.accounts[name].account.disabled}
            if present and wanted - present:
                self._closing.append(CloseConnection(connection.number))

    def _translate(self, name: str, output: Output) -> Output | None:
        number = self._numbers.get((name, output.connection))
        connection = None if number is None else self._connections.get(number)
        if connection is None:
            return None
        match output:
            case SendText():
                is_speaker = connection.members[:1] == ((name, output.connection),)
                return replace(output, connection=connection.number) if is_speaker else None
            case CloseConnection():
                return self._leave(connection, (name, output.connection))

    def _leave(self, connection: _Connection, local: Local) -> Output | None:
        """One account closed its session; only the last one closes the connection."""
        members = tuple(member for member in connection.members if member != local)
        self._numbers.pop(local, None)
        self._connections[connection.number] = replace(connection, members=members)
        return None if members else CloseConnection(connection.number)
