"""TURN over TCP and TLS, both ends joined over loopback: what is sent, dropped, limited, ended."""

from __future__ import annotations

import asyncio
import datetime
import socket
import ssl
import time
from collections.abc import Awaitable, Callable
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from firezone.errors import ConfigurationError
from firezone.model import Endpoint, RelayId
from firezone.node import StreamKind, StreamUnwanted, StreamWanted
from firezone.shell import relay_listener, turn_bridge
from firezone.shell.relay_listener import StreamListener
from firezone.shell.relay_streams import RelayStreams
from firezone.stun import Message, Method
from firezone.turn import encode_channel_data
from firezone.turn import stream as turn_stream
from tests.ports import free_port

RELAY = RelayId("relay")
BINDING = Message.request(Method.BINDING, bytes).encode()
V4 = IPv4Address("127.0.0.1")


class Udp:
    """A UDP socket that stands for the data plane, or for the relay's."""

    def __init__(self) -> None:
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        self.socket.bind(("127.0.0.1", 0))
        self.port: int = self.socket.getsockname()[1]

    def send(self, data: bytes, to: Endpoint) -> None:
        self.socket.sendto(data, to.sockaddr)

    async def receive(self) -> tuple[bytes, Endpoint]:
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(3):
            data, source = await loop.sock_recvfrom(self.socket, 0x10000)
        return data, Endpoint.of(*source)


class World:
    """A relay that takes streams, and somebody who opens one."""

    def __init__(self) -> None:
        self.relay, self.dataplane = Udp(), Udp()
        self.seen: dict[Endpoint, Endpoint] = {}
        self.gone: list[Endpoint] = []
        self.allocated: set[Endpoint] = set()
        self.answers: asyncio.Queue[Endpoint | None] = asyncio.Queue()
        self.ahead = 0
        """Nanoseconds by which the listener's clock is ahead of ours."""
        self.listener = StreamListener(
            public=[V4],
            port=self.relay.port,
            clock=lambda: time.monotonic_ns() + self.ahead,
            on_opened=self.seen.__setitem__,
            on_closed=self.gone.append,
            has_allocation=self.allocated.__contains__,
        )
        self.port = free_port()
        self.tls_port = free_port()
        self.streams = RelayStreams(
            port=self.dataplane.port,
            clock=time.monotonic_ns,
            open_socket=socket.socket,
            on_opened=lambda relay, local: self.answers.put_nowait(local),
            on_closed=lambda relay: self.answers.put_nowait(None),
            tls_port=self.tls_port,
        )

    async def open(self, kind: StreamKind = StreamKind.TCP) -> Endpoint | None:
        self.streams.handle(StreamWanted(RELAY, (Endpoint(V4, self.port),), kind))
        async with asyncio.timeout(6):
            return await self.answers.get()

    async def connect(
        self, kind: StreamKind = StreamKind.TCP
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Somebody else's stream."""
        if kind is StreamKind.TCP:
            return await asyncio.open_connection("127.0.0.1", self.port)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        return await asyncio.open_connection("127.0.0.1", self.tls_port, ssl=context)

    def close(self) -> None:
        self.streams.close()
        self.listener.close()
        self.relay.socket.close()
        self.dataplane.socket.close()


def run(test: Callable[[World], Awaitable[None]], tls: ssl.SSLContext | None = None) -> None:
    async def inside() -> None:
        world = World()
        try:
            await world.listener.listen(world.port)
            if tls is not None:
                await world.listener.listen(world.tls_port, tls)
            await test(world)
        finally:
            world.close()
            await asyncio.sleep(0.01)

    asyncio.run(inside())


async def until(condition: Callable[[], Any]) -> None:
    async with asyncio.timeout(3):
        while not condition():
            await asyncio.sleep(0.005)


async def closed(reader: asyncio.StreamReader) -> None:
    async with asyncio.timeout(3):
        try:
            while await reader.read(65536):
                pass
        except ConnectionResetError:
            pass


@pytest.fixture
def certificate(tmp_path: Path) -> ssl.SSLContext:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "relay")])
    now = datetime.datetime.now(datetime.UTC)
    builder = x509.CertificateBuilder(name, name, key.public_key(), 1, now, now.replace(year=2099))
    pem = builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
    private = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    path = tmp_path / "both.pem"
    path.write_bytes(pem + private)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(path)
    return context


@pytest.mark.parametrize("kind", StreamKind)
def test_datagrams_pass_both_ways(kind: StreamKind, certificate: ssl.SSLContext) -> None:
    async def test(world: World) -> None:
        near = await world.open(kind)
        assert near is not None
        sent = [BINDING, *(encode_channel_data(0x4000, b"x" * n) for n in (0, 1, 2, 3, 1316))]
        for data in sent:
            world.dataplane.send(data, near)
        arrived = [await world.relay.receive() for _ in sent]
        assert [data for data, _ in arrived] == sent
        (far,) = {source for _, source in arrived}
        assert world.seen[far].address == V4
        for data in sent:
            world.relay.send(data, far)
        back = [await world.dataplane.receive() for _ in sent]
        assert back == [(data, near) for data in sent]

    run(test, certificate)


def test_no_other_local_program_speaks_through_a_bridge() -> None:
    async def test(world: World) -> None:
        near = await world.open()
        assert near is not None
        stranger = Udp()
        stranger.send(encode_channel_data(0x4000, b"evil"), near)
        world.dataplane.send(BINDING, near)
        assert (await world.relay.receive())[0] == BINDING
        stranger.socket.close()

    run(test)


def test_what_is_not_turn_is_dropped_on_the_way_in() -> None:
    async def test(world: World) -> None:
        near = await world.open()
        assert near is not None
        for data in (b"\x90\x00", b"\x40\x00\x00\x09short", b""):
            world.dataplane.send(data, near)
        world.dataplane.send(BINDING, near)
        assert (await world.relay.receive())[0] == BINDING

    run(test)


def test_a_relay_that_takes_no_streams() -> None:
    async def test(world: World) -> None:
        world.listener.close()
        for kind in StreamKind:
            assert await world.open(kind) is None

    run(test)


@pytest.mark.parametrize("silent", [0, 1])
def test_a_family_that_swallows_everything_does_not_hold_up_the_other(
    silent: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    connect = RelayStreams._connect
    ended: list[Endpoint] = []

    async def test(world: World) -> None:
        servers = [Endpoint(V4, world.port), Endpoint(V4, world.port)]
        servers[silent] = nowhere = Endpoint(IPv6Address("::1"), world.port)

        async def answering(streams: RelayStreams, server: Endpoint, *rest: Any) -> Any:
            if server != nowhere:
                return await connect(streams, server, *rest)
            try:
                await asyncio.sleep(60)
            finally:
                ended.append(server)

        monkeypatch.setattr(RelayStreams, "_connect", answering)
        world.streams.handle(StreamWanted(RELAY, tuple(servers), StreamKind.TCP))
        async with asyncio.timeout(2):
            near = await world.answers.get()
        assert near is not None
        world.dataplane.send(BINDING, near)
        assert (await world.relay.receive())[0] == BINDING
        assert ended == [nowhere] * (silent == 0), "what is tried first is given up then"

    run(test)


def test_a_relay_that_ends_the_stream() -> None:
    async def test(world: World) -> None:
        assert await world.open() is not None
        await until(lambda: world.seen)
        world.listener.close()
        assert await asyncio.wait_for(world.answers.get(), 3) is None
        assert world.gone == [*world.seen]

    run(test)


def test_a_stream_that_is_not_wanted_any_more() -> None:
    async def test(world: World) -> None:
        assert await world.open() is not None
        await until(lambda: world.listener.count)
        world.streams.handle(StreamUnwanted(RELAY))
        await until(lambda: not world.listener.count)
        assert world.answers.empty()
        world.streams.handle(StreamWanted(RELAY, (Endpoint(V4, world.port),), StreamKind.TCP))
        world.streams.handle(StreamUnwanted(RELAY))
        near = await world.open()  # which is the only one that answers
        assert near is not None
        world.dataplane.send(BINDING, near)
        assert (await world.relay.receive())[0] == BINDING
        assert world.answers.empty()

    run(test)


@pytest.mark.parametrize(
    "garbage", [b"\x16\x03\x01\x02\x00", b"\xff", b"\x00\x01\x00\x01\x00\x00\x00\x00"]
)
def test_garbage_ends_a_stream(garbage: bytes) -> None:
    async def test(world: World) -> None:
        reader, writer = await world.connect()
        writer.write(garbage)
        await closed(reader)
        await until(lambda: not world.listener.count)
        assert world.listener.counters["stream_ended_stream_not_turn"] == 1
        writer.close()

    run(test)


@pytest.mark.parametrize("kind", StreamKind)
def test_a_byte_now_and_then_is_too_slow(
    kind: StreamKind, certificate: ssl.SSLContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(turn_stream, "MESSAGE_TIMEOUT", 50_000_000)

    async def test(world: World) -> None:
        reader, writer = await world.connect(kind)
        ended = asyncio.create_task(closed(reader))
        for byte in BINDING:
            if ended.done():
                break
            writer.write(bytes([byte]))
            await asyncio.sleep(0.01)
        await ended
        await until(lambda: not world.listener.count)
        assert world.listener.counters["stream_ended_stream_too_slow"] == 1
        writer.close()

    run(test, certificate)


@pytest.mark.parametrize("sent", [b"", b"\x16", b"\x16\x03\x01\x02\x00\x01", BINDING, bytes(300)])
def test_a_handshake_that_comes_to_nothing(
    sent: bytes, certificate: ssl.SSLContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(relay_listener, "TLS_HANDSHAKE_SECONDS", 0.1)

    async def test(world: World) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", world.tls_port)
        writer.write(sent)
        await closed(reader)
        await until(lambda: world.listener.counters["tls_handshake_failed"])
        writer.close()
        monkeypatch.undo()
        near = await world.open(StreamKind.TLS)  # others are served
        assert near is not None

    run(test, certificate)


def test_handshakes_count_as_streams(
    certificate: ssl.SSLContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are held open at less cost to a stranger than to us."""
    monkeypatch.setattr(relay_listener, "MAX_STREAMS_OF_SOURCE", 2)

    async def test(world: World) -> None:
        begun = [await asyncio.open_connection("127.0.0.1", world.tls_port) for _ in range(2)]
        for _, writer in begun:
            writer.write(b"\x16")
        for kind in StreamKind:
            assert await world.open(kind) is None or await world.answers.get() is None
        assert world.listener.counters["too_many_streams"] == 2
        begun[0][1].close()
        await until(lambda: world.listener.counters["tls_handshake_failed"])
        assert await world.open(StreamKind.TLS) is not None
        begun[1][1].close()

    run(test, certificate)


def test_who_is_silent_needs_an_allocation(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relay_listener, "SWEEP_SECONDS", 0.02)

    async def test(world: World) -> None:
        _, allocated = await world.connect()
        await until(lambda: world.seen)
        world.allocated.update(world.seen)
        reader, silent = await world.connect()
        await until(lambda: world.listener.count == 2)
        world.ahead = relay_listener.QUIET
        await closed(reader)
        assert world.listener.count == 1
        for writer in (allocated, silent):
            writer.close()

    run(test)


def test_requests_do_not_stand_for_an_allocation(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relay_listener, "SWEEP_SECONDS", 0.02)

    async def test(world: World) -> None:
        reader, writer = await world.connect()
        for _ in range(2):
            writer.write(BINDING)
            await world.relay.receive()
            world.ahead += relay_listener.QUIET * 2 // 3
        await closed(reader)
        assert world.listener.counters["stream_ended_without_allocation"] == 1
        writer.close()

    run(test)


def test_a_newcomer_gets_the_place_of_the_oldest_without_an_allocation(
    certificate: ssl.SSLContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Be it a stream or a mere handshake; those with an allocation stay."""
    monkeypatch.setattr(relay_listener, "MAX_STREAMS", 3)

    async def test(world: World) -> None:
        _, allocated = await world.connect()
        await until(lambda: world.seen)
        world.allocated.update(world.seen)
        handshake, begun = await asyncio.open_connection("127.0.0.1", world.tls_port)
        await until(lambda: len(world.listener._places) == 2)
        idle, waiting = await world.connect()
        await until(lambda: world.listener.count == 2)
        later = [await world.connect()]
        await closed(handshake)
        later.append(await world.connect())
        await closed(idle)
        await until(lambda: world.listener.count == 3)
        assert world.listener.counters["stream_gave_way"] == 2
        assert not world.allocated & {*world.gone}
        world.allocated.update(world.seen)
        refused, writer = await world.connect()
        await closed(refused)
        assert world.listener.counters["too_many_streams"] == 1
        for each in (allocated, begun, waiting, writer, *(writer for _, writer in later)):
            each.close()

    run(test, certificate)


def test_those_with_an_allocation_are_passed_over_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many newcomers there are; until they lose it."""
    monkeypatch.setattr(relay_listener, "MAX_STREAMS", 3)

    async def test(world: World) -> None:
        asked: list[Endpoint] = []

        def has_allocation(local: Endpoint) -> bool:
            asked.append(local)
            return local in world.allocated

        world.listener._has_allocation = has_allocation
        kept = [await world.connect() for _ in range(3)]
        await until(lambda: world.listener.count == 3)
        world.allocated.update(world.seen)
        for _ in range(5):
            refused, writer = await world.connect()
            await closed(refused)
            writer.close()
        assert world.listener.counters["too_many_streams"] == 5
        assert sorted(asked) == sorted(world.seen)
        world.allocated.clear()
        world.listener._sweep()
        _, newcomer = await world.connect()
        await closed(kept[0][0])
        for writer in (newcomer, *(writer for _, writer in kept)):
            writer.close()

    run(test)


def test_streams_of_one_site_are_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its /64s are countless."""
    monkeypatch.setattr(relay_listener, "MAX_STREAMS_OF_SITE", 2)

    async def test(world: World) -> None:
        def admit(address: str) -> bool:
            sources = relay_listener._sources(IPv6Address(address))
            bridge = relay_listener._Bridge(world.listener, Endpoint(V4, 1))
            return world.listener._admit(bridge, sources)

        assert admit("2001:db8:1:1::1") and admit("2001:db8:1:2::1")
        assert not admit("2001:db8:1:3::1")
        assert admit("2001:db8:2:3::1")

    run(test)


def test_streams_of_one_source_are_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relay_listener, "MAX_STREAMS_OF_SOURCE", 2)

    async def test(world: World) -> None:
        writers = [(await world.connect())[1] for _ in range(2)]
        await until(lambda: world.listener.count == 2)
        reader, writer = await world.connect()
        await closed(reader)
        assert world.listener.counters["too_many_streams"] == 1
        assert len(world.seen) == world.listener.count == 2
        writers[0].close()
        await until(lambda: world.listener.count == 1)
        writers.append((await world.connect())[1])
        await until(lambda: world.listener.count == 2)
        for each in (*writers, writer):
            each.close()

    run(test)


def test_who_does_not_read_loses_data_and_costs_no_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turn_bridge, "MAX_BACKLOG", 20_000)

    async def test(world: World) -> None:
        _, writer = await world.connect()
        writer.write(BINDING)
        _, far = await world.relay.receive()
        bridge = next(iter(world.listener._bridges))
        writer.transport.pause_reading()  # type: ignore[attr-defined]
        data = encode_channel_data(0x4000, bytes(1300))

        def full() -> int:
            for _ in range(50):
                world.relay.send(data, far)
            return bridge.counters["stream_full"]

        await until(full)
        assert bridge._transport is not None
        assert bridge._transport.get_write_buffer_size() <= 20_000
        writer.close()

    run(test)


def test_a_port_that_is_taken_is_a_wrong_setting() -> None:
    async def test(world: World) -> None:
        with pytest.raises(ConfigurationError, match="no-streams"):
            await World().listener.listen(world.port)

    run(test)


@pytest.mark.parametrize("steps", range(8))
def test_no_stream_is_left_when_it_is_not_wanted_any_more(
    steps: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In whatever step of the loop that is said."""
    made: list[Any] = []

    class Made:
        local, closed = Endpoint(V4, 1), False

        def close(self, reason: str) -> None:
            self.closed = True

    async def connect(*_: object) -> Any:
        made.append(Made())
        return made[-1]

    async def test(world: World) -> None:
        monkeypatch.setattr(RelayStreams, "_connect", connect)
        servers = (Endpoint(V4, world.port),)
        world.streams.handle(StreamWanted(RELAY, servers, StreamKind.TCP))
        for _ in range(steps):
            await asyncio.sleep(0)
        world.streams.handle(StreamUnwanted(RELAY))
        await asyncio.sleep(0.01)
        assert all(bridge.closed for bridge in made)

    run(test)
    assert made or steps < 3
