"""The protocol of wg(8): requests, answers, and what is no request."""

import errno
from ipaddress import ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from firezone.commands import Traffic
from firezone.model import Endpoint
from firezone.wireguard import (
    AllowedIP,
    DeviceChange,
    DeviceStatus,
    Get,
    PeerChange,
    PeerStatus,
    RequestReader,
    UapiError,
    format_change,
    format_status,
    parse_status,
    reply,
)
from firezone.wireguard.uapi import parse_request

KEY_A, KEY_B, KEY_C = (bytes([n]) * 32 for n in (0xA, 0xB, 0xC))

SET = f"""set=1
private_key={KEY_A.hex()}
listen_port=51820
fwmark=0
replace_peers=true
public_key={KEY_B.hex()}
preshared_key={KEY_C.hex()}
endpoint=[2001:db8::1]:51820
persistent_keepalive_interval=25
replace_allowed_ips=true
allowed_ip=10.0.0.0/8
allowed_ip=fd00::1/128
protocol_version=1
public_key={KEY_C.hex()}
remove=true
public_key={KEY_A.hex()}
update_only=true
allowed_ip=-10.1.2.3
endpoint=192.0.2.1:1
"""

CHANGE = DeviceChange(
    private_key=KEY_A,
    listen_port=51820,
    fwmark=0,
    replace_peers=True,
    peers=(
        PeerChange(
            KEY_B,
            preshared_key=KEY_C,
            endpoint=Endpoint.parse("[2001:db8::1]:51820"),
            persistent_keepalive=25,
            replace_allowed_ips=True,
            allowed_ips=(
                AllowedIP(ip_network("10.0.0.0/8")),
                AllowedIP(ip_network("fd00::1/128")),
            ),
        ),
        PeerChange(KEY_C, remove=True),
        PeerChange(
            KEY_A,
            update_only=True,
            endpoint=Endpoint.parse("192.0.2.1:1"),
            allowed_ips=(AllowedIP(ip_network("10.1.2.3/32"), remove=True),),
        ),
    ),
)

STATUS = DeviceStatus(
    private_key=KEY_A,
    listen_port=51820,
    fwmark=7,
    peers=(
        PeerStatus(
            public_key=KEY_B,
            preshared_key=KEY_C,
            endpoint=Endpoint.parse("[2001:db8::1]:51820"),
            last_handshake=1_700_000_000_000_000_123,
            traffic=Traffic(received=5, sent=6),
            persistent_keepalive=25,
            allowed_ips=(ip_network("10.0.0.0/8"), ip_network("::/0")),
        ),
        PeerStatus(KEY_C, None, None, 0, Traffic(), 0, ()),
    ),
)


def test_a_change_is_read():
    assert parse_request(SET.strip().encode()) == CHANGE


def test_a_change_survives_the_way_there():
    reader = RequestReader()
    reader.feed(format_change(CHANGE))
    assert reader.poll_request() == CHANGE


def test_a_status_is_written_in_the_order_of_the_protocol():
    assert format_status(STATUS).decode() == (
        f"private_key={KEY_A.hex()}\nlisten_port=51820\nfwmark=7\n"
        f"public_key={KEY_B.hex()}\npreshared_key={KEY_C.hex()}\nprotocol_version=1\n"
        "endpoint=[2001:db8::1]:51820\n"
        "last_handshake_time_sec=1700000000\nlast_handshake_time_nsec=123\n"
        "tx_bytes=6\nrx_bytes=5\npersistent_keepalive_interval=25\n"
        "allowed_ip=10.0.0.0/8\nallowed_ip=::/0\n"
        f"public_key={KEY_C.hex()}\npreshared_key={'0' * 64}\nprotocol_version=1\n"
        "last_handshake_time_sec=0\nlast_handshake_time_nsec=0\n"
        "tx_bytes=0\nrx_bytes=0\npersistent_keepalive_interval=0\n"
    )


def test_a_status_survives_the_way_back():
    assert parse_status(format_status(STATUS) + reply()) == STATUS


def test_an_answer_that_is_an_error():
    assert reply(errno.EINVAL) == b"errno=-22\n\n"
    with pytest.raises(UapiError) as caught:
        parse_status(reply(errno.EPERM))
    assert caught.value.number == errno.EPERM


def test_requests_come_in_any_pieces():
    reader = RequestReader()
    found = []
    for byte in b"get=1\n\n" + SET.encode() + b"\nget=1\n\n":
        reader.feed(bytes([byte]))
        if (request := reader.poll_request()) is not None:
            found.append(request)
    assert found == [Get(), CHANGE, Get()]


def test_a_wrong_request_is_taken_off():
    reader = RequestReader()
    reader.feed(b"set=2\n\nget=1\n\n")
    with pytest.raises(UapiError):
        reader.poll_request()
    assert reader.poll_request() == Get()
    assert reader.poll_request() is None


def test_a_request_without_end_is_refused():
    reader = RequestReader(limit=1000)
    reader.feed(b"x" * 1000)
    with pytest.raises(UapiError) as caught:
        reader.feed(b"x")
    assert caught.value.number == errno.E2BIG


PEER = f"public_key={KEY_B.hex()}"


@pytest.mark.parametrize(
    ("lines", "number"),
    [
        (["put=1"], errno.EPROTO),
        (["get=1", "listen_port=1"], errno.EPROTO),
        (["set=1", "nonsense"], errno.EINVAL),
        (["set=1", "listen_port="], errno.EINVAL),
        (["set=1", "colour=red"], errno.EINVAL),
        (["set=1", "listen_port=65536"], errno.EINVAL),
        (["set=1", "listen_port=-1"], errno.EINVAL),
        (["set=1", "listen_port=0x10"], errno.EINVAL),
        (["set=1", "fwmark=4294967296"], errno.EINVAL),
        (["set=1", "replace_peers=false"], errno.EINVAL),
        (["set=1", "private_key=00"], errno.EINVAL),
        (["set=1", "private_key=" + "g" * 64], errno.EINVAL),
        (["set=1", "allowed_ip=10.0.0.0/8"], errno.EINVAL),
        (["set=1", PEER, "listen_port=1"], errno.EINVAL),
        (["set=1", PEER, "allowed_ip=10.0.0.0/33"], errno.EINVAL),
        (["set=1", PEER, "allowed_ip=10.0.0.0/255.0.0.0"], errno.EINVAL),
        (["set=1", PEER, "endpoint=192.0.2.1"], errno.EINVAL),
        (["set=1", PEER, "endpoint=host:1"], errno.EINVAL),
        (["set=1", PEER, "endpoint=[fe80::1%eth0]:1"], errno.EINVAL),
        (["set=1", PEER, "endpoint=::1:1"], errno.EINVAL),
        (["set=1", PEER, "endpoint=[192.0.2.1]:1"], errno.EINVAL),
        (["set=1", PEER, "endpoint=192.0.2.1:65536"], errno.EINVAL),
        (["set=1", PEER, "persistent_keepalive_interval=70000"], errno.EINVAL),
        (["set=1", PEER, "protocol_version=2"], errno.EPROTONOSUPPORT),
    ],
)
def test_nonsense(lines, number):
    with pytest.raises(UapiError) as caught:
        parse_request("\n".join(lines).encode())
    assert caught.value.number == number


def test_secrets_are_in_no_repr():
    for value in (CHANGE, STATUS):
        assert repr(KEY_A) not in repr(value).replace(f"public_key={KEY_A!r}", "")


@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(data):
    reads_or_refuses(data)


@given(st.integers(0, len(SET)), st.integers(0, 9), st.binary(max_size=4))
def test_a_changed_request_is_read_or_refused(at, cut, put):
    text = SET.encode()
    reads_or_refuses(text[:at] + put + text[at + cut :])


@pytest.mark.parametrize("length", range(len(SET)))
def test_a_cut_request_is_read_or_refused(length):
    reads_or_refuses(SET.encode()[:length])


def reads_or_refuses(data: bytes) -> None:
    try:
        parse_request(data)
    except UapiError as error:
        assert error.number > 0
