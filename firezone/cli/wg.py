"""`firezone wg`: a WireGuard interface of this host, on our data plane."""

from __future__ import annotations

import logging
import os
import select
import signal
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import click

from firezone.cli.options import (
    Logs,
    Threads,
    check_option,
    log_options,
    tell_ok,
    thread_options,
)
from firezone.durations import MICROSECOND
from firezone.errors import ConfigurationError, FirezoneError
from firezone.shell import logs

if TYPE_CHECKING:
    from firezone.shell.wg_interface import OnUp
    from firezone.wireguard import Config, DeviceStatus, ServiceStatus

_DOWN_SECONDS = 10

logger = logging.getLogger(__name__)


class WgError(FirezoneError):
    """The command cannot be carried out."""


@click.group()
def wg() -> None:
    """Run a WireGuard interface by itself, without a portal.

    Reads the files of wg-quick(8), and is shown and changed by wg(8) like any other.
    """


@wg.command(short_help="Bring up an interface from its file.")
@click.argument("conf")
@click.option("--detach", is_flag=True, help="Return as soon as the interface is up.")
@click.option(
    "--log-file",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Where to log once detached. [default: syslog]",
)
@check_option
@thread_options
@log_options
def up(
    conf: str,
    detach: bool,
    log_file: Path | None,
    check: bool,
    threads: Threads,
    log: Logs,
) -> int:
    """Bring up the interface of CONF, a file or the NAME of /etc/wireguard/NAME.conf.

    Serves it until SIGTERM, SIGINT or `firezone wg down`, and leaves nothing behind. SIGHUP is
    ignored.
    """
    from firezone.shell.wg_interface import CONFIG_DIRECTORY, read_config, run_interface

    if log_file is not None and not detach:
        raise click.UsageError("--log-file is for --detach; otherwise redirect stderr")
    pairs, offloads = threads.pairs(), threads.offloads()
    is_file = "/" in conf or conf.endswith(".conf")
    path = Path(conf) if is_file else CONFIG_DIRECTORY / f"{conf}.conf"
    name, config = read_config(path)
    log.set_up()
    _warn(path, config)
    if check:
        tell_ok()
        return 0
    spin = threads.busy_poll * MICROSECOND
    if not detach:
        run_interface(name, config, offloads=offloads, workers=pairs, busy_poll=spin)
        return 0
    return _detached(
        lambda on_up: run_interface(name, config, on_up, offloads, pairs, spin),
        None if log_file is None else _open_log(log_file),
        log.log_format,
    )


@wg.command()
@click.argument("name")
def down(name: str) -> int:
    """Take down an interface that `firezone wg` serves."""
    from firezone.shell.wg_control import process_of, service_of

    pid = process_of(name)
    if service_of(name) is None:
        raise WgError(f"{name}: another program serves it, process {pid}; end it by its own means")
    try:
        handle = os.pidfd_open(pid)
        signal.pidfd_send_signal(handle, signal.SIGTERM)
    except ProcessLookupError:
        return 0
    except PermissionError:
        raise WgError(f"{name}: process {pid} is another user's") from None
    ended, _, _ = select.select([handle], [], [], _DOWN_SECONDS)
    os.close(handle)
    if not ended:
        raise WgError(f"{name}: process {pid} does not end")
    return 0


@wg.command()
@click.argument("name", required=False)
@click.option("--json", "as_json", is_flag=True, help="One JSON document.")
def show(name: str | None, as_json: bool) -> int:
    """Show an interface, or all of them.

    One of all that does not answer is told on stderr, and the exit code is 1.
    """
    import msgspec

    from firezone.cli import wg_show
    from firezone.shell.wg_control import ControlError, names

    found, failed = [], False
    for each in [name] if name is not None else names():
        try:
            found.append(_asked(each))
        except ControlError as error:
            if name is not None:
                raise
            click.echo(f"firezone: {error}", err=True)
            failed = True
    if as_json:
        documents = [wg_show.as_json(*each) for each in found]
        click.echo(msgspec.json.encode(documents if name is None else documents[0]).decode())
    else:
        now = time.time_ns()
        texts = (wg_show.as_text(each, status, now, service) for each, status, service in found)
        click.echo("\n\n".join(texts))
    return int(failed)


def _asked(name: str) -> tuple[str, DeviceStatus, ServiceStatus | None]:
    from firezone.shell.wg_control import ask, service_of
    from firezone.wireguard import parse_status

    return name, parse_status(ask(name, b"get=1\n\n")), service_of(name)


def _warn(path: Path, config: Config) -> None:
    if path.stat().st_mode & 0o007:
        click.echo(f"firezone: warning: {path} holds keys and is open to everyone", err=True)
    if config.interface.dns:
        click.echo(f"firezone: warning: {path}: DNS is not applied; use PostUp for it", err=True)
    if config.interface.save_config:
        click.echo(f"firezone: warning: {path}: SaveConfig: this file is never written", err=True)


def _detached(serve: Callable[[OnUp], None], log: int | None, log_format: logs.Format) -> int:
    """Serve in a process of its own; returns when that is up, or its exit code if it fails.

    Its complaints go to our stderr until it is up, and to `log` or syslog afterwards.
    """
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        os.setsid()
        return _serve_on(serve, lambda tell: _let_go(writing, log, log_format, tell))
    os.close(writing)
    with open(reading, "rb") as pipe:
        if pipe.read(1):
            return 0
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status)


def _serve_on(serve: Callable[[OnUp], None], let_go: OnUp) -> int:
    """Once let go, nobody but the log is there to be told of the end."""
    gone: list[bool] = []

    def on_up(tell: Callable[[], None]) -> None:
        let_go(tell)
        gone.append(True)

    try:
        serve(on_up)
    except Exception as error:
        if not gone:
            raise
        is_ours = isinstance(error, FirezoneError)
        logger.error("the interface has ended: %s", error, exc_info=None if is_ours else error)
        return 1
    return 0


def _open_log(path: Path) -> int:
    try:
        return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise ConfigurationError(
            "log file", "--log-file", f"{path}: {error.strerror}", "choose another file"
        ) from None


def _let_go(pipe: int, log: int | None, log_format: logs.Format, tell: Callable[[], None]) -> None:
    """Whoever reads only the log is told, too, that the interface is up."""
    sys.stdout.flush()
    nowhere = os.open(os.devnull, os.O_RDWR)
    for fd in range(3):
        os.dup2(nowhere if log is None or fd == 0 else log, fd)
    os.close(nowhere)
    logs.move(logging.StreamHandler() if log is not None else logs.syslog_handler(), log_format)
    tell()
    with suppress(BrokenPipeError):
        os.write(pipe, b"1")
    os.close(pipe)
