"""The lab's network behaves as its plan says, and leaves nothing behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from firezone.durations import SECOND
from firezone.lab import Depends, Lab, Nat, Program, Site, WaitTimeout, netns, registry, userns

SYSTEM = ("ip netns list", "ip -o link", "ip rule", "ip route", "nft list ruleset", "ls /run/netns")


def test_nothing_is_left(tmp_path: Path) -> None:
    before = _system()
    with Lab(relays=2) as lab:
        name, directory = lab.name, lab.directory
        lab.start_resource()
        assert netns.existing(f"{name}-")
        assert _links() == _links_of(before)
    assert _without_own_lab(_system()) == _without_own_lab(before)
    assert not netns.existing(f"{name}-")
    assert not directory.exists()
    assert not (registry.DIRECTORY / name).exists()


def test_nothing_is_left_after_an_error() -> None:
    with pytest.raises(RuntimeError), Lab() as lab:
        name, resource = lab.name, lab.start_resource()
        raise RuntimeError
    assert resource.exit_code is not None
    assert not netns.existing(f"{name}-")


def test_the_site_reaches_its_resource_and_the_client_does_not() -> None:
    with Lab() as lab:
        lab.start_resource()
        for url in ("http://10.20.0.80/", "http://[fd20::81]:8080/"):
            assert "Hello" in lab.exec("gateway", ["curl", "-sS", url]).stdout
            assert lab.exec("client", ["curl", "-sS", url]).returncode == 7


def test_two_labs_do_not_meet() -> None:
    with Lab() as one, Lab() as two:
        names = one.name, two.name
        one.start_resource()
        url = "http://10.20.0.80/"
        assert "Hello" in one.exec("gateway", ["curl", "-sS", url]).stdout
        assert two.exec("gateway", ["curl", "-sS", "-m1", url]).returncode != 0
    assert names[0] != names[1]
    assert not [left for name in names for left in netns.existing(f"{name}-")]


def test_the_next_lab_removes_a_crashed_one() -> None:
    with Lab() as living, _crashed_lab() as crashed:
        assert netns.existing(f"{crashed}-")
        assert _directories(crashed)
        with Lab():
            assert not _directories(crashed)
            assert not netns.existing(f"{crashed}-")
            assert not (registry.DIRECTORY / crashed).exists()
            assert netns.existing(f"{living.name}-")


def test_programs_die_with_a_crashed_lab() -> None:
    script = (
        "import os; from firezone.lab import Lab\n"
        "with Lab() as lab:\n print(lab.start_resource().pid, flush=True); os.kill(os.getpid(), 9)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    pid = int(done.stdout)
    deadline = time.monotonic() + 2
    while _running(pid) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not _running(pid)
    registry.sweep()


TRANSLATING = [kind for kind in Nat if kind not in (Nat.NONE, Nat.UDP_BLOCKED)]
INDEPENDENT = [kind for kind in TRANSLATING if kind.behaviour.mapping is Depends.NOTHING]
INSIDE, OUTSIDE = "192.168.1.2", "203.0.113.31"
RELAY, OTHER_RELAY = "203.0.113.21", "203.0.113.22"


def test_a_plain_router_maps_nothing() -> None:
    with Lab(client=Site(Nat.NONE)) as lab:
        assert _seen_from(lab, RELAY) == (INSIDE, 40000)


@pytest.mark.parametrize("nat", TRANSLATING)
def test_mapping_of_a_nat(nat: Nat) -> None:
    """RFC 4787 section 4.1: on what of its destination the port of a datagram depends."""
    with Lab(client=Site(nat), relays=2) as lab:
        seen = [_seen_from(lab, *server) for server in ((RELAY, 1), (RELAY, 2), (OTHER_RELAY, 1))]
    assert {host for host, _ in seen} == {OUTSIDE}
    one, same_host, other_host = (port for _, port in seen)
    assert (one == same_host) is (nat.behaviour.mapping is not Depends.ADDRESS_AND_PORT)
    assert (one == other_host) is (nat.behaviour.mapping is Depends.NOTHING)
    assert (one == 40000) is nat.behaviour.keeps_port


@pytest.mark.parametrize("nat", TRANSLATING)
def test_filtering_of_a_nat(nat: Nat) -> None:
    """RFC 4787 section 5: who may send to a port in use, besides those that were sent to."""
    with Lab(client=Site(nat), relays=2) as lab:
        host, port = _seen_from(lab, RELAY)
        inside = lab.start("inside", "client", [sys.executable, "-c", _LISTEN, "40000"])
        inside.wait_for_event("ready")
        for relay, what in (("relay1", "same host"), ("relay2", "other host")):
            lab.exec(relay, [sys.executable, "-c", _SEND_TEXT, host, str(port), what])
        expected = {
            Depends.NOTHING: {"same host", "other host"},
            Depends.ADDRESS: {"same host"},
            Depends.ADDRESS_AND_PORT: set(),
        }[nat.behaviour.filtering]
        assert _heard(inside, len(expected)) == expected


@pytest.mark.parametrize("nat", INDEPENDENT)
def test_a_site_reaches_itself_by_its_outer_address(nat: Nat) -> None:
    """RFC 4787 section 6: and the source is such an address too, mapped as ever."""
    with Lab(client=Site(nat, hairpin=True)) as lab:
        host, port = _seen_from(lab, RELAY)
        inside = lab.start("inside", "client", [sys.executable, "-c", _LISTEN, "40000"])
        inside.wait_for_event("ready")
        own = _seen_from(lab, RELAY, own=40001)
        lab.exec("client", [sys.executable, "-c", _SEND_TEXT, host, str(port), "hi", "40001"])
        line = inside.wait_for(lambda line: "heard" in line)
    assert (line["source"], line["port"]) == own


def test_no_site_reaches_itself_unless_it_is_said() -> None:
    with Lab() as lab:
        host, port = _seen_from(lab, RELAY)
        inside = lab.start("inside", "client", [sys.executable, "-c", _LISTEN, "40000"])
        inside.wait_for_event("ready")
        lab.exec("client", [sys.executable, "-c", _SEND_TEXT, host, str(port), "hi"])
        assert not _heard(inside, 0)


@pytest.mark.parametrize(("size", "arrives"), [(1200, True), (1300, False)])
def test_a_hole_swallows_large_packets(size: int, arrives: bool) -> None:
    with Lab(gateway=Site(Nat.NONE, mtu_hole=1280)) as lab:
        inside = lab.start("inside", "gateway", [sys.executable, "-c", _LISTEN, "40000"])
        inside.wait_for_event("ready")
        lab.exec("relay1", [sys.executable, "-c", _SEND_TEXT, "192.168.2.2", "40000", "x" * size])
        assert _heard(inside, arrives) == ({"x" * size} if arrives else set())


def test_a_narrow_path_is_announced() -> None:
    with Lab(gateway=Site(Nat.NONE, path_mtu=1280)) as lab:
        assert lab.exec("relay1", _probe("192.168.2.2", 1200)).returncode == 0
        assert lab.exec("relay1", _probe("192.168.2.2", 1300)).returncode != 0
        route = lab.exec("relay1", ["ip", "route", "get", "192.168.2.2"]).stdout
        assert "mtu 1280" in route


def test_blocked_udp() -> None:
    with Lab(client=Site(Nat.UDP_BLOCKED)) as lab, pytest.raises(WaitTimeout):
        _seen_from(lab, "203.0.113.21")


def test_hole_punching_works_until_direct_traffic_is_blocked() -> None:
    with Lab() as lab:
        assert _punches(lab, 40001)
        lab.block_direct(True)
        lab.block_direct(True)
        assert not _punches(lab, 40002)
        assert _seen_from(lab, "203.0.113.21") == ("203.0.113.31", 40000)
        lab.block_direct(False)
        assert _punches(lab, 40003)


@pytest.mark.parametrize("families", [{4}, {6}])
def test_one_family_outside(families: set[int]) -> None:
    with Lab(client=Site(families=frozenset(families))) as lab:
        ok = {
            family: lab.exec("client", ["sh", "-c", f"ip -{family} route get {portal}"]).returncode
            for family, portal in ((4, "203.0.113.10"), (6, "2001:db8:113::10"))
        }
        assert {family for family, code in ok.items() if code == 0} == families


def test_a_program_that_ends_early_is_named() -> None:
    with Lab() as lab:
        program = lab.start("short", "client", ["sh", "-c", "echo oops; exit 3"])
        with pytest.raises(WaitTimeout, match=r"no 'ready': short ended with code 3"):
            program.wait_for_event("ready")
        assert program.tail() == "oops"


def test_as_an_ordinary_user() -> None:
    """Without any capability but the one that mapping uid 0 (as which we run) takes."""
    bare = "setpriv --bounding-set -all,+setfcap --inh-caps -all --ambient-caps -all"
    script = (
        "from firezone.lab import Lab\n"
        "with Lab() as lab:\n"
        " lab.start_resource()\n"
        " print(lab.exec('gateway', ['curl', '-sS', 'http://10.20.0.80/']).stdout)"
    )
    command = [sys.executable, "-m", "firezone.lab.userns", sys.executable, "-c", script]
    if os.environ.get("FIREZONE_LAB_USERNS"):
        pytest.skip("is in a user namespace already")
    refused = subprocess.run(
        [*bare.split(), sys.executable, "-c", f"from firezone.lab.userns import *\n{_EXPECT_NOT}"]
    )
    assert refused.returncode == 0
    done = subprocess.run([*bare.split(), *command], capture_output=True, text=True)
    assert "Hello" in done.stdout, done.stderr


_EXPECT_NOT = "assert not sufficient()"


def test_rights_suffice_here() -> None:
    assert userns.sufficient()
    assert userns.wrap(["true"]) == ["true"]


def _system() -> dict[str, str]:
    outputs = {}
    for command in SYSTEM:
        done = subprocess.run(command.split(), capture_output=True, text=True)
        outputs[command] = done.stdout
    return outputs


def _without_own_lab(system: dict[str, str]) -> dict[str, str]:
    """Others may run labs at the same time; what concerns this machine's own network may not."""
    return {k: v for k, v in system.items() if k not in ("ip netns list", "ls /run/netns")}


def _links() -> str:
    return subprocess.run(["ip", "-o", "link"], capture_output=True, text=True).stdout


def _links_of(system: dict[str, str]) -> str:
    return system["ip -o link"]


@contextmanager
def _crashed_lab() -> Iterator[str]:
    script = (
        "import os; from firezone.lab import Lab\n"
        "with Lab() as lab:\n print(lab.name, flush=True); os.kill(os.getpid(), 9)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL
    yield done.stdout.strip()
    registry.sweep()


def _directories(name: str) -> list[Path]:
    return list(Path(tempfile.gettempdir()).glob(f"{name}-*"))


def _running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


_REFLECT = """
import json, socket, sys
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.bind(("0.0.0.0", int(sys.argv[1])))
print(json.dumps({"event": "ready"}), flush=True)
_, source = s.recvfrom(100)
print(json.dumps({"event": "seen", "host": source[0], "port": source[1]}), flush=True)
"""

_SEND = """
import socket, sys
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.bind(("0.0.0.0", int(sys.argv[3])))
s.sendto(b"hello", (sys.argv[1], int(sys.argv[2])))
"""


def _seen_from(lab: Lab, address: str, port: int = 3478, own: int = 40000) -> tuple[str, int]:
    """The source address that a datagram of the client has when it arrives there."""
    relay = f"relay{int(address.rpartition('.')[2]) - 20}"
    server = lab.start(f"reflect-{relay}", relay, [sys.executable, "-c", _REFLECT, str(port)])
    server.wait_for_event("ready")
    lab.exec("client", [sys.executable, "-c", _SEND, address, str(port), str(own)])
    try:
        line = server.wait_for_event("seen", SECOND // 2)
        return line["host"], line["port"]
    finally:
        server.stop(signal.SIGKILL)


_LISTEN = """
import json, socket, sys
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.bind(("0.0.0.0", int(sys.argv[1])))
print('{"event": "ready"}', flush=True)
while True:
    heard, source = s.recvfrom(2000)
    print(json.dumps({"heard": heard.decode(), "source": source[0], "port": source[1]}), flush=True)
"""


def _heard(listener: Program, count: int) -> set[str]:
    """What it hears: as many datagrams as are expected, and those that come soon after."""
    for number in range(count):
        listener.wait_for(lambda line: "heard" in line, skip=1 + number)
    time.sleep(0.2)
    return {line["heard"] for line in listener.lines() if "heard" in line}


_SEND_TEXT = """
import socket, sys
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.bind(("0.0.0.0", int(sys.argv[4]) if sys.argv[4:] else 0))
s.sendto(sys.argv[3].encode(), (sys.argv[1], int(sys.argv[2])))
"""


def _probe(host: str, size: int) -> list[str]:
    """Sends two datagrams that may not be fragmented; fails if the second is known too large."""
    script = """
import errno, socket, sys, time
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.setsockopt(socket.IPPROTO_IP, 10, 2)  # IP_MTU_DISCOVER, IP_PMTUDISC_DO
for _ in range(2):
    try:
        s.sendto(bytes(int(sys.argv[2])), (sys.argv[1], 9))
    except OSError as error:
        sys.exit(error.errno == errno.EMSGSIZE)
    time.sleep(0.1)
"""
    return [sys.executable, "-c", script, host, str(size)]


_PUNCH = """
import socket, sys
own, peer = int(sys.argv[1]), (sys.argv[2], int(sys.argv[1]))
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.bind(("0.0.0.0", own))
s.settimeout(0.05)
heard = False
for _ in range(10):
    s.sendto(b"ack" if heard else b"syn", peer)
    try:
        heard = True if s.recvfrom(100)[0] else heard
    except OSError:
        pass
print('{"event": "done", "heard": %s}' % str(heard).lower(), flush=True)
"""


def _punches(lab: Lab, port: int) -> bool:
    """Both sites send to the other one's outside address until they hear it, or give up."""
    sides = []
    for host, peer in (("client", "203.0.113.41"), ("gateway", "203.0.113.31")):
        argv = [sys.executable, "-c", _PUNCH, str(port), peer]
        sides.append(lab.start(f"punch-{host}-{port}", host, argv))
    return all(side.wait_for_event("done")["heard"] for side in sides)


def test_log_lines_are_read_once_and_in_order() -> None:
    with Lab() as lab:
        text = "\n".join(json.dumps({"event": "count", "n": n}) for n in range(3))
        program = lab.start("echo", "client", ["echo", text])
        line = program.wait_for(lambda line: line.get("n") == 2)
        assert line["event"] == "count"
        assert [each["n"] for each in program.lines()] == [0, 1, 2]
