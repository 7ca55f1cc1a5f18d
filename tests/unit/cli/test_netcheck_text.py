"""The report of the check for people: it fits the terminal and admits what it does not know."""

from __future__ import annotations

from click.testing import CliRunner

from firezone.cli.netcheck import netcheck
from firezone.cli.netcheck_text import netcheck_lines
from firezone.cli.tables import WIDTH
from firezone.errors import ConfigurationError
from firezone.netcheck import (
    FamilyReport,
    Mapping,
    NetcheckReport,
    PortalReport,
    ServerReport,
    StreamReport,
)

LONG = "[2001:db8:1111:2222:3333:4444:5555:6666]:52625"
REPORT = NetcheckReport(
    families=(
        FamilyReport(
            family=4,
            reachable=True,
            local="10.0.0.2:1",
            mapped=("192.0.2.1:2",),
            mapping=Mapping.UNKNOWN,
            port_preserved=False,
            hairpin=None,
            filtering_note="none named",
        ),
        FamilyReport(6, None, None, (), Mapping.UNKNOWN, None, None),
    ),
    servers=(
        ServerReport("one", LONG, 6, 5, 4, 1.25, 2.0, LONG, 1500, None),
        ServerReport("two", "two", 0, 0, 0, None, None, None, None, "the name has no address"),
    ),
    portal=PortalReport("https://portal/healthz", False, tls="not trusted", error="expired"),
    findings=("word " * 40,),
    streams=(StreamReport("192.0.2.1:3478", True), StreamReport("192.0.2.1:443", False, "refused")),
)


def test_it_fits_and_admits_what_is_unknown() -> None:
    lines = list(netcheck_lines(REPORT))
    text = "\n".join(lines)
    assert max(map(len, lines)) <= WIDTH
    assert "NAT mapping     unknown" in text
    assert "filtering       unknown: none named" in text
    assert "keeps the port  no" in text
    assert "hairpins        unknown" in text
    assert "UDP  no server to ask" in text
    assert "two: the name has no address" in text
    assert "answers      no: expired" in text
    assert "192.0.2.1:3478  answers" in text
    assert "192.0.2.1:443   no: refused" in text
    assert "certificate  not trusted" in text
    assert "4 of 5" in text


def test_without_nat_there_is_nothing_to_say_of_one() -> None:
    family = FamilyReport(4, True, "192.0.2.1:1", ("192.0.2.1:1",), Mapping.NO_NAT, None, None)
    lines = list(netcheck_lines(NetcheckReport((family,), ())))
    assert not any("hairpins" in line or "keeps" in line for line in lines)
    assert lines[-1].startswith("  - nothing stands in the way")


def test_users_are_known_to_servers_that_are_named() -> None:
    result = CliRunner().invoke(netcheck, ["--users-file", "/nowhere"])
    assert isinstance(result.exception, ConfigurationError)
    assert "goes with --stun only" in str(result.exception)
