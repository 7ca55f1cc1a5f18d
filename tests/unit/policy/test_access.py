from ipaddress import ip_address, ip_network

import pytest

from firezone.model import ResourceId
from firezone.policy import Access, Filter, Grant, Protocol, Refusal

NOW = 1_000
WEB = (Filter(Protocol.TCP, 80, 80), Filter(Protocol.TCP, 443, 443))


def grant(name, network, filters=(), expires_at=None):
    return Grant(ResourceId(name), ip_network(network), tuple(filters), expires_at)


def access(*grants):
    made = Access()
    for each in grants:
        made.authorize(each)
    return made


def refusal(made, address, protocol=Protocol.TCP, port=80, now=NOW):
    return made.decide(ip_address(address), protocol, port, now).refusal


def test_nothing_is_permitted_without_a_grant():
    assert refusal(Access(), "10.0.0.1") is Refusal.NO_GRANT


def test_a_grant_without_filters_permits_everything():
    made = access(grant("a", "10.0.0.0/8"))
    for protocol in (Protocol.TCP, Protocol.UDP, Protocol.ICMP, 47):
        assert refusal(made, "10.1.2.3", protocol) is None


@pytest.mark.parametrize(
    ("protocol", "port", "permitted"),
    [
        (Protocol.TCP, 80, True),
        (Protocol.TCP, 443, True),
        (Protocol.TCP, 79, False),
        (Protocol.TCP, 81, False),
        (Protocol.UDP, 80, False),
        (Protocol.ICMP, 0, False),
        (47, 0, False),
    ],
)
def test_filters_hold_protocol_and_port(protocol, port, permitted):
    made = access(grant("a", "10.0.0.0/8", WEB))
    assert (refusal(made, "10.0.0.1", protocol, port) is None) is permitted


def test_an_icmp_filter_covers_both_versions():
    made = access(grant("a", "fd00::/64", [Filter(Protocol.ICMP)]))
    assert refusal(made, "fd00::1", Protocol.ICMPV6, 0) is None
    assert refusal(made, "fd00::1", Protocol.TCP, 80) is Refusal.FILTERED


def test_rules_of_a_supernet_flow_down():
    made = access(grant("a", "10.0.0.0/8", WEB), grant("b", "10.1.0.0/16", [Filter(Protocol.UDP)]))
    assert refusal(made, "10.1.0.1", Protocol.TCP, 80) is None
    assert refusal(made, "10.1.0.1", Protocol.UDP, 53) is None
    assert refusal(made, "10.2.0.1", Protocol.UDP, 53) is Refusal.FILTERED


def test_grants_expire_one_by_one():
    made = access(grant("a", "10.0.0.0/8", WEB, NOW + 10), grant("b", "10.0.0.0/8", [], NOW + 20))
    assert refusal(made, "10.0.0.1", now=NOW + 19) is None
    assert made.next_expiry() == NOW + 10
    assert made.expire(NOW + 10) == ["a"]
    assert refusal(made, "10.0.0.1", now=NOW + 20) is Refusal.NO_GRANT
    assert made.expire(NOW + 20) == ["b"]
    assert not made


def test_a_decision_holds_until_the_last_permitting_grant_ends():
    made = access(grant("a", "10.0.0.0/8", [], NOW + 10), grant("b", "10.0.0.0/9", [], NOW + 20))
    assert made.decide(ip_address("10.0.0.1"), 6, 80, NOW).expires_at == NOW + 20
    made.authorize(grant("c", "10.0.0.0/10"))
    assert made.decide(ip_address("10.0.0.1"), 6, 80, NOW).expires_at is None


def test_reauthorizing_refreshes_the_expiry():
    """The original kept the first expiry; the newest word of the portal is meant to stand."""
    made = access(grant("a", "10.0.0.0/8", [], NOW + 10))
    made.authorize(grant("a", "10.0.0.0/8", [], NOW + 100))
    assert made.next_expiry() == NOW + 100


def test_retain_revokes_what_is_not_listed():
    made = access(grant("a", "10.0.0.0/8"), grant("b", "11.0.0.0/8"))
    assert made.retain([ResourceId("b")])
    assert refusal(made, "10.0.0.1") is Refusal.NO_GRANT
    assert refusal(made, "11.0.0.1") is None
    assert not made.retain([ResourceId("b")])


def test_changes_tell_whether_they_changed_anything():
    made = access(grant("a", "10.0.0.0/8"))
    assert made.set_filters(ResourceId("a"), WEB)
    assert not made.set_filters(ResourceId("a"), WEB)
    assert made.set_expiry(ResourceId("a"), 5)
    assert not made.set_expiry(ResourceId("x"), 5)
    assert made.revoke(ResourceId("a"))
    assert not made.revoke(ResourceId("a"))
