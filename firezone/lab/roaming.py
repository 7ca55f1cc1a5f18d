"""What happens to a running download when hosts move, sleep, or lose a relay or the portal."""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

from firezone.durations import SECOND
from firezone.lab import netns, steady
from firezone.lab.lab import Lab
from firezone.lab.programs import Program
from firezone.lab.topology import (
    BOTH,
    CLIENT,
    GATEWAY,
    RESOURCE,
    RESOURCE_ALLOWED,
    Site,
    SitePlan,
    relay_name,
)

V4 = frozenset({4})
_PORT = 5201
AWAY_SECONDS = 5
"""How long hosts sleep, and what goes away and comes back stays away."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What the download saw."""

    longest_pause_ms: int
    received: int
    intact: bool
    error: str
    """Why it ended before it was told to; empty if it did not."""


@dataclass(frozen=True, slots=True)
class Scenario:
    """One change under way."""

    happen: Callable[[Lab], None]
    families: frozenset[int] = V4
    """What both sites have to the outside."""
    relays: int = 1
    is_relayed: bool = False
    portal_family: int = 4
    away_seconds: int = 0
    """How long the download has no chance, or what it may miss is away."""
    settle_seconds: float = 5
    """How long it goes on afterwards; it must be under way again a second before."""

    def survived(self, outcome: Outcome) -> bool:
        """Whether the same connection went on, with the right bytes."""
        limit_ms = 1000 * (self.away_seconds + self.settle_seconds - 1)
        is_whole = outcome.intact and not outcome.error
        return is_whole and outcome.longest_pause_ms < limit_ms


def run(scenario: Scenario) -> Outcome:
    """Start everything, let a download flow, let it happen, and look on for a while."""
    site = Site(families=scenario.families)
    relays, portal = scenario.relays, scenario.portal_family
    with Lab(client=site, gateway=site, relays=relays, portal_family=portal) as lab:
        lab.start_resource()
        _steady(lab, "steady-server", RESOURCE, "serve", str(_PORT)).wait_for_event("ready")
        lab.start_portal()
        for number in range(1, relays + 1):
            lab.start_relay(number)
        lab.block_direct(scenario.is_relayed)
        lab.start_gateway()
        lab.start_client()
        address = str(RESOURCE_ALLOWED.v4)
        download = _steady(lab, "download", CLIENT, "get", address, str(_PORT))
        download.wait_for_event("flowing", 20 * SECOND)
        time.sleep(2)
        scenario.happen(lab)
        time.sleep(scenario.settle_seconds)
        download.stop()
        done = download.wait_for_event("done")
    return Outcome(done["longest_pause_ms"], done["received"], done["intact"], done["error"])


def _steady(lab: Lab, name: str, host: str, *arguments: str) -> Program:
    return lab.start(name, host, [sys.executable, "-I", steady.__file__, *arguments])


def _move(site: str) -> Callable[[Lab], None]:
    """Another address of the same network."""

    def happen(lab: Lab) -> None:
        plan = _site(lab, site)
        v4 = plan.host_inside.v4
        _set_address(lab, plan, f"{v4}/24", f"{v4 + 1}/24")

    return happen


def _set_address(lab: Lab, plan: SitePlan, old: str, new: str) -> None:
    commands = [
        f"address del {old} dev eth0",
        f"address add {new} dev eth0",
        f"route replace default via {plan.router_inside.v4}",
    ]
    netns.ip_batch(commands, lab.namespace(plan.host))


def _lose(site: str, family: int) -> Callable[[Lab], None]:
    """The network goes on with the other family alone."""

    def happen(lab: Lab) -> None:
        plan = _site(lab, site)
        (address,) = plan.host_inside.interfaces(frozenset({family}))
        netns.ip_batch([f"address del {address} dev eth0"], lab.namespace(plan.host))

    return happen


def _sleep(name: str) -> Callable[[Lab], None]:
    def happen(lab: Lab) -> None:
        lab.programs[name].signal(signal.SIGSTOP)
        time.sleep(AWAY_SECONDS)
        lab.programs[name].signal(signal.SIGCONT)

    return happen


def _restart_relay(lab: Lab) -> None:
    lab.stop("relay1", signal.SIGKILL)
    lab.start_relay()


def _kill_used_relay(lab: Lab) -> None:
    """Whichever carries the download."""
    before = _relayed_bytes(lab)
    time.sleep(0.5)
    after = _relayed_bytes(lab)
    busiest = max(after, key=lambda name: after[name] - before[name])
    lab.stop(busiest, signal.SIGKILL)


def _relayed_bytes(lab: Lab) -> dict[str, int]:
    path = "/sys/class/net/eth0/statistics/rx_bytes"
    names = [relay_name(number) for number in range(1, lab.plan.relays + 1)]
    return {name: int(lab.exec(name, ["cat", path]).stdout) for name in names}


def _all_relays_away(lab: Lab) -> None:
    numbers = range(1, lab.plan.relays + 1)
    for number in numbers:
        lab.stop(relay_name(number), signal.SIGKILL)
    time.sleep(AWAY_SECONDS)
    for number in numbers:
        lab.start_relay(number)


def _portal_away(lab: Lab) -> None:
    lab.stop("portal", signal.SIGKILL)
    time.sleep(AWAY_SECONDS)
    lab.start_portal()


def _move_without_portal(lab: Lab) -> None:
    lab.stop("portal", signal.SIGKILL)
    _move(CLIENT)(lab)
    time.sleep(AWAY_SECONDS)
    lab.start_portal()


def _site(lab: Lab, name: str) -> SitePlan:
    return lab.plan.client if name == CLIENT else lab.plan.gateway


SCENARIOS = {
    "client gets another address": Scenario(_move(CLIENT)),
    "client gets another address, relayed": Scenario(_move(CLIENT), is_relayed=True),
    "client gets another address while the portal is away": Scenario(
        _move_without_portal, away_seconds=AWAY_SECONDS, settle_seconds=25
    ),
    "client loses IPv4": Scenario(_lose(CLIENT, 4), BOTH, portal_family=6),
    "client loses IPv6": Scenario(_lose(CLIENT, 6), BOTH),
    "client sleeps": Scenario(_sleep(CLIENT), away_seconds=AWAY_SECONDS),
    "gateway gets another address": Scenario(_move(GATEWAY)),
    "gateway loses IPv4": Scenario(_lose(GATEWAY, 4), BOTH, portal_family=6),
    "gateway loses IPv6": Scenario(_lose(GATEWAY, 6), BOTH),
    "gateway sleeps": Scenario(_sleep(GATEWAY), away_seconds=AWAY_SECONDS),
    "relay restarts": Scenario(_restart_relay, is_relayed=True),
    "relay in use dies": Scenario(_kill_used_relay, relays=2, is_relayed=True, settle_seconds=10),
    "all relays go and come back": Scenario(
        _all_relays_away, relays=2, is_relayed=True, away_seconds=AWAY_SECONDS
    ),
    "portal goes and comes back": Scenario(_portal_away),
}
