from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ice_wire import endpoint, host, make_agent, relay, srflx

from firezone.errors import RemoteError
from firezone.ice import Candidate, CandidateKind, is_usable

HOST_LINE = "candidate:1 1 udp 2130706175 192.0.2.4 52625 typ host"
SRFLX_LINE = (
    "candidate:fa2b/+ 1 UDP 1694498559 2001:db8::7 1024 typ srflx raddr :: rport 0"
    " generation 0 ufrag abcd network-cost 50"
)


def preference(candidate: Candidate | None) -> int:
    assert candidate is not None
    return candidate.priority >> 8 & 0xFFFF


def test_parses_a_host_candidate() -> None:
    candidate = Candidate.from_sdp(HOST_LINE)
    assert candidate.kind is CandidateKind.HOST
    assert candidate.address == candidate.base == endpoint("192.0.2.4:52625")
    assert (candidate.priority, candidate.foundation) == (2130706175, "1")
    assert candidate.ufrag is None and candidate.related is None
    assert candidate.to_sdp() == HOST_LINE


def test_skips_unknown_extensions() -> None:
    candidate = Candidate.from_sdp("a=" + SRFLX_LINE)
    assert candidate.kind is CandidateKind.SERVER_REFLEXIVE
    assert candidate.address == endpoint("[2001:db8::7]:1024")
    assert (candidate.ufrag, candidate.related) == ("abcd", endpoint("[::]:0"))


def test_hides_the_address_behind_the_nat() -> None:
    line = srflx("203.0.113.1:5000", "192.168.0.2:52625").to_sdp()
    assert line.endswith("typ srflx raddr 0.0.0.0 rport 0")
    assert relay("[2001:db8::1]:5000", "192.168.0.2:1").to_sdp().endswith("raddr :: rport 0")


@pytest.mark.parametrize(
    "line",
    [
        "",
        "candidate:",
        HOST_LINE.replace("candidate:1", "candidate:"),
        HOST_LINE.replace("candidate:1", "candidate:" + "a" * 33),
        HOST_LINE.replace("udp", "tcp"),
        HOST_LINE.replace("host", "hast"),
        HOST_LINE.replace("typ", "type"),
        HOST_LINE.replace("192.0.2.4", "example.com"),
        HOST_LINE.replace("192.0.2.4", "192.0.2.256"),
        HOST_LINE.replace("52625", "65536"),
        HOST_LINE.replace("52625", "-1"),
        HOST_LINE.replace("52625", "٣"),
        HOST_LINE.replace("2130706175", "4294967296"),
        HOST_LINE.replace(" 1 ", " 257 "),
        HOST_LINE + " raddr 0.0.0.0 rport x",
        HOST_LINE + " ufrag é",
        HOST_LINE + " " * 2000,
    ],
)
def test_refuses_malformed_lines(line: str) -> None:
    with pytest.raises(RemoteError):
        Candidate.from_sdp(line)


@pytest.mark.parametrize(
    ("address", "usable"),
    [
        ("127.0.0.1:1", True),
        ("[::1]:1", True),
        ("10.0.0.1:1", True),
        ("10.0.0.1:0", False),
        ("0.0.0.0:1", False),
        ("[::]:1", False),
        ("169.254.1.1:1", False),
        ("255.255.255.255:1", False),
        ("224.0.0.1:1", False),
        ("[ff02::1]:1", False),
    ],
)
def test_usable_addresses(address: str, usable: bool) -> None:
    target = endpoint(address)
    assert is_usable(target) is usable
    line = HOST_LINE.replace("192.0.2.4 52625", f"{target.address} {target.port}")
    if usable:
        assert Candidate.from_sdp(line).address == target
    else:
        with pytest.raises(RemoteError):
            Candidate.from_sdp(line)


def test_default_priorities() -> None:
    assert host("1.1.1.1:1").priority == 126 << 24 | 65534 << 8 | 255
    assert host("[2001:db8::1]:1").priority == 126 << 24 | 65535 << 8 | 255
    assert srflx("1.1.1.1:1", "10.0.0.1:1").priority == 100 << 24 | 65534 << 8 | 255
    assert relay("1.1.1.1:1").priority == 2 << 24 | 65534 << 8 | 255


def test_local_preferences_of_hosts_fall_by_two_within_a_family() -> None:
    agent = make_agent(True)
    added = [
        agent.add_local_candidate(host(text), 0)
        for text in ("1.1.1.1:1", "[2001:db8::1]:1", "[2001:db8::2]:1", "1.1.1.2:1")
    ]
    assert [preference(c) for c in added] == [65534, 65535, 65533, 65532]


def test_local_preferences_by_kind() -> None:
    agent = make_agent(True)
    added = agent.add_local_candidate(srflx("1.1.1.1:1", "10.0.0.1:1"), 0)
    assert preference(added) == 32766
    assert preference(agent.add_local_candidate(relay("[::2]:1", "[::1]:1"), 0)) == 16383


def test_a_relay_that_translates_between_families_is_worth_less() -> None:
    agent = make_agent(True)
    same = agent.add_local_candidate(relay("2.2.2.2:1", "10.0.0.1:1"), 0)
    cross = agent.add_local_candidate(relay("[2001:db8::2]:1", "10.0.0.1:1"), 0)
    assert (preference(same), preference(cross)) == (16382, 15383)


def test_the_priority_attribute_is_that_of_a_peer_reflexive_candidate() -> None:
    agent = make_agent(True)
    added = agent.add_local_candidate(relay("2.2.2.2:1", "10.0.0.1:1"), 0)
    assert added is not None
    assert added.peer_reflexive_priority == 110 << 24 | 16382 << 8 | 255


def test_adopted_candidates_carry_our_ufrag() -> None:
    agent = make_agent(True)
    adopted = agent.add_local_candidate(host("1.1.1.1:1"), 0)
    assert adopted is not None and adopted.to_sdp().endswith("typ host ufrag lefu")


@pytest.mark.parametrize("line", [HOST_LINE, SRFLX_LINE])
def test_every_truncation(line: str) -> None:
    for length in range(len(line)):
        parse_or_refuse(line[:length])


@given(st.text())
def test_any_text(text: str) -> None:
    parse_or_refuse(text)


@given(
    st.sampled_from([HOST_LINE, SRFLX_LINE]),
    st.integers(0, 120),
    st.integers(0, 4),
    st.text(max_size=6),
)
def test_mutated_lines(line: str, at: int, removed: int, inserted: str) -> None:
    parse_or_refuse(line[:at] + inserted + line[at + removed :])


def parse_or_refuse(text: str) -> None:
    """What parses survives its own format."""
    try:
        candidate = Candidate.from_sdp(text)
    except RemoteError:
        return
    assert Candidate.from_sdp(candidate.to_sdp()) == candidate
