"""Access ends under traffic: the next packet is refused, and its sender hears why."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address

import pytest
from first_light import (
    PROHIBITED,
    events,
    fetches,
    first_light,
    flowing,
    refusal,
    restart_client,
)

from firezone.durations import SECOND
from firezone.lab import Lab
from firezone.lab.portal_file import Policy, PortalFile
from firezone.lab.topology import RESOURCE_ALLOWED

ADDRESSES = [("web", RESOURCE_ALLOWED.v4), ("web-v6", RESOURCE_ALLOWED.v6)]
both_families = pytest.mark.parametrize(("resource", "address"), ADDRESSES, ids=["v4", "v6"])
Address = IPv4Address | IPv6Address


@pytest.fixture(scope="module")
def started() -> Iterator[Lab]:
    with first_light() as lab:
        yield lab


@pytest.fixture
def lab(started: Lab) -> Iterator[Lab]:
    """The usual policy before each test, and a client that has not used it yet."""
    usual = PortalFile.usual()

    def reset(file: PortalFile) -> None:
        file.resources, file.policies = usual.resources, usual.policies

    skip = len(started.programs["portal"].lines())
    started.edit_portal(reset)
    started.programs["portal"].wait_for_event("reloaded", skip=skip)
    restart_client(started)
    yield started


@both_families
def test_a_port_that_is_taken_back(lab: Lab, resource: str, address: Address) -> None:
    """The client is not told of filters, so this is the gateway's word."""
    with flowing(lab, address) as flow:

        def narrow(file: PortalFile) -> None:
            file.resources[resource] = replace(file.resources[resource], filters=("tcp/80",))

        lab.edit_portal(narrow)
        assert refusal(flow) == PROHIBITED[address.version]
        assert fetches(lab, f"http://{bracketed(address)}/"), "what is still allowed goes on"


@both_families
def test_a_policy_that_is_removed(lab: Lab, resource: str, address: Address) -> None:
    with flowing(lab, address) as flow:

        def remove(file: PortalFile) -> None:
            file.policies = [p for p in file.policies if p.resource != resource]

        gateway = lab.programs["gateway"]
        skip = len(gateway.lines())
        lab.edit_portal(remove)
        assert refusal(flow) == PROHIBITED[address.version]
        gateway.wait_for_event("access_revoked", SECOND, skip=skip)
        other = next(a for r, a in ADDRESSES if r != resource)
        assert fetches(lab, f"http://{bracketed(other)}/"), "the other policy stands"
        assert not lab.fetch(f"http://{bracketed(address)}/", timeout=SECOND).status


@both_families
def test_a_policy_that_expires(lab: Lab, resource: str, address: Address) -> None:
    """Nobody tells the client or the gateway when the time has come."""
    expires_at = int(time.time()) + 4

    def limit(file: PortalFile) -> None:
        file.policies = [
            Policy(p.resource, expires_at if p.resource == resource else None)
            for p in file.policies
        ]

    lab.edit_portal(limit)
    with flowing(lab, address) as flow:
        assert not events(flow, "refused")
        line = flow.wait_for_event("refused", 6 * SECOND)
        assert (line["type"], line["code"]) == PROHIBITED[address.version]
        assert time.time() > expires_at - 0.1
        assert events(lab.programs["gateway"], "access_expired")


def test_access_that_is_given_again(lab: Lab) -> None:
    """The flow that was refused goes on, without its program opening it anew."""
    with flowing(lab) as flow:
        policies = lab.portal_file.policies
        lab.edit_portal(lambda file: setattr(file, "policies", policies[1:]))
        assert refusal(flow) == PROHIBITED[4]
        time.sleep(0.7)  # until the route is gone, too
        lab.edit_portal(lambda file: setattr(file, "policies", policies))
        flow.wait_for_event("gap", 5 * SECOND)


def bracketed(address: Address) -> str:
    return f"[{address}]" if address.version == 6 else str(address)
