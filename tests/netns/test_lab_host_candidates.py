"""The real programs meet on a network that they share beside the internet."""

from __future__ import annotations

import json
import sys
import time
from ipaddress import ip_address

from firezone.durations import SECOND
from firezone.lab import Lab, Nat, Site, netns
from firezone.lab.topology import CLIENT, GATEWAY, GATEWAY_TO_RESOURCE, RESOURCE_ALLOWED
from firezone.policy.addresses import RESERVED

PAGE = f"http://{RESOURCE_ALLOWED.v4}/"
LARGE = f"http://{RESOURCE_ALLOWED.v4}/bytes/2000000"
CLIENT_LAN, GATEWAY_LAN = "10.7.0.1", "10.7.0.2"
# Without a shared network nothing but a relay joins them.
SITE = Site(Nat.SYMMETRIC, frozenset({4}))


def test_peers_follow_a_shared_network_as_it_comes_and_goes() -> None:
    with Lab(client=SITE, gateway=SITE) as lab:
        start(lab)
        assert lab.fetch(PAGE).status == 200
        assert last_kind(lab) == "relayed"

        skip = join(lab)
        wait_for_path(lab, "direct", CLIENT_LAN, skip)
        assert lab.fetch(LARGE).body_bytes == 2_000_000
        known = {host: explained(lab, host) for host in (CLIENT, GATEWAY)}
        inner = {str(a) for a in GATEWAY_TO_RESOURCE.addresses()}
        assert own_hosts(known[CLIENT]) == {"192.168.1.2", CLIENT_LAN}
        assert own_hosts(known[GATEWAY]) == {"192.168.2.2", GATEWAY_LAN, *inner}
        addresses = [ip_address(address(c)) for found in known.values() for c in found]
        assert len(addresses) > 12
        assert not [a for a in addresses if any(a in network for network in RESERVED)]

        skip = len(lab.programs[CLIENT].lines())
        netns.ip_batch(["link delete lan"], lab.namespace(CLIENT))
        wait_for_path(lab, "relayed", None, skip)
        assert lab.fetch(PAGE).status == 200

        skip = join(lab)
        wait_for_path(lab, "direct", CLIENT_LAN, skip)
        for host in (CLIENT, GATEWAY):
            netns.ip_batch(["link set eth0 down"], lab.namespace(host))
        assert lab.fetch(LARGE).body_bytes == 2_000_000


def test_switched_off_they_do_not() -> None:
    with Lab(client=SITE, gateway=SITE) as lab:
        join(lab)
        start(lab, {"FIREZONE_HOST_CANDIDATES": "false"})
        for _ in range(4):
            assert lab.fetch(PAGE).status == 200
            time.sleep(0.5)
        assert last_kind(lab) == "relayed"
        assert own_hosts(explained(lab, CLIENT)) == {"192.168.1.2"}
        assert own_hosts(explained(lab, GATEWAY)) == {"192.168.2.2"}


def start(lab: Lab, environment: dict[str, str] | None = None) -> None:
    lab.start_resource()
    lab.start_portal()
    lab.start_relay()
    lab.start_gateway(environment)
    lab.start_client(environment)


def join(lab: Lab) -> int:
    """A cable between client and gateway; returns how many lines the client had written."""
    written = len(lab.programs[CLIENT].lines()) if CLIENT in lab.programs else 0
    one, other = (f"lan netns {lab.namespace(host)}" for host in (CLIENT, GATEWAY))
    netns.ip_batch([f"link add {one} type veth peer name {other}"])
    for host, address in ((CLIENT, CLIENT_LAN), (GATEWAY, GATEWAY_LAN)):
        commands = [f"address add {address}/24 dev lan", "link set lan up"]
        netns.ip_batch(commands, lab.namespace(host))
    return written


def wait_for_path(lab: Lab, kind: str, local: str | None, skip: int) -> None:
    lab.programs[CLIENT].wait_for(
        lambda line: (
            line.get("event") == "path_chosen"
            and line["kind"] == kind
            and (local is None or line["local"].startswith(f"{local}:"))
        ),
        20 * SECOND,
        skip=skip,
    )


def last_kind(lab: Lab) -> str:
    lines = [x for x in lab.programs[CLIENT].lines() if x.get("event") == "path_chosen"]
    return str(lines[-1]["kind"])


def explained(lab: Lab, host: str) -> list[dict[str, str]]:
    """The candidates that a host knows, its own and its peer's."""
    firezone = [sys.executable, "-m", "firezone"]
    status = json.loads(lab.exec(host, [*firezone, "status", "--json"]).stdout)
    (connection,) = status["connections"]
    done = lab.exec(host, [*firezone, "explain", connection["peer"][:8], "--json"])
    assert done.returncode == 0, done.stderr
    found: list[dict[str, str]] = json.loads(done.stdout)["candidates"]
    return found


def own_hosts(candidates: list[dict[str, str]]) -> set[str]:
    """What a host signals of itself."""
    return {address(c) for c in candidates if (c["side"], c["kind"]) == ("local", "host")}


def address(candidate: dict[str, str]) -> str:
    return candidate["address"].rpartition(":")[0].strip("[]")
