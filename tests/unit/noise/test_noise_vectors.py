"""The handshake, byte for byte."""

import json
from pathlib import Path
from typing import Any

import pytest
from nacl.bindings import crypto_aead_chacha20poly1305_ietf_encrypt

from firezone.commands import InstallKeypair, SendKeepalive
from firezone.model import Endpoint
from firezone.noise import (
    Accepted,
    CookieReply,
    RateLimiter,
    SessionEstablished,
    StaticKeypair,
    Tunnel,
    open_initiation,
)
from firezone.noise.cookie import MacGenerator
from firezone.noise.messages import HandshakeCookie, decode

NOW = 77
VECTOR: dict[str, Any] = json.loads(
    (Path(__file__).parents[2] / "vectors" / "noise_handshake.json").read_text()
)


def test_handshake(initiator: Tunnel, responder: Tunnel) -> None:
    assert initiator.initiate(NOW)
    initiation = initiator.poll_transmit()
    assert initiation == vector("initiation")

    responder.handle_handshake(initiation, NOW)
    response = responder.poll_transmit()
    assert response == vector("response")

    initiator.handle_handshake(response, NOW)
    ours, theirs = initiator.poll_command(), responder.poll_command()
    assert isinstance(ours, InstallKeypair)
    assert isinstance(theirs, InstallKeypair)
    assert ours.send_key == theirs.receive_key == vector("initiator_key")
    assert ours.receive_key == theirs.send_key == vector("responder_key")
    assert (ours.local_index, ours.remote_index) == (0x101, 0x201)
    assert (theirs.local_index, theirs.remote_index) == (0x201, 0x101)
    assert ours.initiator
    assert not theirs.initiator
    assert initiator.poll_command() == SendKeepalive(1)
    assert initiator.poll_event() == SessionEstablished(0x101, initiator=True)
    assert responder.poll_command() is None
    assert responder.poll_event() is None

    header = bytes.fromhex("04000000") + ours.remote_index.to_bytes(4, "little") + bytes(8)
    tag = crypto_aead_chacha20poly1305_ietf_encrypt(b"", None, bytes(12), ours.send_key)
    assert header + tag == vector("first_keepalive")


def test_initiator_is_named_by_its_initiation() -> None:
    responder = StaticKeypair.from_private(vector("responder_private"))
    initiator = StaticKeypair.from_private(vector("initiator_private"))
    assert open_initiation(responder, vector("initiation")).initiator == initiator.public
    assert open_initiation(initiator, vector("initiation")) is None
    assert open_initiation(responder, vector("response")) is None


def test_cookie() -> None:
    responder = StaticKeypair.from_private(vector("responder_private"))
    entropy = entropy_of(vector("cookie_secret"), b"n" * 24)
    limiter = RateLimiter(responder.public, entropy, limit=0, now=NOW)
    macs = MacGenerator(responder.public)
    initiation = vector("initiation")
    body = initiation[:-32]
    assert macs.close(body, NOW) == initiation

    source = Endpoint.of(VECTOR["cookie_address"], 1234)
    verdict = limiter.verify(initiation, source, NOW)
    assert isinstance(verdict, CookieReply)
    reply = decode(verdict.message)
    assert isinstance(reply, HandshakeCookie)
    macs.handle_cookie(reply, NOW)
    again = macs.close(body, NOW)
    assert again == initiation[:-16] + vector("initiation_mac2")
    other_port = Endpoint.of(VECTOR["cookie_address"], 4321)
    assert limiter.verify(again, other_port, NOW) == Accepted()


@pytest.fixture
def initiator() -> Tunnel:
    return tunnel("initiator", "responder", 1)


@pytest.fixture
def responder() -> Tunnel:
    return tunnel("responder", "initiator", 2)


def tunnel(own: str, peer: str, number: int) -> Tunnel:
    return Tunnel(
        slot=number,
        tunnel_id=number,
        static=StaticKeypair.from_private(vector(f"{own}_private")),
        peer_public_key=StaticKeypair.from_private(vector(f"{peer}_private")).public,
        preshared_key=vector("preshared_key"),
        entropy=entropy_of(vector(f"{own}_ephemeral")),
        unix_now=VECTOR["unix_time"],
        now=NOW,
    )


def entropy_of(*outputs: bytes) -> Any:
    remaining = iter(outputs)

    def entropy(size: int) -> bytes:
        output = next(remaining)
        assert len(output) == size
        return output

    return entropy


def vector(name: str) -> bytes:
    return bytes.fromhex(VECTOR[name])
