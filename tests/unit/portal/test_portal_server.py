"""The portal over real loopback WebSockets, with our own channel client as its peers."""

import asyncio
import http.client
import os
import socket
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import pytest

from firezone.durations import SECOND
from firezone.model import Endpoint
from firezone.phoenix import Channel, Closed, Failed, Hiccup, Inbound, LoginUrl
from firezone.phoenix.messages import client, gateway, relay
from firezone.phoenix.user_agent import (
    CLIENT_VERSION,
    GATEWAY_VERSION,
    RELAY_USER_AGENT,
    connlib_user_agent,
)
from firezone.portal import server as server_module
from firezone.portal.accounts import Accounts
from firezone.portal.config import TokenKind
from firezone.portal.reload import Reloader, fingerprint, load
from firezone.portal.server import PortalServer, listen
from firezone.portal.starter import Starter, write_starter
from firezone.portal.store import Store
from firezone.shell.clock import boottime_ns
from firezone.shell.websocket import PortalLink, tls_context

KEY = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="
WALL = 1_790_000_000


def run(test: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(asyncio.wait_for(test(), 20))


def test_a_flow_from_end_to_end_and_its_end_by_editing_the_file(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with AsyncExitStack() as stack:
            world = await stack.enter_async_context(portal(tmp_path))
            r = await stack.enter_async_context(world.relay())
            await r.next(relay.Init)
            g = await stack.enter_async_context(world.gateway())
            assert (await g.next(gateway.Init)).account_slug == "home"
            c = await stack.enter_async_context(world.client())
            [resource] = (await c.next(client.Init)).resources
            assert isinstance(resource, client.CidrResource)

            c.link.send(*client.create_flow(resource.id, []))
            demand = await g.next(gateway.AuthorizeFlow)
            assert isinstance(demand.resource, gateway.CidrResource)
            assert len(demand.resource.filters) == 3
            g.link.send(*gateway.flow_authorized(demand.ref))
            flow = await c.next(client.FlowCreated)
            assert flow.preshared_key == demand.client.preshared_key
            assert flow.client_ice == demand.client_ice

            c.link.send(*client.broadcast_ice_candidates([flow.gateway_id], ["a"]))
            heard = await g.next(gateway.IceCandidates)
            assert heard.candidates == ("a",)

            world.edit("[[policies]]", "[[policies]]\ndisabled = true")
            assert (await c.next(client.ResourceDeleted)).id == resource.id
            assert (await g.next(gateway.RejectAccess)).client_id == demand.client.id

            world.edit("groups", "grups")
            world.edit("disabled = true", "")
            world.edit("grups", "groups")
            await c.next(client.ResourceCreatedOrUpdated)

    run(scenario)


def test_a_gateway_that_reconnects_hears_of_its_authorizations(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with portal(tmp_path) as world, world.relay() as r, world.client() as c:
            await r.next(relay.Init)
            async with world.gateway() as g:
                [resource] = (await c.next(client.Init)).resources
                await g.next(gateway.Init)
                c.link.send(*client.create_flow(resource.id, []))
                await g.next(gateway.AuthorizeFlow)
            async with world.gateway() as again:
                [kept] = (await again.next(gateway.Init)).authorizations
                assert kept.resource_id == resource.id

    run(scenario)


def test_a_removed_token_closes_the_socket_and_is_then_refused(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with portal(tmp_path) as world, world.client() as c:
            await c.next(client.Init)
            world.edit('actor = "alice"\nexpires_at = 20', 'actor = "alice"\nexpires_at = 19')
            failed = await c.next_event(Failed)
            assert failed.is_authentication and "401: invalid token" in failed.reason

    run(scenario)


def test_a_relay_that_restarts_is_announced(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with portal(tmp_path) as world, world.client() as c:
            assert (await c.next(client.Init)).relays == ()
            async with world.relay("0f" * 32):
                [first] = (await c.next(client.RelaysPresence)).connected
            async with world.relay("1f" * 32):
                told = await c.next(client.RelaysPresence)
                assert told.disconnected_ids == (first.id,)
                assert told.connected[0].password != first.password

    run(scenario)


def test_a_silent_peer_is_dropped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        async with portal(tmp_path) as world, world.client() as c:
            await c.next(client.Init)
            await c.next_event(Hiccup)

    monkeypatch.setitem(server_module.IDLE_SECONDS, TokenKind.CLIENT, 0.1)
    run(scenario)


def test_plain_http(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with portal(tmp_path) as world:
            for path, status in (
                ("/healthz", 200),
                ("/nothing", 404),
                ("/client/websocket", 401),
                ("/client/websocket?token=x", 401),
                ("/gateway/websocket?token=" + world.token("client"), 401),
                ("/client/websocket?token=" + world.token("client"), 422),
                ("/x?" + "&".join(f"a{n}=1" for n in range(40)), 422),
            ):
                assert await asyncio.to_thread(world.get, path) == status

    run(scenario)


def test_a_store_that_fails_asks_for_patience(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with portal(tmp_path) as world:
            world.store.close()
            async with world.client() as c:
                assert (await c.next_event(Hiccup)).error == "HTTP 503"

    run(scenario)


def test_closing_is_graceful(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with portal(tmp_path) as world, world.client() as c:
            await c.next(client.Init)
            c.link.close()
            await c.next_event(Closed)
            await asyncio.wait_for(c.task, 1)

    run(scenario)


def test_a_port_in_use_names_the_setting() -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as taken,
        pytest.raises(server_module.ConfigurationError, match="listen"),
    ):
        listen(Endpoint.of("127.0.0.1", taken.getsockname()[1]))


def test_what_the_portal_says_waits_for_no_acknowledgement() -> None:
    with listen(Endpoint.of("127.0.0.1", 0)) as listener:
        with socket.create_connection(listener.getsockname()):
            accepted, _ = listener.accept()
        with accepted:
            assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


class Peer:
    """A link and what it hears."""

    def __init__(self, channel: Channel[Any]) -> None:
        self.events: asyncio.Queue[Any] = asyncio.Queue()
        self.link = PortalLink(channel, clock=boottime_ns, on_event=self.events.put_nowait)
        self.task = asyncio.create_task(self.link.run())
        self.link.connect({"public_key": KEY})

    async def next(self, kind: type[Any]) -> Any:
        """The next message, which must be of that kind."""
        message = (await self.next_event(Inbound)).message
        assert isinstance(message, kind), message
        return message

    async def next_event(self, kind: type[Any]) -> Any:
        while True:
            event = await asyncio.wait_for(self.events.get(), 5)
            if isinstance(event, kind):
                return event


class World:
    """A portal that serves on loopback, and its files."""

    def __init__(self, directory: Path, starter: Starter, store: Store) -> None:
        self.directory = directory
        self.starter = starter
        self.store = store
        self.sock = listen(Endpoint.of("127.0.0.1", 0))
        self.port = int(self.sock.getsockname()[1])
        accounts = Accounts(
            file=load(starter.config),
            store=store,
            entropy=os.urandom,
            wall_clock=lambda: WALL,
            now=boottime_ns(),
        )
        self.server = PortalServer(accounts, sock=self.sock, clock=boottime_ns)
        self.reloader = Reloader(
            starter.config, self.server.apply, loaded=fingerprint(starter.config)
        )

    @property
    def url(self) -> str:
        return f"ws://127.0.0.1:{self.port}"

    def token(self, kind: str) -> str:
        return (self.directory / f"{kind}.token").read_text().strip()

    def edit(self, old: str, new: str) -> None:
        text = self.starter.config.read_text()
        assert old in text
        self.starter.config.write_text(text.replace(old, new, 1))
        self.reloader.request()
        self.reloader.look()
        self.reloader.look()

    def get(self, path: str) -> int:
        upgrade = {
            "Connection": "Upgrade",
            "Upgrade": "websocket",
            "Sec-WebSocket-Version": "13",
            "Sec-WebSocket-Key": "AAAAAAAAAAAAAAAAAAAAAA==",
        }
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)
        try:
            connection.request("GET", path, headers=upgrade)
            return connection.getresponse().status
        finally:
            connection.close()

    @asynccontextmanager
    async def peer(
        self,
        url: LoginUrl,
        decode: Callable[[str, object], Any],
        user_agent: str,
        join_payload: object = None,
    ) -> AsyncIterator[Peer]:
        channel: Channel[Any] = Channel(
            url=url,
            topic=url.path.split("/")[1],
            join_payload=join_payload,
            decode=decode,
            max_elapsed=30 * SECOND,
            entropy=os.urandom,
            user_agent=user_agent,
            now=boottime_ns(),
        )
        peer = Peer(channel)
        try:
            yield peer
        finally:
            peer.task.cancel()
            await asyncio.wait([peer.task])

    def client(self) -> Any:
        url = LoginUrl.client(self.url, self.token("client"), device_id="c", name="laptop")
        agent = connlib_user_agent(CLIENT_VERSION, "Debian", "12", None, None)
        return self.peer(url, client.decode, agent)

    def gateway(self) -> Any:
        url = LoginUrl.gateway(self.url, self.token("gateway"), device_id="g", name="gw")
        agent = connlib_user_agent(GATEWAY_VERSION, "Debian", "12", None, None)
        return self.peer(url, gateway.decode, agent)

    def relay(self, secret: str = "0f" * 32) -> Any:
        url = LoginUrl.relay(self.url, self.token("relay"), ipv4=IPv4Address("203.0.113.5"))
        return self.peer(url, relay.decode, RELAY_USER_AGENT, relay.join_payload(secret))


@asynccontextmanager
async def portal(directory: Path) -> AsyncIterator[World]:
    starter = write_starter(directory, os.urandom, WALL)
    store = Store.open(directory / "portal.db", os.urandom)
    world = World(directory, starter, store)
    async with world.server:
        yield world
    store.close()


def test_roots_that_do_not_exist_name_the_setting(tmp_path: Path) -> None:
    with pytest.raises(server_module.ConfigurationError, match="--ca"):
        tls_context(tmp_path / "none.pem")
