import pytest

from firezone.errors import ConfigurationError
from firezone.shell.offload import ALL, NONE, Offload, describe, parse_offloads


def test_all_none_or_some() -> None:
    assert parse_offloads("all") == parse_offloads("") == ALL
    assert parse_offloads("none") == NONE
    assert parse_offloads("udp-gso, tun-tso") == {Offload.UDP_GSO, Offload.TUN_TSO}
    assert parse_offloads("all", ["udp-gso", "udp-gro"]) == ALL - {Offload.UDP_GSO, Offload.UDP_GRO}
    assert parse_offloads("tun-tso", ["tun-tso"]) == NONE


@pytest.mark.parametrize("text, without", [("tso", ()), ("all,none", ()), ("all", ("none",))])
def test_unknown_names(text: str, without: tuple[str, ...]) -> None:
    with pytest.raises(ConfigurationError, match="tun-coalesce"):
        parse_offloads(text, without)


def test_names_stand_in_one_order() -> None:
    assert describe(ALL) == ["tun-tso", "tun-uso", "tun-coalesce", "udp-gso", "udp-gro"]
