"""Whatever bytes come, authentic ones of a hostile peer included, the agent goes on."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ice_wire import CONTROLLED_CREDENTIALS, CONTROLLING_CREDENTIALS, Wire, endpoint, host, relay

from firezone import stun
from firezone.errors import RemoteError
from firezone.ice import Agent, IceTransmit
from firezone.stun import decode
from firezone.stun.attributes import KNOWN

LOCAL, SOURCE = endpoint("10.0.0.1:1"), endpoint("10.0.0.2:2")
sources = st.sampled_from(["10.0.0.2:2", "7.7.7.7:7", "0.0.0.0:0", "[ff02::1]:9", "[::1]:1"])


def test_every_truncation_of_real_messages() -> None:
    wire = busy_wire()
    for *_, payload in wire.sent[:8]:
        for length in range(len(payload)):
            feed(wire.left, payload[:length])
    assert_unharmed(wire)


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=120))
def test_any_bytes(data: bytes) -> None:
    feed(WIRE.left, data)
    assert_unharmed(WIRE)


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 7), st.integers(0, 160), st.integers(1, 255))
def test_mutated_messages(index: int, at: int, flip: int) -> None:
    payload = bytearray(WIRE.sent[index][4])
    payload[at % len(payload)] ^= flip
    feed(WIRE.left, bytes(payload))
    assert_unharmed(WIRE)


@settings(max_examples=200, deadline=None)
@given(
    class_=st.sampled_from(stun.Class),
    attributes=st.lists(
        st.tuples(st.sampled_from(sorted(KNOWN)) | st.integers(0, 0xFFFF), st.binary(max_size=24)),
        max_size=6,
    ),
    source=sources,
    priority=st.none() | st.integers(0, 2**32 - 1),
)
def test_authentic_messages_of_a_hostile_peer(
    class_: stun.Class,
    attributes: list[tuple[int, bytes]],
    source: str,
    priority: int | None,
) -> None:
    wire = busy_wire()
    agent = wire.left
    agent.add_remote_candidate(host("10.0.0.9:9"), wire.now)
    agent.handle_timeout(wire.now)
    (check,) = (decode(t.payload) for t in drain(agent) if str(t.destination) == "10.0.0.9:9")
    request = class_ is stun.Class.REQUEST
    password = (CONTROLLING_CREDENTIALS if request else CONTROLLED_CREDENTIALS).password
    message = stun.Message(class_, stun.Method.BINDING, check.transaction_id)
    if request:
        message = message.with_(stun.USERNAME, "lefu:rigu")
    if priority is not None:
        message = message.with_(stun.PRIORITY, priority)
    for code, value in attributes:
        raw = stun.Attribute[bytes](code, "RAW", stun.Layout.opaque())
        message = message.with_(raw, value)
    feed(agent, message.encode(integrity_key=password.encode()), source)
    agent.handle_timeout(wire.now)
    assert all(t.payload for t in drain(agent))


@pytest.mark.parametrize("seed", range(5))
def test_a_storm_of_authentic_requests_and_candidates(seed: int) -> None:
    wire = busy_wire()
    chance = random.Random(seed)
    for _ in range(60):
        text = f"10.0.{chance.randrange(3)}.{chance.randrange(9)}:{1 + chance.randrange(9)}"
        candidate = chance.choice([host, relay])(text)
        agent = chance.choice([wire.left, wire.right])
        match chance.randrange(5):
            case 0:
                agent.add_local_candidate(candidate, wire.now)
            case 1:
                agent.invalidate_local_candidate(candidate, wire.now)
            case 2:
                agent.add_remote_candidate(candidate, wire.now)
            case 3:
                agent.invalidate_remote_candidate(candidate, wire.now)
            case 4:
                wire.run(chance.random() * 3)
        assert_consistent(agent)


def feed(agent: Agent, data: bytes, source: str = str(SOURCE)) -> None:
    try:
        message = decode(data)
    except RemoteError:
        return
    agent.handle_stun(LOCAL, endpoint(source), message, 10**10)


def busy_wire() -> Wire:
    wire = Wire()
    wire.add(wire.left, host(str(LOCAL)))
    wire.add(wire.right, host(str(SOURCE)))
    wire.run(5)
    return wire


WIRE = busy_wire()


def drain(agent: Agent) -> list[IceTransmit]:
    transmits = []
    while (transmit := agent.poll_transmit()) is not None:
        transmits.append(transmit)
    return transmits


def assert_unharmed(wire: Wire) -> None:
    assert wire.path(wire.left) == (str(LOCAL), str(SOURCE))
    assert [str(c.address) for c in wire.left.remote_candidates()] == [str(SOURCE)]


def assert_consistent(agent: Agent) -> None:
    live = set(agent.local_candidates()), set(agent.remote_candidates())
    keys = set()
    for pair in agent.pairs():
        assert pair.local in live[0] and pair.remote in live[1]
        keys.add((pair.local.base, pair.remote.address))
    assert len(keys) == len(agent.pairs()) <= 100
    nominated = agent.nominated
    assert (nominated is None) == (not any(pair.nominated for pair in agent.pairs()))
