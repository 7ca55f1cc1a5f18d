"""`firezone demo`: the whole system at work on this machine, step by step, in half a minute."""

from __future__ import annotations

import json
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import click

from firezone.cli.lab import ensure_rights
from firezone.cli.lab_options import EPILOG, lab_options
from firezone.durations import MILLISECOND, SECOND
from firezone.errors import FirezoneError
from firezone.lab import Lab, Program, userns
from firezone.lab.fetch import Fetched
from firezone.lab.paths import path_of
from firezone.lab.programs import Line
from firezone.lab.topology import RESOURCE, RESOURCE_ALLOWED, RESOURCE_DENIED

PROMPT = 1 * SECOND
"""A refusal that takes longer than this is a timeout, not a refusal."""

WIDTH = 78


class StepFailed(FirezoneError):
    """The demo cannot go on. `program` is the one whose log may tell why."""

    def __init__(self, step: str, reason: str, program: Program | None) -> None:
        super().__init__(f"{step}: {reason}")
        self.program = program


@click.command(epilog=EPILOG)
@lab_options
@click.option("--megabytes", default=50, show_default=True, help="How much to download each time.")
def demo(wanted: Lab, megabytes: int) -> int:
    """Show the whole system at work on this machine.

    Builds a network with a client and a gateway behind NATs of their own, starts the real programs,
    and fetches a page through the tunnel: directly, then over a relay. Needs root, or a system that
    lets users have namespaces of their own. Everything it makes is gone when it ends.
    """
    try:
        ensure_rights()
        userns.require_tun()
        with wanted as lab:
            try:
                Demo(lab, megabytes).run()
            except StepFailed as failure:
                _show_failure(failure)
                return 1
    except FirezoneError as error:
        click.echo(f"demo: failed: {error}")
        return 1
    click.echo("demo: ok")
    return 0


class Demo:
    """The steps. Each shows a line, or raises StepFailed."""

    def __init__(self, lab: Lab, megabytes: int) -> None:
        self._lab = lab
        self._megabytes = megabytes
        self._page = f"http://{RESOURCE_ALLOWED.v4}/"

    def run(self) -> None:
        _heading("A private network on this machine")
        self._start_world()
        _heading("Through the tunnel")
        self._connect(path_of(self._lab.plan))
        self._measure()
        _heading("Over the relay: direct traffic is blocked, the client starts anew")
        self._lab.stop("client")
        self._lab.block_direct(True)
        self._connect("relayed")
        self._measure()
        _heading("What the policy does not allow")
        self._refuse("a port that is not in the policy", f"http://{RESOURCE_ALLOWED.v4}:8080/")
        self._refuse("a resource of nobody", f"http://{RESOURCE_DENIED.v4}/")

    def _start_world(self) -> None:
        lab = self._lab
        nats = " and ".join(f"{s.host} behind NAT ({s.site.nat.value})" for s in lab.plan.sites)
        _line("network", nats)
        starts: dict[str, Callable[[], Program]] = {
            "resource": lab.start_resource,
            "portal": lab.start_portal,
            "relay1": lab.start_relay,
            "gateway": lab.start_gateway,
        }
        for name, start in starts.items():
            with self._step(f"start the {name}", name):
                started = time.monotonic()
                start()
                _line(name, "started", _seconds(time.monotonic() - started))

    def _connect(self, kind: str) -> None:
        """Start the client, fetch a page, and show what happened on the way."""
        with self._step("start the client", "client"):
            client = self._lab.start_client()
            self._event(client, "portal_connected", "portal connected")
            self._event(client, "ready", "client ready")
        with self._step("fetch a page", "client"):
            fetched = self._lab.fetch(self._page)
        self._show_flow(client, kind)
        with self._step("fetch a page", "gateway"):
            _expect(fetched.status == 200, fetched.error or f"HTTP status {fetched.status}")
        _line("first byte", f"{self._page}  {fetched.page.strip()}", _ms(fetched.first_byte_ms))

    def _show_flow(self, client: Program, kind: str) -> None:
        """The steps of setting up the connection, timed from the first packet that wanted it."""
        with self._step("authorise the flow", "portal"):
            begin = int(client.wait_for_event("flow_requested", 5 * SECOND)["elapsed_ms"])
            line = client.wait_for_event("flow_authorised", 5 * SECOND)
            _line("flow authorised", "by the portal", _ms(int(line["elapsed_ms"]) - begin))
        with self._step("choose a path", "client"):
            line = client.wait_for(_is_path(kind), 10 * SECOND)
            _line("path chosen", _path(line), _ms(int(line["elapsed_ms"]) - begin))
        with self._step("handshake", "client"):
            line = client.wait_for_event("handshake_done", 5 * SECOND)
            _line("handshake", "WireGuard session is up", _ms(int(line["elapsed_ms"]) - begin))

    def _measure(self) -> None:
        with self._step("download", "client"):
            size = self._megabytes * 1_000_000
            fetched = self._lab.fetch(f"{self._page}bytes/{size}", timeout=30 * SECOND)
            _expect(fetched.body_bytes == size, _shortfall(fetched, size))
            speed = f"{fetched.megabits_per_second:.0f} Mbit/s"
            _line("download", f"{self._megabytes} MB over HTTP: {speed}", _ms(fetched.total_ms))
        if shutil.which("iperf3"):
            with self._step("iperf3", "client"):
                _line("iperf3", self._iperf3())

    def _iperf3(self) -> str:
        server = self._lab.start("iperf3", RESOURCE, ["iperf3", "-s", "-1", "--forceflush"])
        server.wait_for(lambda line: "listening" in str(line["message"]))
        argv = ["iperf3", "-c", str(RESOURCE_ALLOWED.v4), "-t", "2", "-J"]
        done = self._lab.exec("client", argv)
        server.stop()
        _expect(done.returncode == 0, done.stdout.strip()[-200:] or done.stderr)
        received = json.loads(done.stdout)["end"]["sum_received"]["bits_per_second"]
        return f"TCP from the client: {received / 1e6:.0f} Mbit/s"

    def _refuse(self, what: str, url: str) -> None:
        with self._step(f"refuse {what}", "gateway"):
            fetched = self._lab.fetch(url, timeout=5 * SECOND)
            _expect(not fetched.status, f"{url} was answered")
            _expect(
                fetched.total_ms * MILLISECOND < PROMPT,
                f"{url} failed only after {fetched.total_ms / 1000:.1f} s: {fetched.error}",
            )
        _line("refused", f"{what}: {fetched.error}", _ms(fetched.total_ms))

    def _event(self, program: Program, event: str, label: str) -> None:
        line = program.wait_for_event(event)
        _line(label, "", _ms(int(line["elapsed_ms"])))

    @contextmanager
    def _step(self, name: str, program: str) -> Iterator[None]:
        """Turns what goes wrong inside into the failure of this step."""
        try:
            yield
        except StepFailed:
            raise
        except FirezoneError as error:
            raise StepFailed(name, str(error), self._lab.programs.get(program)) from None


class Unexpected(FirezoneError):
    """A step had another outcome than it should."""


def _expect(condition: bool, problem: str) -> None:
    if not condition:
        raise Unexpected(problem)


def _is_path(kind: str) -> Callable[[Line], bool]:
    return lambda line: line.get("event") == "path_chosen" and line.get("kind") == kind


def _path(line: Line) -> str:
    return f"{line['kind']}, to {line['remote']}"


def _shortfall(fetched: Fetched, size: int) -> str:
    return f"{fetched.body_bytes} of {size} bytes arrived; {fetched.error or 'closed early'}"


def _show_failure(failure: StepFailed) -> None:
    click.echo(f"\ndemo: failed: {failure}")
    if failure.program is not None:
        click.echo(f"\nThe end of the {failure.program.name}'s log:")
        for line in failure.program.tail().splitlines():
            click.echo(f"  {line}")


def _heading(text: str) -> None:
    click.echo()
    click.secho(text, bold=True)


def _line(label: str, detail: str, duration: str = "") -> None:
    left = f"  {label:<17} {detail}"
    room = WIDTH - len(duration) - 1
    if len(left) > room:
        left = left[: room - 3] + "..."
    click.echo(f"{left:<{room}} {duration}".rstrip())
    sys.stdout.flush()


def _ms(milliseconds: float) -> str:
    return f"{milliseconds:.0f} ms"


def _seconds(seconds: float) -> str:
    return _ms(seconds * 1000)
