"""The responder's part of a handshake: in the interface's machine, and in whole programs.

`python -m benchmarks.bench_handshake` measures every WireGuard that is installed, on one core, in
handshakes a second of CPU time. Under pytest it is the machine of `firezone wg` alone.
"""

from __future__ import annotations

import itertools
import os

import click
from pytest_benchmark.fixture import BenchmarkFixture

from benchmarks import handshakes
from benchmarks.common import measure
from benchmarks.handshakes import NO_MAC2, Crowd
from benchmarks.tunnel_net import NULL_TUNNEL, installed, network
from firezone.commands import Activity, Traffic
from firezone.durations import MILLISECOND, SECOND
from firezone.model import Endpoint
from firezone.noise import StaticKeypair
from firezone.shell.clock import unix_ns
from firezone.wireguard import Device, DeviceChange, PeerChange

OURS, THEIRS = Endpoint.of("192.0.2.2", 51820), Endpoint.of("192.0.2.1", 51820)


@click.command()
@click.option("--seconds", default=3, show_default=True)
@click.option("--only", help="Names of implementations, joined by commas.")
def table(seconds: int, only: str | None) -> None:
    """Measure and print the table."""
    click.echo(f"{'responder':20}{'per second':>12}{'per CPU s':>12}{'CPU µs each':>14}")
    with network() as net:
        crowd = Crowd(net.keys["b"].public, seconds)
        for implementation in installed(only):
            if implementation.name != NULL_TUNNEL:
                r = handshakes.measure(net, implementation, crowd)
                each = 1e6 / r.per_cpu_second if r.answered else float("nan")
                figures = f"{r.per_second:12.0f}{r.per_cpu_second:12.0f}{each:14.0f}"
                click.echo(f"{implementation.name:20}{figures}")


# Under pytest.


def test_respond(benchmark: BenchmarkFixture) -> None:
    """From an initiation to its response, by turns of a thousand peers."""
    private = os.urandom(32)
    crowd = Crowd(StaticKeypair.from_private(private).public, seconds=1)
    device = responder(private, crowd)
    messages, moments = iter(crowd.messages), itertools.count(SECOND, 20 * MILLISECOND)
    message, now = b"", 0

    def prepare() -> None:
        nonlocal message, now
        while device.poll_transmit() is not None or device.poll_command() is not None:
            pass
        message, now = next(messages) + NO_MAC2, next(moments)

    measure(
        benchmark,
        prepare,
        lambda: device.handle_datagram(OURS, THEIRS, message, now),
        1,
        "handshake response",
    )
    assert device.poll_transmit() is not None


def responder(private: bytes, crowd: Crowd) -> Device:
    device = Device(
        entropy=os.urandom,
        activity=lambda _: Activity(),
        traffic=lambda _: Traffic(),
        unix_now=unix_ns(),
        now=0,
    )
    peers = tuple(PeerChange(peer.public) for peer in crowd.peers)
    device.configure(DeviceChange(private_key=private, peers=peers), 0)
    return device


if __name__ == "__main__":
    table()
