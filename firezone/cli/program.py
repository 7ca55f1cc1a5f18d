"""The frame of the `firezone` command: finds a program, and turns its errors into exit codes.

Exit codes: 0 done, 1 failed, 2 wrong arguments or configuration, 130 interrupted.
"""

from __future__ import annotations

import importlib
import os
import sys
from typing import NoReturn

import click

from firezone.errors import ConfigurationError, FirezoneError, MissingRightsError

PROGRAMS = {
    "client": "Join a private network as a client.",
    "gateway": "Lead clients to the resources of a site.",
    "relay": "Relay traffic between peers that cannot reach each other.",
    "portal": "Decide who may reach what, and bring the peers together.",
    "wg": "Run a WireGuard interface by itself, without a portal.",
    "status": "Show what the client or gateway of this host is doing.",
    "explain": "Tell why packets to a peer take the path they take.",
    "netcheck": "Find out what the network of this host lets through.",
    "lab": "Open a whole private network on this machine.",
    "demo": "Show the whole system at work on this machine.",
}


def main() -> NoReturn:
    """Run the command line of this process and exit."""
    sys.exit(run(sys.argv[1:]))


def run(arguments: list[str]) -> int:
    """Run one command line; returns the exit code. Errors become one line on stderr."""
    try:
        result = firezone.main(arguments, prog_name="firezone", standalone_mode=False)
        return result if isinstance(result, int) else 0
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except ConfigurationError as error:
        return _fail(str(error), 2)
    except MissingRightsError as error:
        return _fail(str(error), 1)
    except FirezoneError as error:
        return _fail(str(error), 1)
    except ValueError as error:
        # The kernels know none of our exceptions: they name their variable of the environment.
        if not str(error).startswith("FIREZONE_AEAD: "):
            raise
        return _fail(str(error), 2)
    except (click.Abort, KeyboardInterrupt):
        return 130
    except BrokenPipeError:
        # Whoever read our output went away. Python would complain once more when it flushes.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


class LazyGroup(click.Group):
    """Knows its commands by name and imports `firezone.cli.<name>` only to run one."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(PROGRAMS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in PROGRAMS:
            return None
        command = getattr(importlib.import_module(f"firezone.cli.{cmd_name}"), cmd_name)
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Programs"):
            formatter.write_dl(list(PROGRAMS.items()))


def _show_version(ctx: click.Context, _option: click.Parameter, wanted: bool) -> None:
    if not wanted or ctx.resilient_parsing:
        return
    from importlib.metadata import PackageNotFoundError, version

    from firezone._ext.aead import backend_name

    try:
        number = version("firezone")
    except PackageNotFoundError:
        number = "(not installed)"
    click.echo(f"firezone {number}")
    click.echo(f"ChaCha20-Poly1305: {backend_name()}")
    click.echo(f"Python {sys.version.split()[0]}")
    ctx.exit()


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_show_version,
    help="Show the versions and the cipher in use, and exit.",
)
def firezone() -> None:
    """Zero-trust access: WireGuard tunnels set up on the fly under a portal's policy.

    `firezone PROGRAM --help` tells the options of each.
    """


def _fail(message: str, code: int) -> int:
    click.echo(f"firezone: {message}", err=True)
    return code
