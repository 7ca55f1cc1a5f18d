"""The relay on real sockets of this host's loopback."""

from __future__ import annotations

import asyncio
import gc
import os
import random
import resource
import socket
import struct
import time
from collections.abc import Awaitable, Callable
from contextlib import closing, suppress
from ipaddress import IPv4Address, IPv6Address
from typing import Any

import pytest
from aioice import turn as aioice_turn

from firezone import stun
from firezone.durations import SECOND
from firezone.errors import ConfigurationError
from firezone.model import Endpoint
from firezone.relay import RelayRole, RoleEvent
from firezone.shell.clock import boottime_ns, unix_ns
from firezone.shell.relay_dataplane import RelayDataplane
from firezone.stun import Message, Method
from firezone.turn.relay import Relay
from firezone.turn.relay_auth import password_of
from firezone.turn.relay_peers import PeerPolicy
from tests.ports import free_port, relayed_ports

SECRET = "5e" * 32
USERNAME = "4000000000:salt"
OFFLOADS = [(gso, gro) for gso in (True, False) for gro in (True, False)]
V4, V6 = IPv4Address("127.0.0.1"), IPv6Address("::1")


class Running:
    """A relay on sockets, and what it told."""

    def __init__(
        self,
        port: int,
        clock: Callable[[], int] = boottime_ns,
        ports: range | None = None,
        **options: Any,
    ) -> None:
        self.events: list[RoleEvent] = []
        self.failures: list[OSError] = []
        self.port, self.ports = port, ports or relayed_ports()
        now = clock()
        self.server = Relay(
            public_ipv4=V4,
            public_ipv6=V6,
            listen_port=port,
            ports=self.ports,
            auth_secret=SECRET,
            peers=PeerPolicy(allow_loopback=True),
            entropy=os.urandom,
            unix_now=unix_ns(),
            now=now,
        )
        self.role = RelayRole(self.server, now=now)
        self.dataplane = RelayDataplane(
            self.role,
            public=[V4, V6],
            listen_port=port,
            clock=clock,
            on_event=self.events.append,
            on_failure=self.failures.append,
            **options,
        )


class Client:
    """A blocking-free TURN client on one socket."""

    def __init__(self, running: Running, family: int = 4, host: str = "") -> None:
        af, default = (socket.AF_INET, "127.0.0.1") if family == 4 else (socket.AF_INET6, "::1")
        self.relay = (host or default, running.port)
        self.socket = socket.socket(af, socket.SOCK_DGRAM)
        self.socket.setblocking(False)
        self.socket.bind((default, 0))
        self.nonce = ""

    async def receive(self) -> tuple[bytes, tuple[str, int]]:
        async with asyncio.timeout(5):
            loop = asyncio.get_running_loop()
            data, source = await loop.sock_recvfrom(self.socket, 0x10000)
            return data, source[:2]

    async def ask(self, message: Message) -> Message:
        key = None
        if self.nonce:
            message = message.with_(stun.USERNAME, USERNAME).with_(stun.NONCE, self.nonce)
            key = stun.long_term_key(USERNAME, "firezone", password_of(USERNAME, SECRET) or "")
        self.socket.sendto(message.encode(key), self.relay)
        data, source = await self.receive()
        assert source == self.relay
        return stun.decode(data)

    async def allocate(self, *values: tuple[stun.Attribute[Any], Any]) -> Message:
        message = request(Method.ALLOCATE, (stun.REQUESTED_TRANSPORT, 17), *values)
        self.nonce = (await self.ask(message)).get(stun.NONCE) or ""
        return await self.ask(message)

    async def bind(self, number: int, peer: Endpoint) -> Message:
        values = [(stun.CHANNEL_NUMBER, number), (stun.XOR_PEER_ADDRESS, peer)]
        return await self.ask(request(Method.CHANNEL_BIND, *values))

    def send(self, number: int, payload: bytes) -> None:
        self.socket.sendto(struct.pack(">HH", number, len(payload)) + payload, self.relay)

    async def permit(self, *peers: Endpoint) -> Message:
        values = [(stun.XOR_PEER_ADDRESS, peer) for peer in peers]
        return await self.ask(request(Method.CREATE_PERMISSION, *values))

    def indicate(
        self, peer: Endpoint, payload: bytes, *values: tuple[stun.Attribute[Any], Any]
    ) -> None:
        message = Message.indication(Method.SEND, os.urandom)
        for attribute, value in ((stun.XOR_PEER_ADDRESS, peer), *values, (stun.DATA, payload)):
            message = message.with_(attribute, value)
        self.socket.sendto(message.encode(), self.relay)

    @property
    def address(self) -> Endpoint:
        return Endpoint.of(*self.socket.getsockname()[:2])


def request(method: Method, *values: tuple[stun.Attribute[Any], Any]) -> Message:
    message = Message.request(method, os.urandom)
    for attribute, value in values:
        message = message.with_(attribute, value)
    return message


def with_relay(test: Callable[[Running], Awaitable[None]], **options: Any) -> None:
    async def run() -> None:
        running = Running(free_port(), **options)
        running.dataplane.open()
        try:
            await test(running)
        finally:
            running.dataplane.close()

    asyncio.run(run())


@pytest.mark.parametrize(("gso", "gro"), OFFLOADS)
@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("peer_family", [4, 6])
def test_data_crosses_both_ways(family: int, peer_family: int, gso: bool, gro: bool) -> None:
    async def test(running: Running) -> None:
        client, peer = Client(running, family), Client(running, peer_family)
        response = await client.allocate((stun.ADDITIONAL_ADDRESS_FAMILY, 6))
        relayed = {e.family: e for e in response.get_all(stun.XOR_RELAYED_ADDRESS)}
        assert relayed[4].port == relayed[6].port
        await client.bind(0x4001, Endpoint.of(*peer.socket.getsockname()[:2]))
        for payload in (b"ping", b"", os.urandom(1400), os.urandom(60_000)):
            client.send(0x4001, payload)
            data, source = await peer.receive()
            assert (data, source) == (payload, relayed[peer_family].sockaddr)
            peer.socket.sendto(payload[::-1], source)
            data, source = await client.receive()
            assert data == struct.pack(">HH", 0x4001, len(payload)) + payload[::-1]
            assert source == client.relay

    with_relay(test, gso=gso, gro=gro)


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("peer_family", [4, 6])
def test_send_and_data_indications(family: int, peer_family: int) -> None:
    async def test(running: Running) -> None:
        client, peer = Client(running, family), Client(running, peer_family)
        response = await client.allocate((stun.ADDITIONAL_ADDRESS_FAMILY, 6))
        relayed = {e.family: e for e in response.get_all(stun.XOR_RELAYED_ADDRESS)}
        assert (await client.permit(peer.address)).class_ is stun.Class.SUCCESS
        for payload in (b"ping", b"", os.urandom(1400)):
            client.indicate(peer.address, payload)
            data, source = await peer.receive()
            assert (data, source) == (payload, relayed[peer_family].sockaddr)
            peer.socket.sendto(payload[::-1], source)
            data, source = await client.receive()
            message = stun.decode(data)
            assert (message.class_, message.method) == (stun.Class.INDICATION, Method.DATA)
            assert message.get(stun.XOR_PEER_ADDRESS) == peer.address
            assert (message.get(stun.DATA), source) == (payload[::-1], client.relay)
        assert running.dataplane.counters == {}
        await client.ask(request(Method.REFRESH, (stun.LIFETIME, 0)))
        client.indicate(peer.address, b"late")
        assert (await client.ask(request(Method.BINDING))).class_ is stun.Class.SUCCESS
        assert running.server.counters["send_without_allocation"] == 1

    with_relay(test)


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("whole_allocation", [True, False])
def test_datagrams_that_may_not_be_fragmented(family: int, whole_allocation: bool) -> None:
    """The option is the allocation's, or that of one datagram and then gone again."""
    option = (socket.IPPROTO_IP, 10) if family == 4 else (socket.IPPROTO_IPV6, 23)

    async def test(running: Running) -> None:
        client, peer = Client(running, family), Client(running, family)
        asked = [(stun.DONT_FRAGMENT, True)] if whole_allocation else []
        await client.allocate((stun.REQUESTED_ADDRESS_FAMILY, family), *asked)
        await client.permit(peer.address)
        (opened,) = running.dataplane._relays.values()
        assert (opened.getsockopt(*option) == 3) is whole_allocation
        client.indicate(peer.address, b"first", (stun.DONT_FRAGMENT, True))
        assert (await peer.receive())[0] == b"first"
        assert (opened.getsockopt(*option) == 3) is whole_allocation
        await client.bind(0x4000, peer.address)
        client.send(0x4000, b"second")
        assert (await peer.receive())[0] == b"second"

    with_relay(test)


def test_reply_leaves_from_the_address_that_was_asked() -> None:
    async def test(running: Running) -> None:
        client = Client(running, host="127.0.0.2")
        await client.allocate()
        assert (await client.ask(request(Method.BINDING))).class_ is stun.Class.SUCCESS

    with_relay(test)


def test_same_socket_towards_two_addresses_is_two_clients() -> None:
    async def test(running: Running) -> None:
        client, peer = Client(running), Client(running)
        address = Endpoint.of(*peer.socket.getsockname())
        await client.allocate()
        await client.bind(0x4000, address)
        client.relay, client.nonce = ("127.0.0.2", running.port), ""
        await client.allocate()
        assert running.server.allocation_count == 2
        client.send(0x4000, b"not bound here")
        await client.bind(0x4000, address)
        client.send(0x4000, b"bound")
        assert (await peer.receive())[0] == b"bound"
        assert running.dataplane.counters["unbound_channel"] == 1

    with_relay(test)


def test_strangers_and_ends() -> None:
    """Neither another peer, nor another client, nor anyone after the end gets through."""

    async def test(running: Running) -> None:
        client, peer, other = Client(running), Client(running), Client(running)
        response = await client.allocate()
        relayed = response.get(stun.XOR_RELAYED_ADDRESS)
        assert relayed is not None
        await client.bind(0x4000, Endpoint.of(*peer.socket.getsockname()))
        other.socket.sendto(b"stranger", relayed.sockaddr)
        other.send(0x4000, b"stranger")
        client.socket.sendto(b"\x40\x00\xff\xff", client.relay)
        peer.socket.sendto(b"friend", relayed.sockaddr)
        assert (await client.receive())[0] == b"\x40\x00\x00\x06friend"
        await client.ask(request(Method.REFRESH, (stun.LIFETIME, 0)))
        client.send(0x4000, b"late")
        assert (await client.ask(request(Method.BINDING))).class_ is stun.Class.SUCCESS
        dropped = {"unbound_peer": 1, "unbound_channel": 2, "truncated": 1}
        assert running.dataplane.counters == dropped
        with closing(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as again:
            again.bind(relayed.sockaddr)

    with_relay(test)


def test_port_in_use_is_replaced() -> None:
    async def test(running: Running) -> None:
        taken = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in running.ports[:50]]
        try:
            for port, sock in zip(running.ports, taken, strict=False):
                with suppress(OSError):  # taken by somebody else
                    sock.bind(("127.0.0.1", port))
            clients = [Client(running) for _ in range(10)]
            for client in clients:
                relayed = (await client.allocate()).get(stun.XOR_RELAYED_ADDRESS)
                assert relayed is None or relayed.port >= running.ports[50]
        finally:
            for sock in taken:
                sock.close()

    with_relay(test)


def test_allocation_expires_by_the_clock() -> None:
    ahead = 0

    async def test(running: Running) -> None:
        nonlocal ahead
        client = Client(running)
        await client.allocate((stun.LIFETIME, 60))
        ahead = 61 * SECOND
        running.role.handle_timeout(boottime_ns() + ahead)
        running.dataplane.flush()
        assert running.server.allocation_count == 0

    with_relay(test, clock=lambda: boottime_ns() + ahead)


def test_wall_clock_that_is_set_later() -> None:
    """A host may start with a wrong one: credentials are not judged by that for ever."""

    async def test(running: Running) -> None:
        client = Client(running)
        running.server.handle_wall_clock(2**62, boottime_ns())  # as it was at the start
        refused = (await client.allocate()).get(stun.ERROR_CODE)
        assert refused is not None and refused.code == 401
        running.dataplane._on_timer()
        client.nonce = ""
        assert (await client.allocate()).class_ is stun.Class.SUCCESS

    with_relay(test)


def test_timer_wakes_the_relay() -> None:
    async def test(running: Running) -> None:
        client = Client(running)
        await client.allocate((stun.LIFETIME, 1))
        deadline = time.monotonic() + 3
        while running.server.allocation_count and time.monotonic() < deadline:
            await asyncio.sleep(0.05)
        assert running.server.allocation_count == 0

    with_relay(test)


def test_flood_on_data_does_not_starve_control() -> None:
    async def test(running: Running) -> None:
        client, other, peer = Client(running), Client(running), Client(running)
        await client.allocate()
        await client.bind(0x4000, Endpoint.of(*peer.socket.getsockname()))
        for _ in range(2000):
            client.send(0x4000, bytes(1200))
        assert (await other.ask(request(Method.REFRESH))).get(stun.NONCE)

    with_relay(test)


def test_flood_of_indications_does_not_starve_control() -> None:
    async def test(running: Running) -> None:
        client, other, peer = Client(running), Client(running), Client(running)
        await client.allocate()
        for _ in range(2000):
            client.indicate(peer.address, bytes(1200))
        assert (await other.ask(request(Method.REFRESH))).get(stun.NONCE)
        assert running.server.counters["send_without_permission"] > 0

    with_relay(test)


def test_flood_of_a_permitted_peer_does_not_starve_control() -> None:
    """It comes up through the ring that requests come by, but gets half of it at most."""

    async def test(running: Running) -> None:
        client, other, peer = Client(running), Client(running), Client(running)
        relayed = (await client.allocate()).get(stun.XOR_RELAYED_ADDRESS)
        assert relayed is not None
        await client.permit(peer.address)
        for _ in range(2000):
            peer.socket.sendto(bytes(1200), relayed.sockaddr)
        assert (await other.ask(request(Method.REFRESH))).get(stun.NONCE)
        data, _ = await client.receive()
        assert stun.decode(data).method == Method.DATA

    with_relay(test)


def test_strangers_do_not_reach_python() -> None:
    async def test(running: Running) -> None:
        client = Client(running)
        response = await client.ask(request(Method.BINDING))
        assert response.get(stun.XOR_MAPPED_ADDRESS) == client.address
        for _ in range(3):
            challenge = await client.ask(request(Method.ALLOCATE, (stun.REQUESTED_TRANSPORT, 17)))
        assert running.server.counters == {}
        assert running.dataplane.answered == {"binding_success": 1, "error_401": 3}
        client.nonce = challenge.get(stun.NONCE) or ""
        response = await client.ask(request(Method.ALLOCATE, (stun.REQUESTED_TRANSPORT, 17)))
        assert response.class_ is stun.Class.SUCCESS

    with_relay(test)


def test_client_over_a_stream_is_told_its_own_address() -> None:
    async def test(running: Running) -> None:
        client, elsewhere = Client(running), Endpoint.of("203.0.113.5", 40000)
        running.dataplane.handle_stream_opened(client.address, elsewhere)
        response = await client.ask(request(Method.BINDING))
        assert response.get(stun.XOR_MAPPED_ADDRESS) == elsewhere
        running.dataplane.handle_stream_closed(client.address)
        response = await client.ask(request(Method.BINDING))
        assert response.get(stun.XOR_MAPPED_ADDRESS) == client.address
        assert running.dataplane.answered["binding_success"] == 1

    with_relay(test)


@pytest.mark.parametrize("workers", [1, 3])
def test_listen_port_that_is_taken(workers: int) -> None:
    async def run() -> None:
        port = free_port()
        with closing(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as taken:
            taken.bind(("", port))
            running = Running(port, workers=workers)
            with pytest.raises(ConfigurationError, match="listen port"):
                running.dataplane.open()
            running.dataplane.close()

    asyncio.run(run())


def test_another_relay_does_not_share_the_port() -> None:
    """Although the workers of each one do: clients of the first would be lost on the second."""

    async def test(running: Running) -> None:
        second = Running(running.port, workers=2)
        with pytest.raises(ConfigurationError, match="listen port"):
            second.dataplane.open()
        second.dataplane.close()

    with_relay(test, workers=2)


@pytest.mark.parametrize("family", [4, 6])
def test_every_worker_serves_its_clients(family: int) -> None:
    """Requests of all come to the one server, and what it allocates is read by the same worker."""

    async def test(running: Running) -> None:
        peer = Client(running, family)
        address = Endpoint.of(*peer.socket.getsockname()[:2])
        clients = [Client(running, family) for _ in range(40)]
        for number, client in enumerate(clients, 0x4000):
            await client.allocate((stun.REQUESTED_ADDRESS_FAMILY, family))
            before = running.dataplane.loads
            await client.bind(number, address)
            client.send(number, b"ping")
            data, source = await peer.receive()
            peer.socket.sendto(data, source)
            assert (await client.receive())[0] == struct.pack(">HH", number, 4) + b"ping"
            after = running.dataplane.loads
            # Both directions are the same worker's. Counted after the datagram has been seen.
            deadline = time.monotonic() + 5
            while sum(after) < sum(before) + 2 and time.monotonic() < deadline:
                await asyncio.sleep(0.001)
                after = running.dataplane.loads
            gained = [now - then for now, then in zip(after, before, strict=True)]
            assert sorted(gained) == [0, 0, 2]
        assert running.dataplane.traffic == ((40, 160, 40), (40, 160, 40))
        assert min(running.dataplane.loads) > 0 and running.dataplane.counters == {}

    with_relay(test, workers=3)


def test_channel_that_expires_stops_at_once() -> None:
    """It can be bound anew, and works again."""
    ahead = 0

    async def test(running: Running) -> None:
        nonlocal ahead
        client, peer = Client(running), Client(running)
        await client.allocate((stun.LIFETIME, 3600))
        address = Endpoint.of(*peer.socket.getsockname())
        await client.bind(0x4000, address)
        ahead = 601 * SECOND
        running.role.handle_timeout(boottime_ns() + ahead)
        running.dataplane.flush()
        client.send(0x4000, b"too late")
        await client.bind(0x4000, address)
        client.send(0x4000, b"bound again")
        assert (await peer.receive())[0] == b"bound again"
        assert running.dataplane.counters == {"unbound_channel": 1}

    with_relay(test, clock=lambda: boottime_ns() + ahead)


def test_port_is_free_when_the_client_hears_of_it() -> None:
    """Nothing of the former allocation, neither socket nor channel, is left for the next one."""

    async def test(running: Running) -> None:
        for _ in range(20):
            client, peer = Client(running), Client(running)
            relayed = (await client.allocate()).get(stun.XOR_RELAYED_ADDRESS)
            assert relayed is not None
            await client.bind(0x4000, Endpoint.of(*peer.socket.getsockname()))
            for _ in range(50):
                client.send(0x4000, bytes(1000))
            await client.ask(request(Method.REFRESH, (stun.LIFETIME, 0)))
            with closing(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as again:
                again.bind(relayed.sockaddr)

    with_relay(test)


def test_thousand_allocations() -> None:
    """All of them relay both ways, and leave nothing behind."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < 4096:
        pytest.skip("needs 4096 file descriptors")
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))

    async def test(running: Running) -> None:
        gc.collect()  # what earlier tests left open is not ours to count
        before = len(os.listdir("/proc/self/fd"))
        peer = Client(running)

        async def echo() -> None:
            while True:
                data, source = await peer.receive()
                peer.socket.sendto(data, source)

        async def use(client: Client) -> None:
            await client.allocate()
            await client.bind(0x4000, peer.address)
            client.send(0x4000, b"ping")
            assert (await client.receive())[0] == b"\x40\x00\x00\x04ping"

        async def give_up(client: Client) -> None:
            await client.ask(request(Method.REFRESH, (stun.LIFETIME, 0)))
            client.socket.close()

        echoing = asyncio.create_task(echo())
        clients = [Client(running) for _ in range(1000)]
        for first in range(0, 1000, 20):
            await asyncio.gather(*map(use, clients[first : first + 20]))
        echoing.cancel()
        assert running.server.allocation_count == 1000
        for first in range(0, 1000, 20):
            await asyncio.gather(*map(give_up, clients[first : first + 20]))
        assert running.server.allocation_count == 0
        deadline = time.monotonic() + 5
        while len(os.listdir("/proc/self/fd")) > before + 1 and time.monotonic() < deadline:
            running.dataplane.flush()  # closes what a thread that did not get to run held up
        assert len(os.listdir("/proc/self/fd")) == before + 1
        assert running.dataplane.counters == {}
        assert running.dataplane.traffic[0][:2] == (1000, 4000)

    with_relay(test, ports=relayed_ports(2000))


def test_no_more_sockets_than_the_host_has_files_for() -> None:
    """Who comes too late is told so, and may come again once somebody has left."""

    async def test(running: Running) -> None:
        clients = [Client(running) for _ in range(4)]
        codes = []
        for client in clients:
            response = await client.allocate()
            error = response.get(stun.ERROR_CODE)
            codes.append(error and error.code)
        assert codes == [None, None, None, 508]
        assert running.dataplane.counters["open_EMFILE"] > 0
        await clients[0].ask(request(Method.REFRESH, (stun.LIFETIME, 0)))
        again = await clients[3].ask(request(Method.ALLOCATE, (stun.REQUESTED_TRANSPORT, 17)))
        assert again.get(stun.XOR_RELAYED_ADDRESS) is not None

    with_relay(test, max_sockets=3)


def test_garbage_costs_no_memory() -> None:
    async def test(running: Running) -> None:
        stranger, client = Client(running), Client(running)
        binding = Message.request(Method.BINDING, os.urandom).encode()
        noise = [os.urandom(random.randrange(1, 1400)) for _ in range(500)]

        async def flood(rounds: int) -> None:
            for _ in range(rounds):
                for datagram in noise:
                    stranger.socket.sendto(datagram, stranger.relay)
                for _ in range(100):
                    stranger.socket.sendto(binding, stranger.relay)
                await client.ask(request(Method.BINDING))

        await flood(5)
        before = resident()
        await flood(25)
        assert resident() - before < 4 << 20

    with_relay(test)


def resident() -> int:
    with open("/proc/self/statm") as statm:
        return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def test_client_of_aioice() -> None:
    """An independent client: channels, refresh, retransmissions with the same transaction."""

    async def test(running: Running) -> None:
        peer = Client(running)
        received: asyncio.Queue[tuple[bytes, tuple[str, int]]] = asyncio.Queue()

        class Receiver(asyncio.DatagramProtocol):
            def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
                received.put_nowait((data, addr))

        transport, _ = await aioice_turn.create_turn_endpoint(
            Receiver,
            server_addr=("127.0.0.1", running.port),
            username=USERNAME,
            password=password_of(USERNAME, SECRET),
            lifetime=600,
        )
        try:
            relayed = transport.get_extra_info("sockname")
            address = peer.socket.getsockname()
            transport.sendto(b"ping", address)
            data, source = await peer.receive()
            assert (data, source) == (b"ping", relayed)
            peer.socket.sendto(b"pong", source)
            async with asyncio.timeout(5):
                assert await received.get() == (b"pong", address)
        finally:
            transport.close()
        deadline = time.monotonic() + 3
        while running.server.allocation_count and time.monotonic() < deadline:
            await asyncio.sleep(0.02)
        assert running.server.allocation_count == 0

    with_relay(test)
