"""`firezone portal init` and `token`: what they write is what the portal takes."""

from __future__ import annotations

import re
import stat
from pathlib import Path

import pytest

from firezone.cli.program import run
from firezone.portal.config import Config, TokenKind
from firezone.portal.reload import load
from firezone.portal.tokens import token_hash

FILES = ["client.token", "gateway.token", "portal.toml", "relay.token"]
KINDS = {"client": "alice", "gateway": "office", "relay": ""}


def test_init_writes_a_portal_file_and_its_tokens(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    directory = tmp_path / "new" / "net"
    assert run(["portal", "init", str(directory)]) == 0
    assert sorted(path.name for path in directory.iterdir()) == FILES
    for path in directory.iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    config = load(directory / "portal.toml").accounts[""]
    for kind, owner in KINDS.items():
        assert_lets_in(config, kind, owner, (directory / f"{kind}.token").read_text().strip())
    said = capsys.readouterr().out
    for name in FILES:
        assert str(directory / name) in said


def test_init_makes_other_tokens_each_time(tmp_path: Path) -> None:
    for name in ("one", "two"):
        assert run(["portal", "init", str(tmp_path / name)]) == 0
    tokens = {path.read_text() for path in tmp_path.glob("*/*.token")}
    assert len(tokens) == 6
    assert all(len(token.strip()) >= 32 for token in tokens)


@pytest.mark.parametrize("existing", FILES)
def test_init_touches_nothing_that_exists(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], existing: str
) -> None:
    (tmp_path / existing).write_text("mine")
    assert run(["portal", "init", str(tmp_path)]) == 2
    assert [path.name for path in tmp_path.iterdir()] == [existing]
    assert (tmp_path / existing).read_text() == "mine"
    [line] = capsys.readouterr().err.splitlines()
    assert existing in line and "exists already" in line


def test_init_where_nothing_can_be_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    assert run(["portal", "init", str(tmp_path / "file" / "net")]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


@pytest.mark.parametrize(("kind", "owner"), KINDS.items())
def test_a_token_on_the_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str, owner: str
) -> None:
    """The secret goes to standard error, so that the entry can be appended to the file."""
    assert run(["portal", "init", str(tmp_path)]) == 0
    capsys.readouterr()
    assert run(["portal", "token", kind, *filter(None, [owner])]) == 0
    said = capsys.readouterr()
    shown = re.fullmatch(r"token \(shown once\): (\S+)\n", said.err)
    assert shown is not None
    assert shown[1] not in said.out
    assert_lets_in(with_entry(tmp_path / "portal.toml", said.out), kind, owner, shown[1])


@pytest.mark.parametrize(("kind", "owner"), KINDS.items())
def test_a_token_in_a_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str, owner: str
) -> None:
    assert run(["portal", "init", str(tmp_path)]) == 0
    capsys.readouterr()
    out = tmp_path / "more.token"
    arguments = ["portal", "token", kind, *filter(None, [owner]), "--out", str(out)]
    assert run(arguments) == 0
    said = capsys.readouterr()
    token = out.read_text().strip()
    assert said.err == "" and token not in said.out
    assert stat.S_IMODE(out.stat().st_mode) == 0o600
    assert_lets_in(with_entry(tmp_path / "portal.toml", said.out), kind, owner, token)
    assert run(arguments) == 2, "a file that exists is not touched"
    assert out.read_text().strip() == token


def test_an_owner_is_quoted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["portal", "init", str(tmp_path)]) == 0
    file = tmp_path / "portal.toml"
    file.write_text(file.read_text() + '\n[actors."o\\"neil"]\n')
    capsys.readouterr()
    assert run(["portal", "token", "client", 'o"neil']) == 0
    said = capsys.readouterr()
    token = said.err.split()[-1]
    assert_lets_in(with_entry(file, said.out), "client", 'o"neil', token)


@pytest.mark.parametrize(
    "arguments", [["client"], ["gateway"], ["relay", "alice"], ["router"], ["client", "a", "b"]]
)
def test_wrong_arguments(capsys: pytest.CaptureFixture[str], arguments: list[str]) -> None:
    assert run(["portal", "token", *arguments]) == 2
    said = capsys.readouterr()
    assert said.out == "" and "token" in said.err


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        (["--tls-key", "key.pem"], "--tls-cert"),
        (["--tls-cert", "absent.pem"], "absent.pem"),
        (["--tls-cert", "portal.toml"], "portal.toml"),
        (["--listen", "nowhere"], "--listen"),
        (["--listen", "192.0.2.1:8080"], "192.0.2.1:8080"),
    ],
)
def test_settings_that_cannot_be(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    options: list[str],
    problem: str,
) -> None:
    assert run(["portal", "init", str(tmp_path)]) == 0
    capsys.readouterr()
    monkeypatch.chdir(tmp_path)
    assert run(["portal", *options]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert problem in line


def with_entry(file: Path, entry: str) -> Config:
    file.write_text(f"{file.read_text()}\n{entry}")
    return load(file).accounts[""]


def assert_lets_in(config: Config, kind: str, owner: str, token: str) -> None:
    entry = config.tokens[token_hash(token)]
    assert (entry.kind, entry.owner) == (TokenKind(kind), owner)
