"""The relay on a host whose addresses come and go."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, closing, suppress
from ipaddress import IPv4Address, ip_address, ip_network
from typing import Any

import pytest

from firezone import stun
from firezone.model import Endpoint, IPAddress
from firezone.relay import RelayRole
from firezone.shell.address_watch import AddressWatch
from firezone.shell.clock import boottime_ns, unix_ns
from firezone.shell.relay_dataplane import RelayDataplane
from firezone.shell.rtnetlink import RtNetlink
from firezone.stun import Message, Method
from firezone.turn.relay import Relay
from firezone.turn.relay_peers import PeerPolicy

PUBLIC, OTHER, CLIENT = "192.0.2.1", "192.0.2.2", "192.0.2.5"
KEY = stun.long_term_key("user", "firezone", "password")


def address(verb: str, text: str) -> None:
    subprocess.run(["ip", "address", verb, f"{text}/32", "dev", "lo"], check=True)


def test_address_that_vanishes_and_comes_back(fresh_netns: ThreadPoolExecutor) -> None:
    """It ends nothing: who comes by another address is served, and all of them are afterwards."""

    async def run() -> None:
        async with relay() as dataplane:
            with closing(Client(PUBLIC)) as one, closing(Client(OTHER)) as two:
                for client in (one, two):
                    await client.allocate()
                    await client.open_channel()
                    assert await client.echo() == b"ping"
                address("del", PUBLIC)
                assert await one.echo() is None and await two.echo() is None
                assert (await two.ask(Message.request(Method.BINDING, os.urandom))).get(
                    stun.XOR_MAPPED_ADDRESS
                ) == two.own
                with closing(Client(OTHER)) as three:
                    await three.allocate()
                address("add", PUBLIC)
                for client in (one, two):
                    assert await client.echo() == b"ping"
                assert dataplane.counters.keys() <= {
                    f"send_to_{end}_{reason}"
                    for end in ("peer", "client")
                    for reason in ("EINVAL", "ENETUNREACH", "EADDRNOTAVAIL")
                }

    def prepared() -> None:
        for text in (PUBLIC, OTHER, CLIENT):
            address("add", text)
        asyncio.run(asyncio.wait_for(run(), 20))

    fresh_netns.submit(prepared).result(30)


def test_addresses_that_come_and_go_are_noticed(fresh_netns: ThreadPoolExecutor) -> None:
    """By the kernel's word, without looking in between."""

    async def run() -> None:
        looks: list[set[IPAddress]] = []
        news = asyncio.Event()

        def look() -> bool:
            with closing(RtNetlink()) as netlink:
                looks.append(netlink.all_addresses())
            news.set()
            return True

        with closing(AddressWatch(look)):
            for verb in ("add", "del"):
                news.clear()
                address(verb, OTHER)
                await asyncio.wait_for(news.wait(), 5)
                assert (ip_address(OTHER) in looks[-1]) is (verb == "add")

    fresh_netns.submit(lambda: asyncio.run(run())).result(30)


@pytest.mark.parametrize("whole_allocation", [True, False])
def test_larger_than_the_interface_takes(
    fresh_netns: ThreadPoolExecutor, whole_allocation: bool
) -> None:
    """Fragments, unless the client wants none: of one datagram, or of all."""

    async def run() -> None:
        async with relay() as dataplane:
            with closing(Client(PUBLIC)) as client:
                await client.allocate(*[(stun.DONT_FRAGMENT, True)] * whole_allocation)
                await client.open_channel()
                large = bytes(1600)
                client.send(large, dont_fragment=True)
                client.send(large, dont_fragment=False)
                client.send(b"small", dont_fragment=True)
                expected = [b"small"] if whole_allocation else [large, b"small"]
                loop = asyncio.get_running_loop()
                for payload in expected:
                    async with asyncio.timeout(5):
                        assert await loop.sock_recv(client.peer, 4096) == payload
                refused = 2 if whole_allocation else 1
                assert dataplane.counters == {"send_to_peer_EMSGSIZE": refused}

    def prepared() -> None:
        for text in (PUBLIC, CLIENT):
            address("add", text)
        subprocess.run(["ip", "link", "set", "lo", "mtu", "1500"], check=True)
        asyncio.run(asyncio.wait_for(run(), 20))

    fresh_netns.submit(prepared).result(30)


@asynccontextmanager
async def relay() -> AsyncIterator[RelayDataplane]:
    failures: list[OSError] = []
    public, now = IPv4Address(PUBLIC), boottime_ns()
    server = Relay(
        public_ipv4=public,
        public_ipv6=None,
        auth_secret=None,
        users={"user": "password"},
        peers=PeerPolicy(allow=(ip_network(CLIENT),)),
        entropy=os.urandom,
        unix_now=unix_ns(),
        now=now,
    )
    dataplane = RelayDataplane(
        RelayRole(server, now=now),
        public=[public],
        listen_port=3478,
        clock=boottime_ns,
        on_event=lambda event: None,
        on_failure=failures.append,
    )
    dataplane.open()
    try:
        yield dataplane
        assert failures == []
    finally:
        dataplane.close()


class Client:
    """One of a relay's clients, and a peer that sends everything back."""

    def __init__(self, relay: str) -> None:
        self.relay = (relay, 3478)
        self.nonce = ""
        self.socket, self.peer = (
            socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
            for _ in range(2)
        )
        for opened in (self.socket, self.peer):
            opened.bind((CLIENT, 0))

    @property
    def own(self) -> Endpoint:
        return Endpoint.of(*self.socket.getsockname())

    async def ask(self, message: Message) -> Message:
        key = None
        if self.nonce:
            message = message.with_(stun.USERNAME, "user").with_(stun.NONCE, self.nonce)
            key = KEY
        self.socket.sendto(message.encode(key), self.relay)
        async with asyncio.timeout(5):
            return stun.decode(await asyncio.get_running_loop().sock_recv(self.socket, 2048))

    async def allocate(self, *values: tuple[stun.Attribute[Any], Any]) -> None:
        self.nonce = (await self.ask(self.request(*values))).get(stun.NONCE) or ""
        assert (await self.ask(self.request(*values))).class_ is stun.Class.SUCCESS

    def request(self, *values: tuple[stun.Attribute[Any], Any]) -> Message:
        message = Message.request(Method.ALLOCATE, os.urandom).with_(stun.REQUESTED_TRANSPORT, 17)
        for attribute, value in values:
            message = message.with_(attribute, value)
        return message

    def send(self, payload: bytes, *, dont_fragment: bool) -> None:
        """A Send to the peer; what binds a channel has its permission, too."""
        message = Message.indication(Method.SEND, os.urandom)
        message = message.with_(stun.XOR_PEER_ADDRESS, Endpoint.of(*self.peer.getsockname()))
        if dont_fragment:
            message = message.with_(stun.DONT_FRAGMENT, True)
        self.socket.sendto(message.with_(stun.DATA, payload).encode(), self.relay)

    async def open_channel(self) -> None:
        peer = Endpoint.of(*self.peer.getsockname())
        message = Message.request(Method.CHANNEL_BIND, os.urandom)
        message = message.with_(stun.CHANNEL_NUMBER, 0x4000).with_(stun.XOR_PEER_ADDRESS, peer)
        assert (await self.ask(message)).class_ is stun.Class.SUCCESS

    async def echo(self) -> bytes | None:
        """What comes back through the relay, if anything does soon."""
        loop = asyncio.get_running_loop()
        with suppress(TimeoutError, OSError):
            async with asyncio.timeout(1):
                self.socket.sendto(b"\x40\x00\x00\x04ping", self.relay)
                data, source = await loop.sock_recvfrom(self.peer, 2048)
                self.peer.sendto(data, source)
                return (await loop.sock_recv(self.socket, 2048))[4:]
        return None

    def close(self) -> None:
        self.socket.close()
        self.peer.close()
