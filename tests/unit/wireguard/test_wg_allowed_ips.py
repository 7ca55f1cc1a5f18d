"""Cryptokey routing against a linear scan."""

from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

from hypothesis import given
from hypothesis import strategies as st

from firezone.wireguard import AllowedIPs


def net(text):
    return ip_network(text)


def test_the_longest_network_decides():
    table = AllowedIPs()
    table.insert(net("0.0.0.0/0"), 1)
    table.insert(net("10.0.0.0/8"), 2)
    table.insert(net("10.1.0.0/16"), 3)
    assert table.lookup(ip_address("10.1.2.3")) == 3
    assert table.lookup(ip_address("10.2.2.3")) == 2
    assert table.lookup(ip_address("11.2.2.3")) == 1
    assert table.lookup(ip_address("::1")) is None
    assert table.remove(net("10.1.0.0/16"), 3)
    assert table.lookup(ip_address("10.1.2.3")) == 2


def test_the_last_one_takes_a_network_over():
    table = AllowedIPs()
    assert table.insert(net("10.0.0.0/8"), 1) is None
    assert table.insert(net("10.0.0.0/8"), 2) == 1
    assert table.of(1) == ()
    assert table.of(2) == (net("10.0.0.0/8"),)
    assert not table.remove(net("10.0.0.0/8"), 1), "it is not the owner any more"
    assert table.lookup(ip_address("10.0.0.1")) == 2


def test_insert_tells_whose_traffic_it_takes():
    table = AllowedIPs()
    table.insert(net("10.0.0.0/8"), 1)
    table.insert(net("10.1.1.0/24"), 2)
    assert table.insert(net("10.1.0.0/16"), 3) == 1, "not the one of a part of it"
    assert table.insert(net("fd00::/8"), 3) is None


def test_remove_all():
    table = AllowedIPs()
    for text in ("10.0.0.0/8", "fd00::/8", "0.0.0.0/0"):
        table.insert(net(text), 1)
    table.insert(net("10.0.0.0/9"), 2)
    table.remove_all(1)
    assert list(table.networks()) == [net("10.0.0.0/9")]
    table.remove_all(1)


# Few bits that differ, so that networks meet.
_V4 = st.builds(
    lambda high, low, length: ip_network((high << 30 | low, length), strict=False),
    st.integers(0, 3),
    st.integers(0, 3),
    st.integers(0, 32),
)
_V6 = st.builds(
    lambda high, low, length: ip_network((high << 126 | low, length), strict=False),
    st.integers(0, 3),
    st.integers(0, 3),
    st.integers(0, 128),
)
_STEPS = st.lists(st.tuples(st.booleans(), _V4 | _V6, st.integers(1, 3)), max_size=30)
_ADDRESSES = st.builds(
    lambda v6, high, low: IPv6Address(high << 126 | low) if v6 else IPv4Address(high << 30 | low),
    st.booleans(),
    st.integers(0, 3),
    st.integers(0, 3),
)


@given(steps=_STEPS, addresses=st.lists(_ADDRESSES, min_size=1, max_size=8))
def test_agrees_with_a_linear_scan(steps, addresses):
    table, plain = AllowedIPs(), {}
    for insert, network, owner in steps:
        if insert:
            covering = [n for n in plain if n.version == network.version and network.subnet_of(n)]
            longest = max(covering, key=lambda n: n.prefixlen, default=None)
            assert table.insert(network, owner) == plain.get(longest)
            plain[network] = owner
        else:
            assert table.remove(network, owner) == (plain.get(network) == owner)
            if plain.get(network) == owner:
                del plain[network]
    for address in addresses:
        holding = [n for n in plain if address in n]
        longest = max(holding, key=lambda n: n.prefixlen, default=None)
        assert table.lookup(address) == plain.get(longest)
    assert set(table.networks()) == set(plain)
    for owner in (1, 2, 3):
        assert set(table.of(owner)) == {n for n, o in plain.items() if o == owner}
