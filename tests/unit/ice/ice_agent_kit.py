"""Connected agents, and a single one with what its peer sends, message by message."""

from __future__ import annotations

import random

from ice_wire import CONTROLLED_CREDENTIALS, CONTROLLING_CREDENTIALS, Wire, host, relay

from firezone import stun
from firezone.ice import Agent
from firezone.model import Endpoint

LEFT, RIGHT = "10.0.0.1:1", "10.0.0.2:2"
LEFT_RELAY, RIGHT_RELAY = "5.5.5.5:50001", "6.6.6.6:50002"


def connected_wire(relays: bool = False) -> Wire:
    wire = Wire()
    wire.add(wire.left, host(LEFT), *([relay(LEFT_RELAY, LEFT)] if relays else []))
    wire.add(wire.right, host(RIGHT), *([relay(RIGHT_RELAY, RIGHT)] if relays else []))
    wire.run()
    assert wire.path(wire.left) == (LEFT, RIGHT)
    return wire


def relayed_wire() -> Wire:
    """Connected through both relays, as nothing passes otherwise."""
    wire = Wire()
    wire.block(LEFT, RIGHT)
    wire.block(LEFT_RELAY, RIGHT)
    wire.block(LEFT, RIGHT_RELAY)
    wire.add(wire.left, host(LEFT), relay(LEFT_RELAY, LEFT))
    wire.add(wire.right, host(RIGHT), relay(RIGHT_RELAY, RIGHT))
    wire.run(5)
    assert wire.path(wire.left) == (LEFT_RELAY, RIGHT_RELAY)
    assert wire.path(wire.right) == (RIGHT_RELAY, LEFT_RELAY)
    return wire


def controlled_agent_with_two_paths() -> Agent:
    agent = checking_agent(controlling=False)
    agent.add_remote_candidate(relay(RIGHT_RELAY), 0)
    agent.handle_timeout(0)
    answer_checks(agent, 0)
    return agent


def checking_agent(controlling: bool) -> Agent:
    """An agent with the left side's credentials that has just sent its first check."""
    agent = Agent(
        controlling=controlling,
        local=CONTROLLING_CREDENTIALS,
        remote=CONTROLLED_CREDENTIALS,
        entropy=random.Random(3).randbytes,
        now=0,
    )
    agent.add_local_candidate(host(LEFT), 0)
    agent.add_remote_candidate(host(RIGHT), 0)
    agent.handle_timeout(0)
    return agent


_peer_entropy = random.Random(4).randbytes


def peer_request(
    controlling: bool, use_candidate: bool = False, tie_breaker: int = 1
) -> stun.Message:
    role = stun.ICE_CONTROLLING if controlling else stun.ICE_CONTROLLED
    request = (
        stun.Message.request(stun.Method.BINDING, _peer_entropy)
        .with_(stun.USERNAME, "lefu:rigu")
        .with_(stun.PRIORITY, 110 << 24 | 65534 << 8 | 255)
        .with_(role, tie_breaker)
    )
    if use_candidate:
        request = request.with_(stun.USE_CANDIDATE, True)
    return signed(request, CONTROLLING_CREDENTIALS.password)


def success_of(
    request: stun.Message, mapped: Endpoint, password: str = CONTROLLED_CREDENTIALS.password
) -> stun.Message:
    return signed(request.success().with_(stun.XOR_MAPPED_ADDRESS, mapped), password)


def signed(message: stun.Message, password: str) -> stun.Message:
    return stun.decode(message.encode(integrity_key=stun.short_term_key(password)))


def answer_checks(agent: Agent, now: int) -> None:
    for transmit in drain(agent):
        request = stun.decode(transmit.payload)
        if request.class_ is stun.Class.REQUEST:
            response = success_of(request, transmit.local)
            agent.handle_stun(transmit.local, transmit.destination, response, now)
    while agent.poll_event() is not None:
        pass


def drain(agent: Agent) -> list:  # type: ignore[type-arg]
    while agent.poll_event() is not None:
        pass
    transmits = []
    while (transmit := agent.poll_transmit()) is not None:
        transmits.append(transmit)
    return transmits


def responses(agent: Agent) -> list[bytes]:
    payloads = [t.payload for t in drain(agent)]
    return [p for p in payloads if stun.decode(p).class_ is not stun.Class.REQUEST]
