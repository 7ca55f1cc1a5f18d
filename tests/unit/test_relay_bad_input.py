"""Any bytes on the relay's port, before and after authentication: no crash, no growth, no log."""

from __future__ import annotations

import logging
import os
import random
import socket

import pytest
from test_relay_dataplane import USERNAME, Client, Running, request, resident, with_relay

from firezone import stun
from firezone.model import Endpoint
from firezone.stun import Message, Method

TRANSPORT = (stun.REQUESTED_TRANSPORT, 17)
NAMES = [USERNAME, "1:expired", f"{2**63}:x", f"{'9' * 40}:x", "007:x", "nobody", ":", "1:2:3"]


def signed(message: Message, name: str, nonce: str) -> bytes:
    message = message.with_(stun.USERNAME, name).with_(stun.REALM, "firezone")
    return message.with_(stun.NONCE, nonce).encode(b"not the key of anybody")


def mutated(dice: random.Random, data: bytes) -> bytes:
    changed = bytearray(data)
    for _ in range(dice.randrange(1, 4)):
        changed[dice.randrange(len(changed))] = dice.randrange(256)
    return bytes(changed[: dice.randrange(len(changed))] if dice.randrange(3) == 0 else changed)


def noise(nonce: str, peer: Endpoint) -> list[bytes]:
    """What anybody may send: rubbish, requests cut and changed, credentials of all wrong kinds."""
    dice = random.Random(7)
    permission = request(Method.CREATE_PERMISSION, (stun.XOR_PEER_ADDRESS, peer))
    good = [request(Method.ALLOCATE, TRANSPORT), request(Method.REFRESH), permission]
    for number in (0, 0x3FFF, 0x4000, 0x4FFF, 0x7FFF, 0x8000, 0xFFFF):
        values = (stun.CHANNEL_NUMBER, number), (stun.XOR_PEER_ADDRESS, peer)
        good.append(request(Method.CHANNEL_BIND, *values))
    refused = [signed(m, name, n) for m in good for name in NAMES for n in (nonce, "stale", "")]
    send = Message.indication(Method.SEND, os.urandom).with_(stun.XOR_PEER_ADDRESS, peer)
    samples = [*refused, *(m.encode() for m in good), send.with_(stun.DATA, b"x").encode()]
    samples += [b"\x40\x00\x00\x08too long", b"\x7f\xff\xff\xff", b"\x50\x00\x00\x00", b""]
    rubbish = [dice.randbytes(dice.randrange(1400)) for _ in range(200)]
    return [*samples, *rubbish, *(mutated(dice, dice.choice(refused)) for _ in range(600))]


@pytest.mark.parametrize("authenticated", [False, True])
def test_nothing_is_logged_kept_or_broken(
    authenticated: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """From a stranger's socket, or from one that has an allocation and a channel."""

    async def test(running: Running) -> None:
        attacker, client, peer = Client(running), Client(running), Client(running)
        for each, number in ((client, 0x4000), (attacker, 0x4001)):
            if each is client or authenticated:
                await each.allocate()
                await each.bind(number, peer.address)
        nonce = attacker.nonce or (await attacker.ask(request(Method.REFRESH))).get(stun.NONCE)
        datagrams = noise(nonce or "", Endpoint.of("127.0.0.1", 9))
        allocations = running.server.allocation_count

        async def flood(rounds: int) -> None:
            for _ in range(rounds):
                for number, datagram in enumerate(datagrams):
                    attacker.socket.sendto(datagram, attacker.relay)
                    if number % 50 == 0:  # else most are lost before the relay has seen them
                        await client.ask(request(Method.BINDING))
                drain(attacker.socket)

        await flood(3)
        before = resident()
        await flood(12)
        assert resident() - before < 4 << 20
        counters = running.server.counters
        assert counters["error_401"] and counters["error_438"] and counters["error_400"]
        assert running.server.allocation_count == allocations
        assert running.server.channel_count == allocations
        assert running.server.permission_count == allocations
        client.send(0x4000, b"still there")
        data, source = await peer.receive()
        assert data == b"still there"
        peer.socket.sendto(b"too", source)
        assert (await client.receive())[0] == b"\x40\x00\x00\x03too"
        assert running.failures == []

    with caplog.at_level(logging.DEBUG):
        with_relay(test)
    assert [r for r in caplog.records if r.levelno > logging.DEBUG] == []
    assert len(caplog.records) < 50, "nor a line for each at any level"


def drain(sock: socket.socket) -> None:
    try:
        while True:
            sock.recv(0x10000)
    except BlockingIOError:
        pass
