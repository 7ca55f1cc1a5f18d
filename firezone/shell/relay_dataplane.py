"""Runs a relay role on sockets: threads for data, asyncio for everything else.

The threads, or workers, forward what arrives on bound channels, in both directions, and what goes
by Send and Data, in compiled code without the GIL (`ext/relay.pyx`); and they answer what strangers
ask. All other STUN messages come up through a bounded ring of each worker, announced by an eventfd:
a flood of them makes the ring overflow and delays no data. What cannot be sent at once is dropped,
as any router does, and counted. One socket that breaks costs its allocation and no other.

Each worker has a listening socket of its own. The kernel gives all that a client sends to the same
one, and the socket of an allocation is read by the worker that its Allocate came through: so all of
an allocation is one worker's, and nothing in it overtakes anything else.

Commands take effect at once: the next datagram meets the new table. Before anything is told to a
client, and before another socket opens, every worker has passed the point after which it uses
nothing that was removed, and the descriptors of ended allocations are closed.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import socket
import threading
from collections import Counter
from collections.abc import Callable, Iterable
from functools import lru_cache
from typing import Final

from firezone._ext.relay import Forwarder, Notice
from firezone._ext.ring import Ring
from firezone.errors import LocalError
from firezone.model import Endpoint, Entropy, IPAddress, Transmit, unpack_address
from firezone.relay import RelayRole, RoleEvent
from firezone.shell.alarm import Alarm
from firezone.shell.clock import unix_ns
from firezone.shell.relay_one_port import OnePortAddresses
from firezone.shell.relay_sockets import (
    never_fragments,
    open_listeners,
    open_relay_socket,
    relayed_address,
    send,
    transmit,
)
from firezone.shell.xdp import XdpTier
from firezone.turn.relay_commands import (
    BindChannel,
    CloseSocket,
    FiveTuple,
    Forbid,
    OpenSocket,
    Permit,
    SendToPeer,
    Steer,
    UnbindChannel,
    Unsteer,
)

BATCH: Final = 64
"""STUN messages that are handled before others on the asyncio loop have their turn."""

logger = logging.getLogger("firezone.relay")

_Address = tuple[int, bytes, int]


class RelayDataplane:
    """Runs a relay role on sockets. `on_event` gets the role's events, in order.

    `on_failure` is told of what ends the data path, which no network can cause.
    """

    def __init__(
        self,
        role: RelayRole,
        *,
        public: Iterable[IPAddress],
        listen_port: int,
        clock: Callable[[], int],
        on_event: Callable[[RoleEvent], None],
        on_failure: Callable[[OSError], None],
        workers: int = 1,
        max_sockets: int | None = None,
        one_port: bool = False,
        gso: bool = True,
        gro: bool = True,
        entropy: Entropy = os.urandom,
    ) -> None:
        """`public` are the relay's public addresses: their families are those it serves. `clock` is
        that of the nonces which threads hand out: CLOCK_BOOTTIME, or ahead of it. `workers`
        are threads for data. Beyond `max_sockets` none is opened for an allocation; with
        `one_port`, which the role's server has to have as well, none at all. `gso` and `gro` allow
        to let the kernel split and merge datagrams, where it can."""
        self._role = role
        self._public: dict[int, IPAddress] = {a.version: a for a in public}
        self._listen_port = listen_port
        self._max_sockets = max_sockets
        self._is_one_port = one_port
        self._one_port: OnePortAddresses | None = None
        self._clock = clock
        self._on_event = on_event
        self._on_failure = on_failure
        self._wanted = {"UDP_SEGMENT": gso, "UDP_GRO": gro}
        self._wake_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._rings = [Ring(1024, self._wake_fd) for _ in range(workers)]
        self._forwarder = Forwarder(entropy(16), *self._rings, gso=gso, gro=gro)
        self._threads: list[threading.Thread] = []
        self._is_draining = False
        self._asked_by = 0
        self._listeners: dict[int, list[socket.socket]] = {}
        self._relays: dict[tuple[int, int], socket.socket] = {}
        self._closing: list[socket.socket] = []
        self._alarm = Alarm(clock, self._on_timer)
        self._xdp: XdpTier | None = None
        self._relayed = 0
        self._has_told_gso = False
        self._counters: Counter[str] = Counter()

    @property
    def counters(self) -> Counter[str]:
        """What was dropped, or left to user space by the tier in the kernel, by reason."""
        xdp = Counter[str]() if self._xdp is None else self._xdp.counters
        return self._counters + Counter(self._forwarder.drops()) + xdp

    @property
    def answered(self) -> Counter[str]:
        """Requests of strangers that the role did not see, as it would have counted them."""
        binding, challenge = self._forwarder.answered()
        return Counter(binding_success=binding, error_401=challenge)

    @property
    def traffic(self) -> tuple[tuple[int, int, int], tuple[int, int, int]]:
        """Sent to peers, and to clients: packets, payload bytes, and calls they took."""
        return self._forwarder.traffic()

    @property
    def indication_bytes(self) -> int:
        """How many of these bytes went by Send and Data."""
        return self._forwarder.indicated()

    @property
    def loads(self) -> list[int]:
        """Packets that each worker has sent: the kernel spreads clients by chance."""
        return self._forwarder.loads()

    @property
    def xdp(self) -> XdpTier | None:
        """The tier in the kernel, if there is one; its traffic is not in `traffic`."""
        return self._xdp

    def use_xdp(self, tier: XdpTier) -> None:
        """Let it move the data of channels that are bound from now on. It is closed with us."""
        self._xdp = tier

    def open(self) -> None:
        """Listen. Raises ConfigurationError if a port is taken or a family missing."""
        for family, public in self._public.items():
            port, count = self._listen_port, len(self._rings)
            own = public.packed if self._is_one_port else None
            self._listeners[family] = open_listeners(family, port, count)
            for worker, listener in enumerate(self._listeners[family]):
                self._forwarder.add(listener.fileno(), family, port, True, worker, own)
        if self._is_one_port:
            self._one_port = OnePortAddresses(self._public.values(), self._listen_port)
        self._tell_missing()
        answers = self._role.server.stranger_answers
        self._forwarder.answer_strangers(answers.binding, answers.challenge, answers.nonce_key)
        loop = asyncio.get_running_loop()
        loop.add_reader(self._wake_fd, self._on_wake)
        for worker in range(len(self._rings)):
            thread = threading.Thread(
                target=self._forward, args=(worker, loop), name=f"relay-{worker}", daemon=True
            )
            self._threads.append(thread)
            thread.start()
        self.flush()

    def close(self) -> None:
        """Stop, and close every socket. It is of no use afterwards."""
        if self._threads:
            self._forwarder.stop()
            for thread in self._threads:
                thread.join()
            self._threads.clear()
            asyncio.get_running_loop().remove_reader(self._wake_fd)
        if self._xdp is not None:
            self._xdp.close()
        listeners = [listener for group in self._listeners.values() for listener in group]
        for opened in (*listeners, *self._relays.values(), *self._closing):
            opened.close()
        self._listeners.clear()
        self._relays.clear()
        self._closing.clear()
        os.close(self._wake_fd)
        self._alarm.cancel()

    def handle_stream_opened(self, bridge: Endpoint, client: Endpoint) -> None:
        """See `Relay.handle_stream_opened`: only the role knows where that client really is."""
        self._forwarder.defer(bridge.family, bridge.port, True)
        self._role.server.handle_stream_opened(bridge, client)

    def handle_stream_closed(self, bridge: Endpoint) -> None:
        """See `Relay.handle_stream_closed`."""
        self._forwarder.defer(bridge.family, bridge.port, False)
        self._role.handle_stream_closed(bridge, self._clock())
        self.flush()

    def flush(self) -> None:
        """Carry out what the role wants. Call it after every input it got from elsewhere."""
        self._carry_out()
        self._tell_and_wait()

    def _carry_out(self) -> None:
        while (command := self._role.poll_command()) is not None:
            match command:
                case Transmit():
                    self._transmit(command)
                case OpenSocket():
                    self._open_relay_socket(command)
                case CloseSocket(port, family):
                    self._close_relay_socket(port, family)
                case BindChannel():
                    self._bind(command)
                case UnbindChannel(five_tuple, number):
                    if self._xdp is not None:
                        self._xdp.unbind(five_tuple, number)
                    self._forwarder.unbind(*_client(five_tuple), number)
                case Permit(five_tuple, port, address, any_port):
                    client, peer = _client(five_tuple), (address.version, address.packed)
                    self._forwarder.permit(*client, port, *peer, any_port)
                case Forbid(port, address):
                    self._forwarder.forbid(address.version, address.packed, port)
                case SendToPeer():
                    self._send_to_peer(command)
                case Steer() | Unsteer():
                    self._steer(command)

    def _tell_and_wait(self) -> None:
        self._settle()
        while (event := self._role.poll_event()) is not None:
            self._on_event(event)
        self._alarm.set(self._role.poll_timeout())

    # The threads

    def _forward(self, worker: int, loop: asyncio.AbstractEventLoop) -> None:
        try:
            self._forwarder.run(worker)
        except OSError as error:
            loop.call_soon_threadsafe(self._on_failure, error)

    def _on_wake(self) -> None:
        os.eventfd_read(self._wake_fd)
        if not self._is_draining:
            self._drain()

    def _drain(self) -> None:
        """A ring announces itself only when it was empty, so the rest is asked for again."""
        self._is_draining = False
        for _ in range(BATCH // len(self._rings) + 1):
            if not self._drain_one_each():
                break
        else:
            self._is_draining = True
            asyncio.get_running_loop().call_soon(self._drain)
        if self._threads:
            self._tell_and_wait()

    def _drain_one_each(self) -> bool:
        """Workers take turns. False once there is nothing more."""
        found = False
        for worker, ring in enumerate(self._rings):
            item = ring.pop() if self._threads else None
            if item is not None:
                found = True
                self._on_item(worker, *item)
        return found

    def _on_item(
        self,
        worker: int,
        kind: int,
        family: int,
        argument: int,
        payload: bytes,
        local: _Address | None,
        remote: _Address | None,
    ) -> None:
        if remote is not None:
            self._asked_by = worker
            self._on_datagram(argument, payload, local, _endpoint(remote))
        elif kind == Notice.SOCKET_FAILED:
            self._on_socket_failed(argument)
        elif kind == Notice.GSO_REFUSED:
            self._tell_refused(family, argument)

    def _on_datagram(
        self, port: int, payload: bytes, local: _Address | None, source: Endpoint
    ) -> None:
        """A client's message to our address `local`, or with one port what a peer sent there."""
        now = self._clock()
        if local is not None:
            self._role.handle_client_datagram(_endpoint(local), source, payload, now)
        elif self._one_port is not None:
            self._role.handle_peer_datagram(port, self._one_port.of_peer(source), payload, now)
        self._carry_out()

    def _on_socket_failed(self, port: int) -> None:
        if port != self._listen_port:  # else `run` has ended
            self._role.server.handle_socket_failed(port, self._clock())
            self._role.handle_activity(self._clock())
            self._carry_out()

    def _tell_missing(self) -> None:
        found = {"UDP_SEGMENT": self._forwarder.gso, "UDP_GRO": self._forwarder.gro}
        for option, wanted in self._wanted.items():
            if wanted and not found[option]:
                logger.warning("this kernel lacks %s: datagrams are moved one by one", option)

    def _tell_refused(self, family: int, error: int) -> None:
        self._counters["gso_refused"] += 1
        if not self._has_told_gso:
            self._has_told_gso = True
            text = "this host does not split datagrams over IPv%d (%s): they are sent one by one"
            logger.warning(text, family, os.strerror(error))

    # Commands

    def _transmit(self, datagram: Transmit) -> None:
        self._settle()
        try:
            transmit(self._listeners[datagram.destination.family][0], datagram)
        except OSError as error:
            self._count("send_to_client", error)

    def _send_to_peer(self, command: SendToPeer) -> None:
        """A Send of which the thread was not certain, and with one port what tells names."""
        if self._one_port is not None:
            self._send_from_one_port(self._one_port, command)
            return
        opened = self._relays.get((command.port, command.peer.family))
        try:
            if opened is not None:
                send(opened, command)
        except OSError as error:
            self._count("send_to_peer", error)

    def _send_from_one_port(self, addresses: OnePortAddresses, command: SendToPeer) -> None:
        peer = addresses.on_socket(command.peer)
        datagram = Transmit(bytes(command.payload), peer, addresses.source(peer))
        try:
            transmit(self._listeners[peer.family][0], datagram)
        except OSError as error:
            self._count("send_to_peer", error)

    def _open_relay_socket(self, command: OpenSocket) -> None:
        if self._one_port is not None:
            now = self._clock()
            self._role.handle_socket_opened(command.port, command.family, True, now)
            return
        self._settle()
        is_open = True
        port, family = command.port, command.family
        try:
            if self._max_sockets is not None and len(self._relays) >= self._max_sockets:
                raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
            opened = open_relay_socket(command, self._public[family])
            self._relays[port, family] = opened
            self._forwarder.add(opened.fileno(), family, port, worker=self._asked_by)
        except OSError as error:
            is_open = False
            self._count("open", error)
            if (unused := self._relays.pop((port, family), None)) is not None:
                unused.close()
        self._role.handle_socket_opened(port, family, is_open, self._clock())

    def _close_relay_socket(self, port: int, family: int) -> None:
        opened = self._relays.pop((port, family), None)
        if opened is not None:
            self._forwarder.remove(family, port)
            self._closing.append(opened)

    def _settle(self) -> None:
        """Where the thread does not get to run for long, the sockets wait for the next time."""
        if self._forwarder.settle() and self._closing:
            for opened in self._closing:
                opened.close()
            self._closing.clear()

    def _bind(self, command: BindChannel) -> None:
        client, local = _client(command.five_tuple)
        ways = (client, local, command.number, command.port)
        if self._one_port is not None:
            peer = self._one_port.on_socket(command.peer)
            source = self._one_port.source(peer)
            packed = None if source is None else source.address.packed
            self._forwarder.bind(*ways, _address(peer), self._asked_by, packed)
            return
        self._forwarder.bind(*ways, _address(command.peer))
        if self._xdp is not None:
            self._bind_in_kernel(self._xdp, command)

    def _steer(self, command: Steer | Unsteer) -> None:
        assert self._one_port is not None
        peer = _address(self._one_port.on_socket(command.peer))
        if isinstance(command, Unsteer):
            self._forwarder.unsteer(peer, command.index)
        elif command.five_tuple is None:
            self._forwarder.steer(peer, command.index)
        else:
            client = _client(command.five_tuple)
            self._forwarder.steer(peer, command.index, *client, command.number)

    def _bind_in_kernel(self, tier: XdpTier, command: BindChannel) -> None:
        """Datagrams keep their own DF bit there, so not where it has to be set."""
        opened = self._relays[command.port, command.peer.family]
        relayed = relayed_address(opened, command.peer)
        if relayed is not None and not never_fragments(opened):
            tier.bind(command.five_tuple, command.number, relayed, command.peer)

    # Time

    def _on_timer(self) -> None:
        relayed = sum(payload for _, payload, _ in self._forwarder.traffic())
        if self._xdp is not None:
            relayed += sum(payload for _, payload in self._xdp.traffic)
        self._role.handle_relayed(relayed - self._relayed)
        self._relayed = relayed
        now = self._clock()
        self._role.server.handle_wall_clock(unix_ns(), now)  # it may have been set meanwhile
        self._role.handle_timeout(now)
        self.flush()

    def _count(self, what: str, error: OSError) -> None:
        self._counters[f"{what}_{errno.errorcode.get(error.errno or 0, 'unknown')}"] += 1


def _client(five_tuple: FiveTuple) -> tuple[_Address, _Address]:
    client, local = five_tuple
    if local is None:
        raise LocalError("a client's datagram without the address it was sent to")
    return _address(client), _address(local)


def _address(endpoint: Endpoint) -> _Address:
    return (endpoint.family, endpoint.address.packed, endpoint.port)


@lru_cache(maxsize=4096)
def _endpoint(address: _Address) -> Endpoint:
    """Remembered, because the same few come again and again."""
    return Endpoint(unpack_address(address[1]), address[2])
