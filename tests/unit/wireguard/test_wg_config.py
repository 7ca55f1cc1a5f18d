"""The file of wg-quick: what it says, and how it tells what is wrong."""

import base64
from ipaddress import ip_interface, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from firezone.errors import ConfigurationError
from firezone.model import Endpoint
from firezone.wireguard import AllowedIP, Table, parse_config
from firezone.wireguard.config import HostPort
from firezone.wireguard.settings import NO_KEY

PRIVATE, PUBLIC, PRESHARED, OTHER = (bytes([n]) * 32 for n in (1, 2, 3, 4))


def b64(key: bytes) -> str:
    return base64.b64encode(key).decode()


INTERFACE = f"[Interface]\nPrivateKey = {b64(PRIVATE)}\n"
PEER = f"[Peer]\nPublicKey = {b64(PUBLIC)}\n"

WHOLE = f"""
# A comment
[Interface]
PrivateKey = {b64(PRIVATE)}  # so secret
Address = 10.0.0.1/24, fd00::1/64
address=192.0.2.7
ListenPort = 51820
MTU = 1380
Table = 1234
FwMark = 0xca6c
DNS = 1.1.1.1, example.com
SaveConfig = false
PreUp = echo 1
PostUp = iptables -A FORWARD -i %i; echo "a = b"
PostUp = echo 3
PreDown = echo 4
PostDown = echo 5

[Peer]
PublicKey={b64(PUBLIC)}
PresharedKey = {b64(PRESHARED)}
AllowedIPs = 10.0.0.2, 10.1.2.3/16
AllowedIPs = fd00::2/128
Endpoint = [2001:db8::1]:51820
PersistentKeepalive = 25

[PEER]
PublicKey = {b64(OTHER)}
Endpoint = vpn.example.com:1
AllowedIPs =
"""


def test_everything_that_a_file_can_say():
    config = parse_config(WHOLE, "wg0.conf")
    section = config.interface
    assert section.private_key == PRIVATE
    assert section.addresses == tuple(
        map(ip_interface, ("10.0.0.1/24", "fd00::1/64", "192.0.2.7/32"))
    )
    assert (section.listen_port, section.mtu, section.fwmark) == (51820, 1380, 0xCA6C)
    assert (section.table, section.dns) == (Table(1234), ("1.1.1.1", "example.com"))
    assert section.post_up == ('iptables -A FORWARD -i %i; echo "a = b"', "echo 3")
    assert (section.pre_up, section.pre_down) == (("echo 1",), ("echo 4",))
    assert section.post_down == ("echo 5",)
    one, two = config.peers
    assert (one.public_key, one.preshared_key) == (PUBLIC, PRESHARED)
    assert one.allowed_ips == tuple(map(ip_network, ("10.0.0.2/32", "10.1.0.0/16", "fd00::2/128")))
    assert (one.endpoint, one.persistent_keepalive) == (HostPort("2001:db8::1", 51820), 25)
    assert two.endpoint == HostPort("vpn.example.com", 1)
    assert (two.preshared_key, two.allowed_ips, two.persistent_keepalive) == (None, (), 0)


def test_the_least_that_a_file_can_say():
    section = parse_config(INTERFACE, "wg0.conf").interface
    assert (section.listen_port, section.mtu, section.table) == (0, None, Table(0))
    assert section.fwmark is None


def test_the_change_replaces_all_peers():
    config = parse_config(WHOLE, "wg0.conf")
    known = Endpoint.parse("[2001:db8::1]:51820")
    change = config.change({HostPort("2001:db8::1", 51820): known})
    assert (change.private_key, change.listen_port, change.replace_peers) == (PRIVATE, 51820, True)
    one, two = change.peers
    assert (one.endpoint, two.endpoint) == (known, None)
    assert one.allowed_ips[0] == AllowedIP(ip_network("10.0.0.2/32"))
    assert (one.preshared_key, two.preshared_key) == (PRESHARED, NO_KEY)
    assert one.replace_allowed_ips


@pytest.mark.parametrize(
    ("line", "value"),
    [
        ("Table = off", Table(None)),
        ("Table = auto", Table(0)),
        ("FwMark = off", 0),
        ("FwMark = 51820", 51820),
    ],
)
def test_words_for_numbers(line, value):
    section = parse_config(INTERFACE + line, "wg0.conf").interface
    assert value in (section.table, section.fwmark)


SECRET = "c2VjcmV0c2VjcmV0c2VjcmV0c2VjcmV0c2VjcmV0c2U="

ERRORS = [
    ("", "[Interface]", "f", "missing"),
    ("PrivateKey = x", "PrivateKey", "f:1", "before any section"),
    ("[Interface]", "[Interface] PrivateKey", "f:1", "missing"),
    ("[Nonsense]", "section", "f:1", "unknown"),
    ("[Interface", "section", "f:1", "unknown"),
    (INTERFACE + INTERFACE, "[Interface]", "f:3", "twice"),
    (INTERFACE + "[Peer]", "[Peer] PublicKey", "f:3", "missing"),
    (INTERFACE + "hello", "line", "f:3", "no `=`"),
    (INTERFACE + SECRET, "[Interface] key", "f:3", "unknown key"),
    (INTERFACE + "Color = red", "[Interface] Color", "f:3", "unknown key"),
    (INTERFACE + "AllowedIPs = ::/0", "[Interface] AllowedIPs", "f:3", "unknown key"),
    ("[Interface]\nPrivateKey = " + SECRET[:-2], "[Interface] PrivateKey", "f:2", "malformed"),
    ("[Interface]\nPrivateKey =", "[Interface] PrivateKey", "f:2", "malformed"),
    ("[Interface]\nPrivateKey = " + SECRET[:-2] + "f=", "[Interface] PrivateKey", "f:2", ""),
    (INTERFACE + "Address = 10.0.0.256", "[Interface] Address", "f:3", "'10.0.0.256'"),
    (INTERFACE + "Address = 10.0.0.1/33", "[Interface] Address", "f:3", "'10.0.0.1/33'"),
    (INTERFACE + "Address = 10.0.0.1/255.0.0.0", "[Interface] Address", "f:3", "malformed"),
    (INTERFACE + "Address = " + SECRET, "[Interface] Address", "f:3", "malformed"),
    (INTERFACE + "ListenPort = 65536", "[Interface] ListenPort", "f:3", "out of range"),
    (INTERFACE + "ListenPort = -1", "[Interface] ListenPort", "f:3", "'-1'"),
    (INTERFACE + "ListenPort = ٣", "[Interface] ListenPort", "f:3", "malformed"),
    (INTERFACE + "ListenPort = " + SECRET, "[Interface] ListenPort", "f:3", "malformed"),
    (INTERFACE + "MTU = 9000", "[Interface] MTU", "f:3", "out of range"),
    (INTERFACE + "Table = main", "[Interface] Table", "f:3", "malformed"),
    (INTERFACE + "Table = 0", "[Interface] Table", "f:3", "out of range"),
    (INTERFACE + "FwMark = 0x1ffffffff", "[Interface] FwMark", "f:3", "malformed"),
    (INTERFACE + "SaveConfig = maybe", "[Interface] SaveConfig", "f:3", "malformed"),
    (INTERFACE + "PostUp =", "[Interface] PostUp", "f:3", "empty"),
    (INTERFACE + PEER + "PresharedKey = x", "[Peer] PresharedKey", "f:5", "malformed"),
    (INTERFACE + "\n\n[Peer]\nPublicKey = x", "[Peer] PublicKey", "f:6", "malformed"),
    (INTERFACE + f"[Peer]\nPublicKey = {b64(bytes(32))}", "[Peer] PublicKey", "f:4", "small order"),
    (INTERFACE + PEER + "AllowedIPs = ::/0, x", "[Peer] AllowedIPs", "f:5", "'x'"),
    (INTERFACE + PEER + "Endpoint = 192.0.2.1", "[Peer] Endpoint", "f:5", "malformed"),
    (INTERFACE + PEER + "Endpoint = [fe80::1%eth0]:51820", "[Peer] Endpoint", "f:5", "scope (%)"),
    (INTERFACE + PEER + "Endpoint = 192.0.2.1:0", "[Peer] Endpoint", "f:5", "out of range"),
    (INTERFACE + PEER + "Endpoint = ::1:51820", "[Peer] Endpoint", "f:5", "malformed"),
    (INTERFACE + PEER + "Endpoint = [1.2.3.4]:5", "[Peer] Endpoint", "f:5", "malformed"),
    (INTERFACE + PEER + "Endpoint = a b:51820", "[Peer] Endpoint", "f:5", "malformed"),
    (
        INTERFACE + PEER + "PersistentKeepalive = soon",
        "[Peer] PersistentKeepalive",
        "f:5",
        "'soon'",
    ),
    (INTERFACE + PEER + "ListenPort = 1", "[Peer] ListenPort", "f:5", "unknown key"),
]


@pytest.mark.parametrize(("text", "setting", "source", "problem"), ERRORS)
def test_errors_name_line_and_key_and_no_secret(text, setting, source, problem):
    with pytest.raises(ConfigurationError) as caught:
        parse_config(text, "f")
    error = caught.value
    assert (error.setting, error.source) == (setting, source)
    assert problem in error.problem and error.remedy
    assert SECRET[:20] not in str(error) and b64(PRIVATE) not in str(error)


def test_what_goes_wrong_later_is_found_in_the_file():
    config = parse_config(WHOLE, "wg0.conf")
    assert config.interface.places["listen_port"] == "wg0.conf:7"
    assert [peer.places["endpoint"] for peer in config.peers] == ["wg0.conf:24", "wg0.conf:29"]


def test_more_peers_than_there_can_be(monkeypatch):
    monkeypatch.setattr("firezone.wireguard.config.MAX_PEERS", 2)
    peers = [f"[Peer]\nPublicKey = {b64(bytes([n]) * 32)}\n" for n in (3, 4, 5)]
    assert len(parse_config(INTERFACE + peers[0] + peers[1] + peers[0], "f").peers) == 3
    with pytest.raises(ConfigurationError, match=r"\[Peer\] PublicKey \(f:7\): .* the 2 peers"):
        parse_config(INTERFACE + "".join(peers), "f")


def test_secrets_are_in_no_repr():
    text = repr(parse_config(WHOLE, "f"))
    assert repr(PRIVATE) not in text and repr(PRESHARED) not in text


@given(st.text() | st.binary().map(lambda b: b.decode("latin-1")))
def test_any_text_is_read_or_refused(text):
    parses_or_refuses(text)


@given(st.integers(0, len(WHOLE)), st.integers(0, 5), st.text(max_size=3))
def test_a_changed_file_is_read_or_refused(at, cut, put):
    parses_or_refuses(WHOLE[:at] + put + WHOLE[at + cut :])


@pytest.mark.parametrize("length", range(0, len(WHOLE), 7))
def test_a_cut_file_is_read_or_refused(length):
    parses_or_refuses(WHOLE[:length])


def parses_or_refuses(text: str) -> None:
    try:
        parse_config(text, "f")
    except ConfigurationError as error:
        assert b64(PRIVATE)[:30] not in str(error)
