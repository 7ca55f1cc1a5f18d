"""What `firezone wg` prints and refuses, without an interface."""

import base64
import json
import signal
from ipaddress import ip_network
from pathlib import Path

import pytest

from firezone.cli import wg_show
from firezone.cli.program import run
from firezone.commands import Traffic, WorkerStatus
from firezone.durations import SECOND
from firezone.model import Endpoint
from firezone.shell import wg_control
from firezone.wireguard import DeviceStatus, PeerStatus, ServiceStatus, format_status, reply

KEY, PEER, OTHER = (bytes([n]) * 32 for n in (1, 2, 3))
NOW = 1_700_000_000 * SECOND

STATUS = DeviceStatus(
    private_key=KEY,
    listen_port=51820,
    fwmark=0xCA6C,
    peers=(
        PeerStatus(OTHER, None, None, 0, Traffic(), 0, ()),
        PeerStatus(
            public_key=PEER,
            preshared_key=KEY,
            endpoint=Endpoint.parse("[2001:db8::1]:51820"),
            last_handshake=NOW - 3725 * SECOND,
            traffic=Traffic(received=1023, sent=5 * 1024**3),
            persistent_keepalive=25,
            allowed_ips=(ip_network("10.0.0.0/8"), ip_network("::/0")),
        ),
    ),
)


def test_text():
    text = wg_show.as_text("wg0", STATUS, NOW)
    lines = text.splitlines()
    assert lines[0] == "interface: wg0"
    assert lines.index(f"peer: {b64(PEER)}") < lines.index(f"peer: {b64(OTHER)}")
    for line in (
        "  private key: (hidden)",
        "  listening port: 51820",
        "  fwmark: 0xca6c",
        "  preshared key: (hidden)",
        "  endpoint: [2001:db8::1]:51820",
        "  allowed ips: 10.0.0.0/8, ::/0",
        "  latest handshake: 1 hour, 2 minutes, 5 seconds ago",
        "  transfer: 1023 B received, 5.00 GiB sent",
        "  persistent keepalive: every 25 seconds",
        "  allowed ips: (none)",
    ):
        assert line in lines
    assert b64(KEY) not in text


def test_json():
    document = json.dumps(wg_show.as_json("wg0", STATUS))
    assert b64(KEY) not in document
    peer = json.loads(document)["peers"][1]
    assert (peer["received_bytes"], peer["has_preshared_key"]) == (1023, True)
    assert peer["latest_handshake"] == "2023-11-14T21:11:15+00:00"
    assert wg_show.as_json("wg0", DeviceStatus(None, 0, 0, ()))["public_key"] is None


def test_workers():
    two = ServiceStatus((WorkerStatus(7, 1, 0), WorkerStatus(5, 3, 2)))
    lines = wg_show.as_text("wg0", STATUS, NOW, two).splitlines()
    start = lines.index("  workers: 2")
    assert lines[start + 1 : start + 3] == [
        "  worker 0: 1 packets received, 7 sent",
        "  worker 1: 3 packets received, 5 sent, 2 handed over",
    ]
    assert "worker 0" not in wg_show.as_text("wg0", STATUS, NOW, ServiceStatus(two.workers[:1]))
    assert wg_show.as_json("wg0", STATUS, two)["workers"][1] == {
        "sent_packets": 5,
        "received_packets": 3,
        "handed_over_packets": 2,
    }


def test_drops_and_offloads():
    drops = {"interface: packet for nobody": 7, "socket: EPERM": 1}
    service = ServiceStatus((), ("udp-gso", "udp-gro"), drops)
    lines = wg_show.as_text("wg0", STATUS, NOW, service).splitlines()
    start = lines.index("  offloads: udp-gso, udp-gro")
    assert lines[start + 1 : start + 3] == [
        "  dropped: 7 interface: packet for nobody",
        "  dropped: 1 socket: EPERM",
    ]
    document = json.loads(json.dumps(wg_show.as_json("wg0", STATUS, service)))
    assert (document["offloads"], document["drops"]) == (["udp-gso", "udp-gro"], drops)
    foreign = wg_show.as_text("wg0", STATUS, NOW, None)
    assert "offloads" not in foreign and "dropped" not in foreign


@pytest.mark.parametrize("workers", ["0", "17", "-1"])
def test_a_number_of_workers_that_cannot_be(
    workers: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    assert run(["wg", "up", str(tmp_path / "wg0.conf"), "--workers", workers]) == 2
    assert "--workers or FIREZONE_WORKERS" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 B"), (1023, "1023 B"), (1024, "1.00 KiB"), (1 << 20, "1.00 MiB"), (1 << 60, "TiB")],
)
def test_sizes(count: int, text: str):
    peer = PeerStatus(PEER, None, None, 0, Traffic(count, 1), 0, ())
    shown = wg_show.as_text("x", DeviceStatus(None, 0, 0, (peer,)), NOW)
    assert f"{text} received" in shown


def test_a_bad_file_is_one_line_and_code_two(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    path = tmp_path / "wg0.conf"
    path.write_text(f"[Interface]\nPrivateKey = {b64(KEY)}\nMTU = big\n")
    assert run(["wg", "up", str(path)]) == 2
    errors = capsys.readouterr().err
    assert len(errors.splitlines()) == 1 and f"{path}:3" in errors and "'big'" in errors


def test_a_key_of_small_order_is_found_by_a_check(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    path = tmp_path / "wg0.conf"
    path.write_text(f"[Interface]\nPrivateKey = {b64(KEY)}\n[Peer]\nPublicKey = {b64(bytes(32))}\n")
    assert run(["wg", "up", "--check", str(path)]) == 2
    assert f"[Peer] PublicKey ({path}:4): is of small order" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["missing.conf", "a-name-that-is-too-long.conf", "no name.conf"])
def test_a_file_that_cannot_be(tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str):
    assert run(["wg", "up", str(tmp_path / name)]) == 2
    assert name in capsys.readouterr().err


def test_a_log_file_needs_a_detached_process(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    path = tmp_path / "wg0.conf"
    path.write_text(f"[Interface]\nPrivateKey = {b64(KEY)}\n")
    assert run(["wg", "up", str(path), "--log-file", str(tmp_path / "log")]) == 2
    assert run(["wg", "up", str(path), "--detach", "--log-file", str(tmp_path / "no" / "log")]) == 2
    errors = capsys.readouterr().err
    assert "--log-file is for --detach" in errors
    assert "log file (--log-file): " in errors and "No such file or directory" in errors


def test_check(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    path = tmp_path / "wg0.conf"
    path.touch(0o600)
    path.write_text(f"[Interface]\nPrivateKey = {b64(KEY)}\nDNS = 1.1.1.1\nSaveConfig = true\n")
    assert run(["wg", "up", "--check", str(path)]) == 0
    captured = capsys.readouterr()
    assert captured.out == "configuration: ok\n" and "DNS is not applied" in captured.err
    assert "this file is never written" in captured.err


def test_what_another_program_serves_stays_up(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    def send(*_: object) -> None:
        raise AssertionError("a signal was sent")

    monkeypatch.setattr(wg_control, "process_of", lambda _: 7)
    monkeypatch.setattr(wg_control, "service_of", lambda _: None)
    monkeypatch.setattr(signal, "pidfd_send_signal", send)
    assert run(["wg", "down", "wg0"]) == 1
    assert "wg0: another program serves it, process 7" in capsys.readouterr().err


def test_what_is_not_up(capsys: pytest.CaptureFixture[str]):
    for command in ("down", "show"):
        assert run(["wg", command, "no-such-wg"]) == 1
        assert "no such interface is up" in capsys.readouterr().err


def test_one_that_hangs_does_not_hide_the_others(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    def ask(name: str, request: bytes) -> bytes:
        if name == "wg1":
            raise wg_control.ControlError("wg1: the interface does not answer")
        return format_status(STATUS) + reply()

    monkeypatch.setattr(wg_control, "ask", ask)
    monkeypatch.setattr(wg_control, "service_of", lambda _: None)
    monkeypatch.setattr(wg_control, "names", lambda: ["wg0", "wg1", "wg2"])
    assert run(["wg", "show"]) == 1
    captured = capsys.readouterr()
    assert captured.err == "firezone: wg1: the interface does not answer\n"
    assert "interface: wg0" in captured.out and "interface: wg2" in captured.out
    assert run(["wg", "show", "--json"]) == 1
    shown = json.loads(capsys.readouterr().out)
    assert [each["interface"] for each in shown] == ["wg0", "wg2"]
    assert run(["wg", "show", "wg1"]) == 1
    assert run(["wg", "show", "wg2"]) == 0


def b64(key: bytes) -> str:
    return base64.b64encode(key).decode()
