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
    "status": "Show what the client, gateway or relay of this host is doing.",
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
    except _HELP_WANTED as error:
        error.show()
        return error.exit_code
    except click.UsageError as error:
        return _fail(str(_explained(error)), error.exit_code)
    except click.ClickException as error:
        return _fail(error.format_message(), error.exit_code)
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


# Of click 8.2 and later: a group without a command shows its help.
_HELP_WANTED: tuple[type[click.UsageError], ...] = tuple(
    kind for kind in [getattr(click.exceptions, "NoArgsIsHelpError", None)] if kind is not None
)


class LazyGroup(click.Group):
    """Knows its commands by name and imports `firezone.cli.<name>` only to run one."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(PROGRAMS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in PROGRAMS:
            return None
        command = getattr(importlib.import_module(f"firezone.cli.{cmd_name}"), cmd_name)
        assert isinstance(command, click.Command)
        _name_variables(command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Programs"):
            formatter.write_dl(list(PROGRAMS.items()))


def _name_variables(command: click.Command) -> None:
    """Have `--help` tell which variables of the environment stand for options."""
    for param in command.params:
        if isinstance(param, click.Option):
            param.show_envvar = param.envvar is not None
    if isinstance(command, click.Group):
        for each in command.commands.values():
            _name_variables(each)


def _show_version(ctx: click.Context, _option: click.Parameter, wanted: bool) -> None:
    if not wanted or ctx.resilient_parsing:
        return
    from importlib.metadata import PackageNotFoundError, version

    from firezone._ext import aead, x25519

    try:
        number = version("firezone")
    except PackageNotFoundError:
        number = "(not installed)"
    click.echo(f"firezone {number}")
    click.echo(f"ChaCha20-Poly1305: {aead.backend_name()}")
    click.echo(f"X25519: {x25519.backend_name()}")
    click.echo(f"Python {sys.version.split()[0]}")
    ctx.exit()


@click.group(
    cls=LazyGroup,
    subcommand_metavar="PROGRAM [ARGS]...",
    context_settings={"help_option_names": ["-h", "--help"]},
)
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


def _explained(error: click.UsageError) -> ConfigurationError:
    """click's complaint, in the one line in which all our settings are complained of."""
    program = "firezone" if error.ctx is None else error.ctx.command_path
    setting, source, problem = "command line", program, error.format_message()
    if isinstance(error, click.BadParameter) and error.param is not None:
        setting = str(error.param.human_readable_name).replace("_", "-")
        source = _source(error.param, error.ctx)
        missing = isinstance(error, click.MissingParameter)
        problem = "is missing" if missing else error.message
    problem = " ".join(problem.split()).rstrip(".")
    return ConfigurationError(setting, source, problem, f"see {program} --help")


def _source(param: click.Parameter, ctx: click.Context | None) -> str:
    """The flag or the variable that a value came from; both, if it came from nowhere."""
    flag = max(param.opts, key=len) if isinstance(param, click.Option) else "argument"
    variable = param.envvar if isinstance(param.envvar, str) else None
    source = None if ctx is None or param.name is None else ctx.get_parameter_source(param.name)
    if variable is None or source is click.core.ParameterSource.COMMANDLINE:
        return flag
    if source is click.core.ParameterSource.ENVIRONMENT:
        return variable
    return f"{flag} or {variable}"


def _fail(message: str, code: int) -> int:
    click.echo(f"firezone: {message}", err=True)
    return code
