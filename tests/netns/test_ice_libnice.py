"""Our agent and our relay against libnice, as an ICE peer and as a TURN client.

`nice_peer.c` is a small program on Debian's libnice, compiled here.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from ice_net import RELAY, THEM, THEM_OUTSIDE, US, US_OUTSIDE, Net, build

from firezone.ice import CandidateKind
from firezone.model import Endpoint

SOURCE = Path(__file__).with_name("nice_peer.c")
HOST, RELAYED = CandidateKind.HOST, CandidateKind.RELAYED
SERVER_REFLEXIVE = CandidateKind.SERVER_REFLEXIVE
ROLES = pytest.mark.parametrize("controlling", [True, False], ids=["controlling", "controlled"])

pytestmark = pytest.mark.timeout(60)


@pytest.fixture(scope="session")
def program(tmp_path_factory: pytest.TempPathFactory) -> str:
    missing = [tool for tool in ("gcc", "pkg-config") if shutil.which(tool) is None]
    if missing or subprocess.run(["pkg-config", "--exists", "nice"]).returncode != 0:
        pytest.skip("needs gcc, pkg-config and libnice-dev")
    flags = subprocess.check_output(["pkg-config", "--cflags", "--libs", "nice"], text=True)
    built = tmp_path_factory.mktemp("nice") / "nice_peer"
    subprocess.run(["gcc", "-Wall", "-Wextra", "-o", built, SOURCE, *flags.split()], check=True)
    return str(built)


@pytest.fixture
def net(tmp_path: Path) -> Iterator[Net]:
    with build(tmp_path) as net:
        yield net


def nominated(net: Net) -> tuple[CandidateKind, CandidateKind]:
    pair = net.us.agent.nominated
    assert pair is not None
    return pair.local.kind, pair.remote.kind


def remote(net: Net) -> Endpoint:
    pair = net.us.agent.nominated
    assert pair is not None
    return pair.remote.address


@ROLES
def test_host_to_host_though_both_could_relay(net: Net, program: str, controlling: bool) -> None:
    net.start([program, net.turn("udp")], controlling)
    net.us.use(net.relay, HOST, SERVER_REFLEXIVE, RELAYED)
    net.connect()
    assert net.run(lambda: nominated(net) == (HOST, HOST))
    net.exchange()
    assert {c.kind for c in net.them.candidates} == {HOST, RELAYED}


@ROLES
def test_they_are_behind_a_nat(net: Net, program: str, controlling: bool) -> None:
    """Its Binding requests are those of RFC 3489, without a cookie, which we do not answer: it
    learns its address outside from the relay's answer to its Allocate. As the controlling agent it
    nominates once, and maybe before it finds the NAT open; we move up."""
    net.hide(THEM)
    net.start([program, net.turn("udp")], controlling)
    net.us.use(net.relay, HOST)
    net.connect()
    assert {c.kind for c in net.them.candidates} == {HOST, SERVER_REFLEXIVE, RELAYED}
    assert not controlling or net.run(lambda: str(remote(net).address) == THEM_OUTSIDE)
    net.exchange()


@ROLES
def test_we_are_behind_a_nat(net: Net, program: str, controlling: bool) -> None:
    net.hide(US)
    net.start([program], controlling)
    net.us.use(net.relay, HOST, SERVER_REFLEXIVE)
    net.connect()
    outside = {str(c.address.address) for c in net.us.agent.local_candidates()}
    assert US_OUTSIDE in outside
    assert net.them.selected[-1] == "host srflx"
    net.exchange()


@ROLES
def test_over_our_relayed_address(net: Net, program: str, controlling: bool) -> None:
    net.block_direct()
    net.start([program], controlling)
    net.us.use(net.relay, HOST, RELAYED)
    net.connect()
    assert nominated(net)[0] is RELAYED and str(remote(net).address) == THEM
    net.exchange()


@ROLES
@pytest.mark.parametrize("over", ["udp", "tcp"])
def test_over_their_relayed_address(net: Net, program: str, controlling: bool, over: str) -> None:
    net.block_direct()
    net.start([program, net.turn(over), "only-relay"], controlling)
    net.us.use(net.relay, HOST)
    net.connect()
    assert str(remote(net).address) == RELAY
    assert {c.kind for c in net.them.candidates} == {RELAYED}
    net.exchange(bytes(range(256)) * 4)


def test_over_two_relayed_addresses(net: Net, program: str) -> None:
    net.filter(f"ip saddr {US} ip daddr != {RELAY} drop; ip saddr {THEM} ip daddr != {RELAY} drop;")
    net.start([program, net.turn("udp"), "only-relay"], controlling=True)
    net.us.use(net.relay, RELAYED)
    net.connect()
    assert nominated(net)[0] is RELAYED and str(remote(net).address) == RELAY
    net.exchange()


@pytest.mark.parametrize("both", [True, False], ids=["both controlling", "both controlled"])
def test_a_role_conflict_is_resolved(net: Net, program: str, both: bool) -> None:
    net.start([program], both, both)
    net.us.use(net.relay, HOST)
    net.connect()
    net.exchange()
