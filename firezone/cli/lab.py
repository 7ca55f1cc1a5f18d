"""`firezone lab`: opens the lab, starts the programs in it, and keeps it until Ctrl-C."""

from __future__ import annotations

import shlex
import signal
import sys
from typing import NoReturn

import click

from firezone.cli.lab_options import EPILOG, lab_options
from firezone.lab import Lab, topology, userns


def ensure_rights() -> None:
    """Return with the rights for a lab, perhaps in a new process."""
    userns.ensure([sys.executable, "-m", "firezone", *sys.argv[1:]])
    for number in _ENDING:
        signal.signal(number, _interrupt)


@click.command(epilog=EPILOG)
@lab_options
@click.option("--bare", is_flag=True, help="Build the network, start nothing in it.")
def lab(wanted: Lab, bare: bool) -> None:
    """Open a whole private network on this machine, until Ctrl-C.

    Needs root, or a system that lets users have namespaces of their own. Everything it makes is
    gone when it ends.
    """
    ensure_rights()
    with wanted as opened:
        if not bare:
            userns.require_tun()
            _start_all(opened)
        _explain(opened)
        try:
            signal.pause()
        except KeyboardInterrupt:
            click.echo()


def _start_all(opened: Lab) -> None:
    opened.start_resource()
    opened.start_portal()
    opened.start_relay()
    opened.start_gateway()
    opened.start_client()


def _explain(opened: Lab) -> None:
    click.echo(f"The lab {opened.name} is open. Logs and configuration: {opened.directory}\n")
    click.echo("To enter a host, in another terminal:")
    for host in opened.plan.hosts:
        click.echo(f"  {userns.enter_hint()}{shlex.join([*opened.enter_argv(host), 'bash'])}")
    click.echo(f"\nA page behind the gateway: http://{topology.RESOURCE_ALLOWED.v4}/")
    click.echo("Ctrl-C removes everything.")


_ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def _interrupt(_number: int, _frame: object) -> NoReturn:
    """End in good order, once: who presses Ctrl-C again must not stop the cleaning up."""
    for number in _ENDING:
        signal.signal(number, signal.SIG_IGN)
    raise KeyboardInterrupt
