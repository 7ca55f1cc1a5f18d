import os
import random
from dataclasses import replace
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path

import pytest

from firezone.errors import ConfigurationError
from firezone.portal import store as store_module
from firezone.portal.store import AddressesExhausted, Flow, Identity, Store

FLOW = Flow("c", "g", "r", "alice", "office", "sha256:x", "192.0.2.1", "cidr", 17)


def seeded(seed: int = 1) -> Store:
    return Store.open(None, random.Random(seed).randbytes)


def identify(store: Store, external_id: str = "e", role: str = "client") -> Identity:
    return store.identify("acme", role, "alice", external_id, "box", "KEY=")


def test_a_peer_keeps_what_it_got(tmp_path: Path) -> None:
    path = tmp_path / "portal.db"
    store = Store.open(path, os.urandom)
    first = identify(store)
    flow = replace(FLOW, client_id=first.id)
    store.put_flow(flow)
    store.close()
    store = Store.open(path, os.urandom)
    assert identify(store) == first
    assert store.flows("acme") == [flow] and store.flows("other") == []
    assert path.stat().st_mode & 0o777 == 0o600
    assert first.psk_base.hex() not in repr(first) and "psk_base" not in repr(first)


def test_roles_owners_and_accounts_have_peers_of_their_own() -> None:
    store = seeded()
    ids = {
        store.identify(account, role, owner, "e", "n", "k").id
        for account in "ab"
        for role in ("client", "gateway")
        for owner in "xy"
    }
    assert len(ids) == 8


def test_addresses_are_from_the_pools_and_never_given_twice(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(store_module, "IPV4_POOL", IPv4Network("100.64.0.0/28"))
    monkeypatch.setattr(store_module, "IPV6_POOL", IPv6Network("fd00:2021:1111::/124"))
    store = seeded()
    peers = [identify(store, str(n)) for n in range(13)]
    assert len({p.ipv4 for p in peers}) == len({p.ipv6 for p in peers}) == 13
    assert {int(p.ipv4) & 15 for p in peers} == set(range(2, 15))
    with pytest.raises(AddressesExhausted):
        identify(store, "one more")
    assert identify(store, "3") == peers[3]


def test_flows_are_replaced_and_deleted() -> None:
    store = seeded()
    flow = replace(FLOW, client_id=identify(store).id)
    store.put_flow(flow)
    store.put_flow(replace(flow, revoked=True))
    assert store.flows("acme") == [replace(flow, revoked=True)]
    store.delete_flow(flow.key)
    assert store.flows("acme") == []


@pytest.mark.parametrize("damage", ["garbage", "torn", "version"])
def test_a_damaged_file_is_refused_and_left_alone(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "portal.db"
    store = Store.open(path, os.urandom)
    for n in range(50):
        identify(store, str(n))
    store.close()
    content = bytearray(path.read_bytes())
    match damage:
        case "garbage":
            content = bytearray(b"this is no database" * 500)
        case "torn":
            content[4096:] = os.urandom(len(content) - 4096)
        case "version":
            content[60:64] = (99).to_bytes(4, "big")
    path.write_bytes(content)
    with pytest.raises(ConfigurationError, match=str(path)):
        Store.open(path, os.urandom)
    assert path.read_bytes() == content


def test_a_path_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="state"):
        Store.open(tmp_path / "no" / "portal.db", os.urandom)
    with pytest.raises(ConfigurationError, match="state"):
        Store.open(tmp_path, os.urandom)
