"""Our agent and our relay against libnice and pion, as ICE peers and as TURN clients.

`nice_peer.c` is a small program on Debian's libnice, `pion/main.go` one on pion; both are compiled
here. Pion is left out where there is no Go, or its modules cannot be had.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from ice_net import RELAY, THEM, THEM_OUTSIDE, US, US_OUTSIDE, Net, build

from firezone.ice import CandidateKind
from firezone.model import Endpoint

HERE = Path(__file__).parent
HOST, RELAYED = CandidateKind.HOST, CandidateKind.RELAYED
SERVER_REFLEXIVE = CandidateKind.SERVER_REFLEXIVE
ROLES = pytest.mark.parametrize("controlling", [True, False], ids=["controlling", "controlled"])

pytestmark = pytest.mark.timeout(60)


@pytest.fixture(scope="session", params=["libnice", "pion"])
def program(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> str:
    built = tmp_path_factory.mktemp(request.param) / "peer"
    build_nice(built) if request.param == "libnice" else build_pion(built)
    return str(built)


def build_nice(built: Path) -> None:
    missing = [tool for tool in ("gcc", "pkg-config") if shutil.which(tool) is None]
    if missing or subprocess.run(["pkg-config", "--exists", "nice"]).returncode != 0:
        pytest.skip("needs gcc, pkg-config and libnice-dev")
    flags = subprocess.check_output(["pkg-config", "--cflags", "--libs", "nice"], text=True)
    source = HERE / "nice_peer.c"
    subprocess.run(["gcc", "-Wall", "-Wextra", "-o", built, source, *flags.split()], check=True)


def build_pion(built: Path) -> None:
    if shutil.which("go") is None:
        pytest.skip("needs Go")
    download = subprocess.run(["go", "mod", "download"], cwd=HERE / "pion", capture_output=True)
    if download.returncode != 0:
        pytest.skip(f"no modules: {download.stderr.decode()[-200:]}")
    subprocess.run(["go", "build", "-o", built, "."], cwd=HERE / "pion", check=True)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Net]:
    with build(tmp_path_factory.mktemp("relay")) as net:
        yield net


@pytest.fixture
def net(world: Net) -> Iterator[Net]:
    yield world
    world.clear()


def nominated(net: Net) -> tuple[CandidateKind, CandidateKind]:
    pair = net.us.agent.nominated
    assert pair is not None
    return pair.local.kind, pair.remote.kind


def remote(net: Net) -> Endpoint:
    pair = net.us.agent.nominated
    assert pair is not None
    return pair.remote.address


@pytest.mark.timeout(300)
def test_they_are_built(program: str) -> None:
    """First, and for longer than any other may take: Go compiles all of pion."""
    assert os.access(program, os.X_OK)


@ROLES
def test_host_to_host_though_both_could_relay(net: Net, program: str, controlling: bool) -> None:
    net.start([program, net.turn("udp")], controlling)
    net.us.use(net.relay, HOST, SERVER_REFLEXIVE, RELAYED)
    net.connect()
    assert net.run(lambda: nominated(net) == (HOST, HOST))
    net.exchange()
    assert {c.kind for c in net.them.candidates} >= {HOST, RELAYED}


@ROLES
def test_they_are_behind_a_nat(net: Net, program: str, controlling: bool) -> None:
    """They learn their address outside from the relay's answer to an Allocate: libnice's Binding
    requests are those of RFC 3489, without a cookie, which we do not answer. They have it before we
    check: libnice does not signal an address that checks have shown it. A controlling agent of
    theirs nominates once, and maybe before it finds the NAT open; ours moves up."""
    net.hide(THEM)
    net.start([program, net.turn("udp")], controlling)
    theirs = {HOST, SERVER_REFLEXIVE, RELAYED}
    assert net.run(lambda: {c.kind for c in net.them.candidates} == theirs), net.them.lines
    net.us.use(net.relay, HOST)
    net.connect()
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
