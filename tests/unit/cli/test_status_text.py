"""The reports for people: they fit the terminal and say what matters."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from firezone.cli.status_text import explain_lines, status_lines
from firezone.cli.tables import WIDTH, ago, duration, short_ids, size, table
from firezone.commands import WorkerStatus
from firezone.explain import (
    CandidateStatus,
    ConnectionStatus,
    Explanation,
    FlowTableStatus,
    LostRelayStatus,
    LostStatus,
    PairStatus,
    PathStatus,
    PortalStatus,
    RelayStatus,
    SessionStatus,
    Status,
)

LONG = "srflx [2001:db8:1111:2222:3333:4444:5555:6666]:52625"
PEER = "a2f35127-4218-46ea-861d-80025f61252d"
PATH = PathStatus("direct", LONG, LONG, 3.0)
SESSION = SessionStatus(0x1234, True, 4.0, 176.0, True)
RELAY = RelayStatus(
    "r1", ("203.0.113.1:3478",), "udp", "allocated", None, 500.0, 2, (LONG,) * 2, ()
)
LOST = LostStatus(PEER, "ICE disconnected", 5.0, 1.5, False)
CONNECTION = ConnectionStatus(
    peer=PEER,
    state="connected",
    addresses=("100.64.0.1",),
    resources=("web", "x" * 200),
    path=PATH,
    relay="r1",
    age_seconds=5.0,
    established_ago_seconds=4.0,
    received_bytes=10_000_000,
    sent_bytes=1,
    received_ago_seconds=0.5,
    sent_ago_seconds=None,
    sessions=(SESSION,),
    handshake_for_seconds=1.0,
    handshake_ago_seconds=4.0,
    waiting_packets=3,
)
STATUS = Status(
    role="client",
    interface="tun-firezone",
    uptime_seconds=3700.0,
    public_key="key",
    portal=PortalStatus("wss://portal" + "x" * 100, False, 7.0, "refused"),
    connection_count=300,
    connections=(CONNECTION,),
    lost=(LOST,),
    relays=(RELAY,),
    lost_relays=(LostRelayStatus("r0", ("203.0.113.2:3478",), "no response", 9.0),),
    flows=FlowTableStatus(4, 65536),
    traffic={"udp_sent_bytes": 1500, "udp_sent_packets": 2},
    drops={f"part: reason {n}": 100 - n for n in range(50)},
)
EXPLANATION = Explanation(
    peer=PEER,
    kind="gateway",
    connection=CONNECTION,
    ice_state="connected",
    controlling=True,
    candidates=(CandidateStatus("local", "host", LONG, LONG, 2**31, "sent from " + LONG),),
    pairs=(
        PairStatus(LONG, LONG, "succeeded", 2**63, 9, 8, 1.25, True, "in use"),
        PairStatus(LONG, LONG, "failed", 2**62, 12, 0, None, False, "no answer to 12 checks"),
    ),
    paths=(PATH,),
    relays=(RELAY,),
    lost=(LOST,),
)


def test_a_status_fits_and_says_what_is_wrong() -> None:
    lines = list(status_lines(STATUS))
    text = "\n".join(lines)
    assert max(map(len, lines)) <= WIDTH
    assert lines[0] == "client on tun-firezone, up 1 h 1 min 40 s"
    assert "last error: refused" in text
    assert "connections (300, 1 shown)" in text
    assert "a2f35127  connected  direct" in text
    assert "203.0.113.2:3478: no response, 9 s ago" in text
    assert f"{PEER}: ICE disconnected, 5 s ago; lasted 1 s and never carried" in text
    assert "100  part: reason 0" in text
    assert "reason 20" not in text


def test_a_network_without_ipv4_is_told() -> None:
    assert not any("NAT64" in line for line in status_lines(STATUS))
    lines = status_lines(replace(STATUS, nat64="64:ff9b::/96"))
    assert any("NAT64" in line and "reached at 64:ff9b::/96" in line for line in lines)


def to_do(**changes: Any) -> str:
    """What a status of a program that is well, but for the changes, says that one may do."""
    well = replace(STATUS, portal=replace(STATUS.portal, connected=True), lost_relays=(), drops={})
    lines = list(status_lines(replace(well, **changes)))
    return " ".join(lines[lines.index("what to do") + 1 :]) if "what to do" in lines else ""


def test_there_is_nothing_to_do_if_all_is_well() -> None:
    assert to_do() == ""
    assert to_do(relays=(), uptime_seconds=5.0) == ""
    assert to_do(relays=(RELAY, replace(RELAY, state="no answer yet"))) == ""


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"portal": STATUS.portal}, "without the portal"),
        ({"relays": (replace(RELAY, state="no answer yet"),)}, "no relay serves us"),
        ({"relays": (), "lost_relays": STATUS.lost_relays}, "no relay serves us"),
        ({"relays": ()}, "the portal names no relay"),
        ({"relays": (replace(RELAY, transport="tls"),)}, "no relay is reached over UDP"),
        (
            {"connections": (replace(CONNECTION, unanswered_checks=4),)},
            "a2f35127 does not answer any more: `firezone explain a2f35127`",
        ),
    ],
)
def test_the_next_step_is_named(changes: dict[str, Any], expected: str) -> None:
    assert expected in to_do(**changes)


def test_a_peer_that_does_not_answer_is_not_shown_as_well() -> None:
    quiet = replace(CONNECTION, unanswered_checks=85)
    assert "unanswered" in "\n".join(status_lines(replace(STATUS, connections=(quiet,))))
    text = "\n".join(explain_lines(replace(EXPLANATION, connection=quiet)))
    assert "ICE connected; 85 checks unanswered" in text


def test_each_address_that_a_relay_sees_us_at_is_shown_whole() -> None:
    relay = replace(RELAY, mapped=("203.0.113.31:52625", "[2001:db8:113::31]:52625"))
    lines = list(status_lines(replace(STATUS, relays=(relay,))))
    row = next(n for n, line in enumerate(lines) if line.endswith("203.0.113.31:52625"))
    assert lines[row + 1].strip() == "[2001:db8:113::31]:52625"
    assert lines[row + 1].index("[") == lines[row].index("203.0.113.31")


def test_workers_are_told_where_there_are_several() -> None:
    two = (WorkerStatus(7, 1, 0), WorkerStatus(5, 3, 2))
    lines = list(status_lines(replace(STATUS, workers=two)))
    assert any("worker 0" in each and "1 packets received, 7 sent" in each for each in lines)
    assert any("worker 1" in each and "5 sent, 2 handed over" in each for each in lines)
    assert not any("worker" in each for each in status_lines(replace(STATUS, workers=two[:1])))


def test_an_explanation_marks_the_pair_in_use() -> None:
    lines = list(explain_lines(EXPLANATION))
    text = "\n".join(lines)
    assert max(map(len, lines)) <= WIDTH
    assert lines[0] == f"gateway {PEER}"
    assert [line[2] for line in lines if line[4:] == LONG] == ["*", " "]
    assert lines.count(f"    -> {LONG}") == 2
    assert "in use (8 of 9 answered, 1.2 ms, " in text
    assert "unanswered for 1 s; the last 4 s ago" in text
    assert "0x00001234: we began it 4 s ago, ends in 2 min 56 s, in use" in text


def test_a_peer_of_the_past() -> None:
    gone = Explanation(PEER, "gateway", None, None, True, (), (), (), (), (LOST,))
    lines = list(explain_lines(gone))
    assert lines[1] == "  not connected now"
    assert "ICE disconnected" in lines[-1]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, "never"),
        (0, "0 ms"),
        (0.35, "350 ms"),
        (12.9, "12 s"),
        (60, "1 min"),
        (185, "3 min 5 s"),
        (3600, "1 h"),
        (90_000, "1 d"),
    ],
)
def test_durations(seconds: float | None, text: str) -> None:
    assert duration(seconds) == text
    assert ago(seconds) == (text if seconds is None else f"{text} ago")


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0 B"), (999, "999 B"), (1500, "1.5 kB"), (2 * 10**15, "2000.0 TB")]
)
def test_sizes(count: int, text: str) -> None:
    assert size(count) == text


def test_ids_are_as_short_as_they_may_be() -> None:
    assert short_ids(["abcdefghijk", "abcdefghxyz"]) == {
        "abcdefghijk": "abcdefghi",
        "abcdefghxyz": "abcdefghx",
    }
    assert short_ids([]) == {}
    assert short_ids(["abc", "abc"]) == {"abc": "abc"}


def test_a_table_without_rows_is_nothing() -> None:
    assert list(table(("A", "B"), [])) == []
    assert list(table(("A", "B"), [("1", "22")])) == ["  A  B", "  1  22"]
