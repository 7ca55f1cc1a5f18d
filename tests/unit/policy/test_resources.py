from ipaddress import ip_address, ip_network

from hypothesis import given
from hypothesis import strategies as st

from firezone.model import ResourceId
from firezone.policy import CidrResource, PrefixTable, ResourceTable


def resource(name, network):
    return CidrResource(ResourceId(name), name, ip_network(network))


def owner(table, address):
    found = table.lookup(ip_address(address))
    return found.id if found else None


def test_the_longest_prefix_wins():
    table = ResourceTable(lambda _: False)
    table.replace([resource("a", "10.0.0.0/8"), resource("b", "10.1.0.0/16")])
    assert owner(table, "10.1.2.3") == "b"
    assert owner(table, "10.2.2.3") == "a"
    assert owner(table, "11.0.0.1") is None
    assert owner(table, "fd00::1") is None


def test_on_the_same_network_the_connected_one_keeps_it_else_the_higher_id():
    connected = set()
    table = ResourceTable(connected.__contains__)
    table.replace([resource("a", "10.0.0.0/8"), resource("b", "10.0.0.0/8")])
    assert owner(table, "10.0.0.1") == "b"
    connected.add("a")
    table.rebuild()
    assert owner(table, "10.0.0.1") == "a"


def test_replace_names_what_is_gone_or_moved():
    table = ResourceTable(lambda _: False)
    table.replace([resource("a", "10.0.0.0/8"), resource("b", "11.0.0.0/8")])
    assert table.replace([resource("a", "10.0.0.0/8"), resource("b", "12.0.0.0/8")]) == ["b"]
    assert table.replace([resource("b", "12.0.0.0/8")]) == ["a"]
    assert table.networks() == {ip_network("12.0.0.0/8")}


def test_put_tells_whether_the_network_moved():
    table = ResourceTable(lambda _: False)
    assert not table.put(resource("a", "10.0.0.0/8"))
    assert not table.put(resource("a", "10.0.0.0/8"))
    assert table.put(resource("a", "10.0.0.0/9"))
    assert table.remove(ResourceId("a"))
    assert owner(table, "10.0.0.1") is None


networks = st.builds(
    lambda number, length: ip_network((number >> (32 - length) << (32 - length), length)),
    st.integers(0, 2**32 - 1),
    st.integers(0, 32),
)


@given(st.lists(networks), st.integers(0, 2**32 - 1))
def test_prefix_table_agrees_with_a_linear_scan(known, number):
    table: PrefixTable[str] = PrefixTable()
    for network in known:
        table.insert(network, str(network))
    address = ip_address(number)
    holding = sorted({n for n in known if address in n}, key=lambda n: -n.prefixlen)
    assert list(table.matches(address)) == [str(n) for n in holding]
