"""`firezone lab`: opens the lab, starts the programs in it, and keeps it until Ctrl-C."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import click

from firezone.lab import Lab, Nat, Site, topology, userns

F = TypeVar("F", bound=Callable[..., Any])

NATS = click.Choice([kind.value for kind in Nat])
OUTSIDE = click.Choice(["both", "v4", "v6"])
FAMILIES = {"both": topology.BOTH, "v4": frozenset({4}), "v6": frozenset({6})}


def site_options(f: F) -> F:
    """What stands between each site and the internet."""
    for site in ("gateway", "client"):
        f = click.option(
            f"--{site}-outside",
            type=OUTSIDE,
            default="both",
            show_default=True,
            help=f"The IP families of the {site}'s site.",
        )(f)
        f = click.option(
            f"--{site}-nat",
            type=NATS,
            default=Nat.CONE.value,
            show_default=True,
            help=f"The kind of NAT before the {site}'s site.",
        )(f)
    return click.option(
        "--directory",
        type=click.Path(path_type=Path, file_okay=False),
        help="Keep configuration and logs there. [default: a temporary directory]",
    )(f)


def site(nat: str, outside: str) -> Site:
    return Site(Nat(nat), FAMILIES[outside])


def ensure_rights() -> None:
    """Return with the rights for a lab, perhaps in a new process."""
    userns.ensure([sys.executable, "-m", "firezone", *sys.argv[1:]])
    for number in _ENDING:
        signal.signal(number, _interrupt)


@click.command()
@site_options
@click.option("--bare", is_flag=True, help="Build the network, start nothing in it.")
def lab(
    client_nat: str,
    client_outside: str,
    gateway_nat: str,
    gateway_outside: str,
    directory: Path | None,
    bare: bool,
) -> None:
    """Open a whole private network on this machine, until Ctrl-C.

    Needs root, or a system that lets users have namespaces of their own. Everything it makes is
    gone when it ends.
    """
    ensure_rights()
    with Lab(
        client=site(client_nat, client_outside),
        gateway=site(gateway_nat, gateway_outside),
        directory=directory,
    ) as opened:
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
        click.echo(f"  {userns.enter_hint()}ip netns exec {opened.namespace(host)} bash")
    click.echo(f"\nA page behind the gateway: http://{topology.RESOURCE_ALLOWED.v4}/")
    click.echo("Ctrl-C removes everything.")


_ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def _interrupt(_number: int, _frame: object) -> NoReturn:
    """End in good order, once: who presses Ctrl-C again must not stop the cleaning up."""
    for number in _ENDING:
        signal.signal(number, signal.SIG_IGN)
    raise KeyboardInterrupt
