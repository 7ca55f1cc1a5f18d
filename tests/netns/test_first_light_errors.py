"""Wrong input to the real programs: one line on standard error, and the right exit code."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from firezone.durations import SECOND
from firezone.lab import Lab
from firezone.lab.topology import CLIENT

PEERS = pytest.mark.parametrize("kind", ["client", "gateway"])
WITHOUT_RIGHTS = ["setpriv", "--bounding-set", "-net_admin", "--inh-caps", "-net_admin"]


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with Lab() as lab:
        lab.start_portal()
        yield lab


@pytest.fixture
def token(tmp_path: Path) -> Path:
    """A token that no portal knows."""
    path = tmp_path / "token"
    path.touch(mode=0o600)
    path.write_text("nobody-knows-this\n")
    return path


@PEERS
@pytest.mark.parametrize(
    "url", ["nonsense", "ftp://portal", "ws://", "ws://[::1", "ws://portal:70000", ""]
)
def test_a_wrong_url(lab: Lab, token: Path, kind: str, url: str) -> None:
    line = fails(lab, 2, kind, token, api_url=url)
    assert "--api-url or FIREZONE_API_URL" in line


@PEERS
def test_a_missing_token(lab: Lab, tmp_path: Path, kind: str) -> None:
    line = fails(lab, 2, kind, tmp_path / "absent")
    assert "FIREZONE_TOKEN" in line and str(tmp_path / "absent") in line


@PEERS
def test_a_token_that_others_can_read(lab: Lab, token: Path, kind: str) -> None:
    token.chmod(0o644)
    line = fails(lab, 2, kind, token)
    assert f"chmod 600 {token}" in line
    assert "nobody-knows-this" not in line


@PEERS
def test_an_unknown_token(lab: Lab, token: Path, kind: str) -> None:
    line = fails(lab, 1, kind, token)
    assert line == "firezone: the portal refused us: HTTP 401: invalid token"


@PEERS
def test_a_missing_right(lab: Lab, token: Path, kind: str) -> None:
    line = fails(lab, 1, kind, token, before=WITHOUT_RIGHTS)
    assert "CAP_NET_ADMIN" in line


@PEERS
@pytest.mark.parametrize("content", [None, "", "no certificate"])
def test_a_wrong_ca(lab: Lab, token: Path, tmp_path: Path, kind: str, content: str | None) -> None:
    ca = tmp_path / "ca.pem"
    if content is not None:
        ca.write_text(content)
    line = fails(lab, 2, kind, token, "--ca", str(ca))
    assert "--ca or FIREZONE_CA" in line


@PEERS
def test_a_wrong_interface_name(lab: Lab, token: Path, kind: str) -> None:
    assert "x/y" in fails(lab, 2, kind, token, "--interface", "x/y")


@pytest.mark.parametrize("address", ["nowhere", "127.0.0.1", "127.0.0.1:port", "192.0.2.1:8080"])
def test_a_wrong_health_check_address(lab: Lab, token: Path, address: str) -> None:
    line = fails(lab, 2, "gateway", token, "--health-check-addr", address)
    assert "--health-check-addr or HEALTH_CHECK_ADDR" in line


def test_a_wrong_duration(lab: Lab, token: Path) -> None:
    line = fails(lab, 2, "client", token, "--max-partition-time", "soon")
    assert "MAX_PARTITION_TIME" in line


def test_a_portal_that_stays_away(lab: Lab, token: Path) -> None:
    """This may heal, so it is tried for as long as was asked, and each try is logged."""
    url = "ws://203.0.113.10:1"
    done = run(lab, "client", token, "--max-partition-time", "1s", api_url=url)
    assert done.returncode == 1
    *tries, last = done.stderr.splitlines()
    assert last.startswith("firezone: gave up connecting to the portal: ")
    assert tries and all("portal unreachable" in line for line in tries)


def test_a_portal_that_speaks_no_tls(lab: Lab, token: Path) -> None:
    url = lab.portal_url(frozenset({4})).replace("ws:", "wss:")
    done = run(lab, "client", token, "--max-partition-time", "1s", api_url=url)
    assert done.returncode == 1
    assert not done.stderr.strip().endswith(":"), "an error without a text"


@pytest.mark.parametrize(
    ("text", "line", "problem"),
    [
        ("[account\n", 1, "TOML"),
        ('[account]\nslug = "a"\n\n[sites.a]\n[resources.r]\naddress = "10.0.0.0/99"\n', 6, "/99"),
        ('[account]\nslug = "a"\n[tokens]\n', 3, "tokens"),
        ('[account]\nslug = "a"\nslag = "a"\n', 3, "slag"),
    ],
)
def test_a_wrong_portal_file(lab: Lab, tmp_path: Path, text: str, line: int, problem: str) -> None:
    file = tmp_path / "portal.toml"
    file.write_text(text)
    done = execute(lab, ["portal", "--config", str(file)])
    assert done.returncode == 2
    assert f"{file}:{line}" in only_line(done) and problem in only_line(done)


def test_a_missing_portal_file(lab: Lab, tmp_path: Path) -> None:
    done = execute(lab, ["portal", "--config", str(tmp_path / "portal.toml")])
    assert done.returncode == 2
    assert "firezone portal init" in only_line(done)


def fails(
    lab: Lab,
    code: int,
    kind: str,
    token: Path,
    *arguments: str,
    api_url: str | None = None,
    before: list[str] | None = None,
) -> str:
    """The one line that a program says; it must end with this code."""
    done = run(lab, kind, token, *arguments, api_url=api_url, before=before)
    assert done.returncode == code, done.stderr
    return only_line(done)


def run(
    lab: Lab,
    kind: str,
    token: Path,
    *arguments: str,
    api_url: str | None = None,
    before: list[str] | None = None,
) -> subprocess.CompletedProcess[str]:
    url = lab.portal_url(frozenset({4})) if api_url is None else api_url
    options = ["--api-url", url, "--token-path", str(token), "--firezone-id", "id"]
    return execute(lab, [kind, *options, *arguments], before)


def execute(
    lab: Lab, arguments: list[str], before: list[str] | None = None
) -> subprocess.CompletedProcess[str]:
    argv = [*(before or []), sys.executable, "-m", "firezone", *arguments]
    return lab.exec(CLIENT, argv, timeout=10 * SECOND)


def only_line(done: subprocess.CompletedProcess[str]) -> str:
    assert done.stdout == ""
    [line] = done.stderr.splitlines()
    assert "Traceback" not in line
    return line
