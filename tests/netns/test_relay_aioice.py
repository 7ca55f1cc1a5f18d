"""The relay program against the TURN client of aioice, over UDP, TCP and TLS on loopback."""

from __future__ import annotations

import asyncio
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from aioice import stun, turn
from certificates import self_signed

from firezone.turn.relay_auth import password_of
from tests.ports import free_port, relayed_ports

SECRET = "a1" * 32
LONGEST = 5.0

pytestmark = pytest.mark.timeout(60)


class Inbox(asyncio.DatagramProtocol):
    """Keeps what arrives, and from where."""

    def __init__(self) -> None:
        self.received: asyncio.Queue[tuple[bytes, tuple[str, int]]] = asyncio.Queue()

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        self.received.put_nowait((data, addr))

    async def next(self) -> tuple[bytes, tuple[str, int]]:
        return await asyncio.wait_for(self.received.get(), LONGEST)


class Relay:
    """The program, and credentials for it."""

    def __init__(self, directory: Path) -> None:
        self.port, self.tls_port = free_port(), free_port()
        ports = relayed_ports()
        self.username = f"{int(time.time()) + 3600}:salt"
        password = password_of(self.username, SECRET)
        assert password is not None
        self.password = password
        (directory / "secret").touch(0o600)
        (directory / "secret").write_text(SECRET)
        log = directory / "log"
        settings = {
            "--listen-port": self.port,
            "--public-ip4-addr": "127.0.0.1",
            "--lowest-port": ports[0],
            "--highest-port": ports[-1],
            "--health-check-addr": "",
            "--auth-secret-path": directory / "secret",
            "--tls-port": self.tls_port,
            "--tls-cert": self_signed(directory),
        }
        options = [str(part) for pair in settings.items() for part in pair]
        command = [sys.executable, "-m", "firezone", "relay", "--allow-loopback-peers", *options]
        with log.open("w") as output:
            self._process = subprocess.Popen(command, stderr=output)
        deadline = time.monotonic() + 15
        while "event=ready" not in log.read_text():
            assert time.monotonic() < deadline and self._process.poll() is None, log.read_text()
            time.sleep(0.05)

    async def allocate(self, over: str, lifetime: int = 600) -> tuple[turn.TurnTransport, Inbox]:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        transport, inbox = await turn.create_turn_endpoint(
            Inbox,
            server_addr=("127.0.0.1", self.tls_port if over == "TLS" else self.port),
            username=self.username,
            password=self.password,
            lifetime=lifetime,
            transport="udp" if over == "UDP" else "tcp",
            ssl=context if over == "TLS" else None,
        )
        return transport, inbox

    def close(self) -> None:
        self._process.kill()
        self._process.wait()


@pytest.fixture(scope="module")
def relay(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Relay]:
    relay = Relay(tmp_path_factory.mktemp("relay"))
    yield relay
    relay.close()


@pytest.mark.parametrize("over", ["UDP", "TCP", "TLS"])
def test_data_passes_both_ways(relay: Relay, over: str) -> None:
    async def scene() -> None:
        client, inbox = await relay.allocate(over)
        peer, peer_inbox = await open_peer()
        relayed = client.get_extra_info("sockname")
        for size in (1, 3, 4, 171, 1200):
            payload = bytes(n % 256 for n in range(size))
            client.sendto(payload, peer.get_extra_info("sockname"))
            assert await peer_inbox.next() == (payload, relayed)
            peer.sendto(payload[::-1], relayed)
            assert await inbox.next() == (payload[::-1], peer.get_extra_info("sockname"))
        await end(client, peer)

    asyncio.run(scene())


def test_two_clients_reach_each_other_over_different_transports(relay: Relay) -> None:
    async def scene() -> None:
        (one, one_inbox), (two, two_inbox) = [await relay.allocate(o) for o in ("UDP", "TCP")]
        names = [end.get_extra_info("sockname") for end in (one, two)]
        # Each has to bind a channel for the other before anything passes: the first is lost.
        one.sendto(b"lost", names[1])
        await asyncio.sleep(0.3)
        two.sendto(b"to one", names[0])
        assert await one_inbox.next() == (b"to one", names[1])
        one.sendto(b"to two", names[1])
        assert await two_inbox.next() == (b"to two", names[0])
        await end(one, two)

    asyncio.run(scene())


def test_a_short_allocation_is_refreshed_in_time(relay: Relay) -> None:
    """By aioice itself, after five sixths of it: a longer one leaves a loaded host more time."""

    async def scene() -> None:
        client, inbox = await relay.allocate("UDP", lifetime=9)
        peer, peer_inbox = await open_peer()
        await asyncio.sleep(9.2)
        client.sendto(b"still there", peer.get_extra_info("sockname"))
        assert (await peer_inbox.next())[0] == b"still there"
        peer.sendto(b"yes", client.get_extra_info("sockname"))
        assert (await inbox.next())[0] == b"yes"
        await end(client, peer)

    asyncio.run(scene())


def test_a_wrong_password_is_refused(relay: Relay) -> None:
    async def scene() -> None:
        with pytest.raises(stun.TransactionFailed) as refused:
            await turn.create_turn_endpoint(
                Inbox,
                server_addr=("127.0.0.1", relay.port),
                username=relay.username,
                password="wrong",
            )
        assert refused.value.response.attributes["ERROR-CODE"][0] == 401

    asyncio.run(scene())


async def open_peer() -> tuple[asyncio.DatagramTransport, Inbox]:
    loop = asyncio.get_running_loop()
    return await loop.create_datagram_endpoint(Inbox, local_addr=("127.0.0.1", 0))


async def end(*transports: turn.TurnTransport | asyncio.DatagramTransport) -> None:
    """Close them; an allocation is deleted at the relay, which takes a round trip."""
    for transport in transports:
        transport.close()
    await asyncio.sleep(0.1)
