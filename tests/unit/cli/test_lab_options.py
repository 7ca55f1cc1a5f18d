"""What network the options of `firezone lab` ask for."""

from __future__ import annotations

import click
import pytest
from click.testing import CliRunner

from firezone.cli.lab import lab as lab_command
from firezone.cli.lab_options import KINDS, lab_options
from firezone.lab import Lab, Nat, Site
from firezone.lab.topology import BOTH

V4, V6 = frozenset({4}), frozenset({6})


def asked(*arguments: str) -> Lab | str:
    """The lab, or what is wrong with the arguments."""
    found: list[Lab] = []

    @click.command()
    @lab_options
    @click.option("--other", default=1)
    def command(wanted: Lab, other: int) -> None:
        assert other == 1
        found.append(wanted)

    result = CliRunner().invoke(command, arguments)
    if result.exit_code == 0:
        return found[0]
    assert result.exit_code == 2, result.output
    return result.output


def sites(*arguments: str) -> tuple[Site, Site]:
    lab = asked(*arguments)
    assert isinstance(lab, Lab), lab
    return lab.plan.client.site, lab.plan.gateway.site


def test_the_usual_network() -> None:
    assert sites() == (Site(), Site())


@pytest.mark.parametrize(
    ("arguments", "site"),
    [
        ("nat symmetric", Site(Nat.SYMMETRIC)),
        ("carrier-nat shifted-cone", Site(carrier=Nat.SHIFTED_CONE)),
        ("outside v4", Site(families=V4)),
        ("outside nat64", Site(families=V6, nat64=True)),
        ("hairpin", Site(hairpin=True)),
        ("path-mtu 1400", Site(path_mtu=1400)),
    ],
)
def test_each_site_has_its_options(arguments: str, site: Site) -> None:
    option, *value = arguments.split()
    assert sites(f"--client-{option}", *value) == (site, Site())
    assert sites(f"--gateway-{option}", *value) == (Site(), site)


def test_both_behind_one_nat() -> None:
    lab = asked("--shared-nat", "--client-hairpin", "--directory", "logs")
    assert isinstance(lab, Lab)
    assert lab.plan.shared_nat
    assert lab.plan.gateway.site == lab.plan.client.site == Site(hairpin=True)


def test_a_relay_with_one_port() -> None:
    for arguments in ((), ("--one-port",)):
        lab = asked(*arguments)
        assert isinstance(lab, Lab)
        assert lab.one_port is bool(arguments)


def test_the_families_of_portal_and_relay() -> None:
    for text, families in (("v4", V4), ("v6", V6), ("both", BOTH)):
        lab = asked("--public", text)
        assert isinstance(lab, Lab)
        assert lab.plan.public_families == families


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ("--client-nat none --client-carrier-nat cone", "takes a site with a NAT of its own"),
        ("--client-nat symmetric --client-hairpin", "turns packets round"),
        ("--client-nat none --client-outside nat64", "and a NAT"),
        ("--client-nat bad", "is not one of"),
        ("--client-path-mtu 500", "not in the range"),
        ("--shared-nat --gateway-nat cone", "the options of the client say it all"),
        ("--public v4 --gateway-outside v6", "reach the portal"),
    ],
)
def test_what_cannot_be(arguments: str, problem: str) -> None:
    output = asked(*arguments.split())
    assert isinstance(output, str)
    assert problem in " ".join(output.split())


def test_the_help_names_every_kind() -> None:
    output = CliRunner().invoke(lab_command, ["--help"]).output
    assert [*KINDS] == [*Nat]
    assert all(f"{kind.value} " in output and text in output for kind, text in KINDS.items())
