"""Prefixes of NAT64: addresses embedded and found again, and what DNS may make us believe."""

from ipaddress import IPv4Address, IPv6Address, IPv6Network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from firezone.errors import LocalError
from firezone.nat64 import LENGTHS, MAX_ANSWERS, WELL_KNOWN_ADDRESSES, Prefix, prefixes_of

# https://www.rfc-editor.org/rfc/rfc6052#section-2.4
VECTORS = [
    ("2001:db8::/32", "2001:db8:c000:221::"),
    ("2001:db8:100::/40", "2001:db8:1c0:2:21::"),
    ("2001:db8:122::/48", "2001:db8:122:c000:2:2100::"),
    ("2001:db8:122:300::/56", "2001:db8:122:3c0:0:221::"),
    ("2001:db8:122:344::/64", "2001:db8:122:344:c0:2:2100::"),
    ("2001:db8:122:344::/96", "2001:db8:122:344::192.0.2.33"),
]


def prefix(text: str) -> Prefix:
    return Prefix(IPv6Network(text))


@pytest.mark.parametrize(("network", "address"), VECTORS)
def test_the_rfcs_vectors(network, address):
    v4, v6 = IPv4Address("192.0.2.33"), IPv6Address(address)
    assert prefix(network).embed(v4) == v6
    assert prefix(network).extract(v6) == v4


def test_the_well_known_prefix_is_for_global_addresses_only():
    well_known = prefix("64:ff9b::/96")
    assert well_known.embed(IPv4Address("8.8.8.8")) == IPv6Address("64:ff9b::8.8.8.8")
    for private in ("10.0.0.1", "192.168.1.1", "100.64.0.1", "192.0.2.33"):
        assert well_known.embed(IPv4Address(private)) is None
        assert prefix("64:ff9b:1::/96").embed(IPv4Address(private)) is not None


@pytest.mark.parametrize(
    "address", ["0.0.0.0", "127.0.0.1", "169.254.1.1", "224.0.0.1", "240.0.0.1", "255.255.255.255"]
)
def test_what_is_no_host_elsewhere_is_not_translated(address):
    assert prefix("2001:db8::/96").embed(IPv4Address(address)) is None


@pytest.mark.parametrize(
    "network",
    [
        "2001:db8::/80",
        "2001:db8::/33",
        "2001:db8:0:0:100::/96",
        "::/96",
        "::ffff:0:0/96",
        "64:ff9b::/64",
        "fe80::/96",
        "ff02::/96",
        "4000::/96",
    ],
)
def test_what_is_no_prefix(network):
    with pytest.raises(LocalError):
        prefix(network)


@st.composite
def prefixes(draw):
    length = draw(st.sampled_from(LENGTHS))
    outer = draw(st.sampled_from([IPv6Network("2000::/3"), IPv6Network("fc00::/7")]))
    random = draw(st.binary(min_size=16, max_size=16))
    bits = int.from_bytes(random) >> outer.prefixlen | int(outer.network_address)
    packed = bytearray(bits.to_bytes(16))
    packed[8] = 0
    return Prefix(IPv6Network((bytes(packed), length), strict=False))


@given(prefixes(), st.integers(0, 2**32 - 1).map(IPv4Address))
def test_what_is_embedded_is_found_again(network, address):
    embedded = network.embed(address)
    if embedded is not None:
        assert embedded.packed[8] == 0
        assert network.extract(embedded) == address


@given(prefixes())
def test_a_prefix_is_told_by_its_answer(network):
    answers = [network.embed(known) for known in WELL_KNOWN_ADDRESSES]
    assert None not in answers
    # Random bits may hold a known address themselves, but nearly never do.
    assert prefixes_of(answers) == [network]


@given(st.lists(st.binary(min_size=16, max_size=16).map(IPv6Address)))
def test_no_answer_is_too_strange(answers):
    for found in prefixes_of(answers):
        assert any(found.extract(answer) in WELL_KNOWN_ADDRESSES for answer in answers)


def test_several_prefixes_in_the_order_of_the_answers():
    known = WELL_KNOWN_ADDRESSES[0]
    both = [prefix("64:ff9b:1::/96"), prefix("2001:db8::/48")]
    assert prefixes_of([each.embed(known) for each in both]) == both


def test_answers_that_show_nothing():
    for answer in ("::ffff:192.0.0.170", "fe80::192.0.0.170", "2001:db8::192.0.0.172"):
        assert prefixes_of([IPv6Address(answer)]) == []


def test_an_answer_that_can_be_read_twice_shows_nothing():
    assert prefixes_of([IPv6Address("2001:db8:c000:aa::")]) == [prefix("2001:db8::/32")]
    assert prefixes_of([IPv6Address("2001:db8:c000:aa::192.0.0.171")]) == []


def test_of_a_long_answer_only_the_start_counts():
    late = prefix("2001:db8::/96").embed(WELL_KNOWN_ADDRESSES[0])
    assert prefixes_of([IPv6Address(1)] * MAX_ANSWERS + [late]) == []
