"""The lab's web server and what gets its pages, over loopback."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest

from firezone.lab import fetch as fetch_module
from firezone.lab.fetch import fetch
from firezone.lab.web_server import PAGE, Handler, Server


@pytest.fixture
def port(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    monkeypatch.setattr(Handler, "log_message", lambda *_: None)
    server = Server(("::", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server.server_address[1]
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.mark.parametrize("host", ["127.0.0.1", "[::1]"])
def test_a_page(port: int, host: str) -> None:
    fetched = fetch(f"http://{host}:{port}/", 1)
    assert (fetched.status, fetched.error) == (200, "")
    assert fetched.page == PAGE.decode()
    assert 0 < fetched.connected_ms <= fetched.first_byte_ms <= fetched.total_ms


def test_a_download(port: int) -> None:
    fetched = fetch(f"http://127.0.0.1:{port}/bytes/1000001", 1)
    assert fetched.body_bytes == 1_000_001
    assert fetched.megabits_per_second > 0


@pytest.mark.parametrize("path", ["/none", "/bytes/x", "/bytes/-1"])
def test_what_is_not_there(port: int, path: str) -> None:
    assert fetch(f"http://127.0.0.1:{port}{path}", 1).status == 404


def test_a_closed_port() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        fetched = fetch(f"http://127.0.0.1:{unused.getsockname()[1]}/", 1)
    assert (fetched.status, fetched.error) == (0, "ECONNREFUSED")


def test_silence_is_a_timeout() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        fetched = fetch(f"http://127.0.0.1:{silent.getsockname()[1]}/", 0.01)
    assert fetched.status == 0
    assert "Timeout" in fetched.error or fetched.error == "ETIMEDOUT"


def test_it_runs_without_the_package(port: int) -> None:
    argv = [sys.executable, "-I", str(fetch_module.__file__), f"http://127.0.0.1:{port}/"]
    done = subprocess.run(argv, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout)["status"] == 200
    assert done.stderr == ""
