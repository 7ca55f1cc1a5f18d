import pytest
from hypothesis import given
from hypothesis import strategies as st
from packets import _pseudo, checksum, ip, ping, tcp, udp

from firezone.policy import ControlKind, control_kind, control_packet, prohibited

A4, B4 = "100.64.0.2", "10.0.0.1"
A6, B6 = "fd00:2021:1111::2", "fd00::1"


def test_ipv4_answer():
    packet = udp(A4, B4, 5, 6, b"hello")
    answer = prohibited(packet)
    assert answer is not None
    assert answer[9] == 1
    assert (answer[12:16], answer[16:20]) == (packet[16:20], packet[12:16])
    assert answer[20:22] == b"\x03\x0d"
    assert answer[28:] == packet[:28]
    assert checksum(answer[:20]) == 0
    assert checksum(answer[20:]) == 0
    assert int.from_bytes(answer[2:4], "big") == len(answer)


@pytest.mark.parametrize("size", [0, 1, 1200, 1232])
def test_ipv6_answer(size):
    packet = udp(A6, B6, 5, 6, bytes(size))
    answer = prohibited(packet)
    assert answer is not None
    assert answer[6] == 58
    assert answer[40:42] == b"\x01\x01"
    assert len(answer) <= 1280
    assert packet.startswith(answer[48:])
    assert checksum(_pseudo(B6, A6, 58, len(answer) - 40) + answer[40:]) == 0


def test_errors_and_fragments_get_no_answer():
    answer = prohibited(tcp(A4, B4, 1, 2))
    assert answer is not None
    assert prohibited(answer) is None
    answer = prohibited(tcp(A6, B6, 1, 2))
    assert answer is not None
    assert prohibited(answer) is None
    fragment = bytearray(udp(A4, B4, 1, 2))
    fragment[7] = 1
    assert prohibited(bytes(fragment)) is None


@pytest.mark.parametrize(
    ("source", "destination"), [(A4, "224.0.0.251"), (A4, "255.255.255.255"), (A6, "ff02::fb")]
)
def test_what_many_hear_gets_no_answer(source, destination):
    assert prohibited(udp(source, destination, 5353, 5353)) is None


def test_pings_are_answered():
    assert prohibited(ping(A4, B4)) is not None
    assert prohibited(ping(A6, B6)) is not None


@given(st.binary(max_size=100))
def test_any_bytes(data):
    prohibited(data)
    control_kind(data)


def test_control_packets_round_trip():
    packet = control_packet(ControlKind.GOODBYE)
    assert control_kind(packet) == 2
    assert len(packet) == 48
    assert control_kind(packet[:47]) is None
    assert control_kind(udp(A6, B6, 1, 2, bytes(20))) is None
    assert control_kind(ip("::1", "::", 0xFF, bytes(8))) is None
