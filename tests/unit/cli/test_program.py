"""The frame of the command: lazy, and errors become one line and an exit code."""

from __future__ import annotations

import subprocess
import sys
from types import SimpleNamespace

import click
import pytest

from firezone.cli import program
from firezone.errors import ConfigurationError, LocalError, MissingRightsError


def _with_command(monkeypatch: pytest.MonkeyPatch, error: BaseException | None) -> None:
    @click.command()
    def client() -> None:
        if error is not None:
            raise error

    module = SimpleNamespace(client=client)
    monkeypatch.setattr(program.importlib, "import_module", lambda _name: module)


@pytest.mark.parametrize(
    ("arguments", "variable"),
    [
        (["relay"], "EBPF_OFFLOADING"),
        (["client"], "FIREZONE_API_URL"),
        (["gateway"], "FIREZONE_NO_MASQUERADE"),
        (["portal"], "FIREZONE_PORTAL_LISTEN"),
        (["wg", "up"], "FIREZONE_WORKERS"),
    ],
)
def test_help_names_the_variables(
    arguments: list[str], variable: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert program.run([*arguments, "--help"]) == 0
    assert f"env var: {variable}" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize(
    ("error", "code", "text"),
    [
        (None, 0, ""),
        (
            ConfigurationError("api url", "--api-url", "is wrong", "mend it"),
            2,
            "firezone: api url (--api-url): is wrong; mend it\n",
        ),
        (MissingRightsError("CAP_NET_ADMIN", "open a TUN device"), 1, "CAP_NET_ADMIN is needed"),
        (LocalError("failed"), 1, "firezone: failed\n"),
        (click.UsageError("no such thing"), 2, "no such thing"),
        (KeyboardInterrupt(), 130, ""),
        (SystemExit(3), 3, ""),
    ],
)
def test_exit_codes(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    error: BaseException | None,
    code: int,
    text: str,
) -> None:
    _with_command(monkeypatch, error)
    try:
        assert program.run(["client"]) == code
    except SystemExit as ended:
        assert ended.code == code
    output = capsys.readouterr()
    assert output.out == ""
    assert text in output.err
    if code in (0, 130):
        assert output.err.strip() == ""


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (
            ["client", "--log-format", "x"],
            "log-format (--log-format): 'x' is not one of 'human', 'json'; "
            "see firezone client --help",
        ),
        (
            ["relay", "--listen-port", "0"],
            "listen-port (--listen-port): 0 is not in the range 1<=x<=65535; "
            "see firezone relay --help",
        ),
        (
            ["portal", "token"],
            "KIND (argument): is missing; see firezone portal token --help",
        ),
        (
            ["portal", "token", "client"],
            "command line (firezone portal token): client takes an ACTOR; "
            "see firezone portal token --help",
        ),
        (
            ["client", "--interfaze", "x"],
            "command line (firezone client): No such option '--interfaze'. Did you mean "
            "'--interface'?; see firezone client --help",
        ),
    ],
)
def test_a_wrong_command_line_is_one_line(
    capsys: pytest.CaptureFixture[str], arguments: list[str], line: str
) -> None:
    assert program.run(arguments) == 2
    shown = capsys.readouterr().err
    if "No such option" in line:  # versions of click word it differently
        assert shown.count("\n") == 1 and "--interfaze" in shown and "--interface" in shown
    else:
        assert shown == f"firezone: {line}\n"


def test_a_wrong_variable_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LOG_FORMAT", "x")
    assert program.run(["client"]) == 2
    assert capsys.readouterr().err.startswith("firezone: log-format (LOG_FORMAT): 'x' is not")


def test_no_program_at_all_shows_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    program.run([])
    shown = capsys.readouterr()
    assert "Programs" in shown.out + shown.err


def test_check_checks_the_interface_name(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FIREZONE_TOKEN", "token")
    options = ["client", "--api-url", "ws://portal", "--firezone-id", "id", "--check"]
    assert program.run([*options, "--interface", "x/y"]) == 2
    shown = capsys.readouterr()
    assert "interface (--interface or FIREZONE_INTERFACE): 'x/y'" in shown.err
    monkeypatch.setenv("FIREZONE_TOKEN", "token")  # it was taken out of the environment
    assert program.run(options) == 0
    assert capsys.readouterr().out == "configuration: ok\n"


def test_an_unknown_program(capsys: pytest.CaptureFixture[str]) -> None:
    assert program.run(["cleint"]) == 2
    assert "cleint" in capsys.readouterr().err


def test_help_imports_no_program() -> None:
    script = (
        "import sys; from firezone.cli.program import run\n"
        "assert run(['--help']) == 0\n"
        "loaded = {m for m in sys.modules if m.startswith(('firezone.', 'asyncio'))}\n"
        "allowed = {'firezone.cli', 'firezone.cli.program', 'firezone.errors'}\n"
        "assert loaded <= allowed, loaded"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for name in program.PROGRAMS:
        assert f"  {name} " in done.stdout


def test_version_names_the_cipher() -> None:
    argv = [sys.executable, "-m", "firezone", "--version"]
    done = subprocess.run(argv, capture_output=True, text=True)
    assert done.stdout.startswith("firezone ")
    assert "ChaCha20-Poly1305: " in done.stdout
