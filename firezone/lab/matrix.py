"""Tries the real programs between two sites: which path they find, and how soon data comes."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass

from firezone.durations import SECOND
from firezone.lab.errors import WaitTimeout
from firezone.lab.fetch import Fetched
from firezone.lab.lab import Lab
from firezone.lab.nat_kinds import Nat
from firezone.lab.paths import path_of
from firezone.lab.programs import Program
from firezone.lab.topology import RESOURCE_ALLOWED, Site

SITES = {
    "none": Site(Nat.NONE),
    "full cone": Site(Nat.FULL_CONE),
    "restricted cone": Site(Nat.RESTRICTED_CONE),
    "port-restricted cone": Site(Nat.CONE),
    "shifted full cone": Site(Nat.SHIFTED_FULL_CONE),
    "shifted restricted cone": Site(Nat.SHIFTED_RESTRICTED_CONE),
    "shifted cone": Site(Nat.SHIFTED_CONE),
    "two cones": Site(Nat.CONE, carrier=Nat.SHIFTED_CONE),
    "address-symmetric": Site(Nat.ADDRESS_SYMMETRIC),
    "open symmetric": Site(Nat.OPEN_SYMMETRIC),
    "restricted symmetric": Site(Nat.RESTRICTED_SYMMETRIC),
    "symmetric": Site(Nat.SYMMETRIC),
    "IPv4 only": Site(Nat.CONE, frozenset({4})),
    "IPv6 only": Site(Nat.CONE, frozenset({6})),
    "MTU 1280": Site(Nat.CONE, path_mtu=1280),
    "no UDP": Site(Nat.UDP_BLOCKED),
}
_V4 = frozenset({4})
_NAT64, _NAT64_SYMMETRIC = (
    Site(kind, frozenset({6}), nat64=True) for kind in (Nat.CONE, Nat.SYMMETRIC)
)
OTHERS = {
    "client behind a NAT64, all others IPv4 only": lambda: between(_NAT64, Site(Nat.CONE, _V4)),
    "the same, symmetric": lambda: between(_NAT64_SYMMETRIC, Site(Nat.CONE, _V4)),
    "gateway behind a NAT64, all others IPv4 only": lambda: between(Site(Nat.CONE, _V4), _NAT64),
    "one NAT before both, no hairpinning": lambda: behind_one_nat(Site()),
    "one NAT before both, which hairpins": lambda: behind_one_nat(Site(hairpin=True)),
    "the same behind a carrier's NAT": lambda: behind_one_nat(Site(hairpin=True, carrier=Nat.CONE)),
}
"""What is no pair of sites that may be any: the labs, not opened yet."""
LARGE = 2_000_000


@dataclass(frozen=True, slots=True)
class Cell:
    """What came of one pair of sites."""

    expected: str
    path: str
    """The last path chosen; empty if there was none."""
    first_byte_ms: float
    fetched: tuple[Fetched, ...]

    @property
    def ok(self) -> bool:
        complete = all(fetched.status == 200 for fetched in self.fetched)
        return complete and self.path == self.expected and self.fetched[-1].body_bytes == LARGE


def between(client: Site, gateway: Site) -> Lab:
    """The portal and the relay have IPv4 alone."""
    return Lab(client=client, gateway=gateway, public_families=_V4)


def behind_one_nat(site: Site) -> Lab:
    return Lab(client=site, shared_nat=True)


def run_cell(client: Site, gateway: Site) -> Cell:
    """Start the whole system between these sites, and use it."""
    return use(Lab(client=client, gateway=gateway))


def use(lab: Lab) -> Cell:
    """Start the whole system in a lab that is not open yet, and use it."""
    expected = path_of(lab.plan)
    with lab:
        lab.start_resource()
        lab.start_portal()
        lab.start_relay()
        lab.start_gateway()
        lab.start_client()
        fetched = [lab.fetch(f"http://{RESOURCE_ALLOWED.v4}{path}") for path in _PAGES]
        path = _settled_path(lab.programs["client"], expected)
    return Cell(expected, path, fetched[0].first_byte_ms, tuple(fetched))


_PAGES = ("/", f"/bytes/{LARGE}")
_SETTLING = 3 * SECOND


def _settled_path(client: Program, expected: str) -> str:
    """Data may flow over a relay for a while until a direct path is found."""
    with suppress(WaitTimeout):
        client.wait_for(lambda line: line.get("kind") == expected, _SETTLING)
    paths = [line["kind"] for line in client.lines() if line.get("event") == "path_chosen"]
    return paths[-1] if paths else ""
