"""The options that say what network `firezone lab` and `firezone demo` build."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import click

from firezone.lab import Lab, LabError, Nat, Site
from firezone.lab.topology import BOTH

F = TypeVar("F", bound=Callable[..., Any])

FAMILIES = {"both": BOTH, "v4": frozenset({4}), "v6": frozenset({6})}
NAT64 = "nat64"

KINDS = {
    Nat.NONE: "a plain router",
    Nat.FULL_CONE: "lets everybody in to a port that is in use",
    Nat.RESTRICTED_CONE: "lets in hosts that were sent to, from any port",
    Nat.CONE: "lets in answers only",
    Nat.SHIFTED_FULL_CONE: "like full-cone, outer ports differ from inner ones",
    Nat.SHIFTED_RESTRICTED_CONE: "like restricted-cone, likewise",
    Nat.SHIFTED_CONE: "like cone, likewise",
    Nat.ADDRESS_SYMMETRIC: "another port for each remote address, answers only",
    Nat.OPEN_SYMMETRIC: "another port for each destination, lets everybody in",
    Nat.RESTRICTED_SYMMETRIC: "likewise, lets in hosts that were sent to",
    Nat.SYMMETRIC: "likewise, answers only",
    Nat.UDP_BLOCKED: "no UDP at all",
}

_KIND = click.Choice([kind.value for kind in Nat])
_PATH_MTU = click.IntRange(1280, 1500)
EPILOG = "\b\nKinds of NAT (KIND):\n" + "\n".join(
    f"  {k.value:<23} {text}" for k, text in KINDS.items()
)


def lab_options(f: F) -> F:
    """Gives the command a Lab, not opened yet, in the place of these options."""

    @functools.wraps(f)
    def run(**given: Any) -> Any:
        names = [name for name in given if name.startswith(_PREFIXES)]
        return f(_lab(**{name: given.pop(name) for name in names}), **given)

    decorated: Any = run
    for option in reversed([*_site("client"), *_site("gateway"), *_OTHERS]):
        decorated = option(decorated)
    return decorated  # type: ignore[no-any-return]


_PREFIXES = ("client_", "gateway_", "shared_nat", "one_port", "public", "directory")

_OTHERS = [
    click.option(
        "--shared-nat",
        is_flag=True,
        help="Put the gateway behind the client's NAT, too, in a network of its own. They meet "
        "directly if that hairpins.",
    ),
    click.option(
        "--one-port",
        is_flag=True,
        help="The relay has one port for all allocations (`firezone relay --one-port`).",
    ),
    click.option(
        "--public",
        type=click.Choice([*FAMILIES]),
        default="both",
        show_default=True,
        help="The IP families of the portal and the relay.",
    ),
    click.option(
        "--directory",
        type=click.Path(path_type=Path, file_okay=False),
        help="Keep configuration and logs there. [default: a temporary directory]",
    ),
]


def _site(name: str) -> Iterator[Callable[[F], F]]:
    yield click.option(
        f"--{name}-nat",
        type=_KIND,
        metavar="KIND",
        default=Nat.CONE.value,
        show_default=True,
        help=f"The NAT before the {name}'s network.",
    )
    yield click.option(
        f"--{name}-carrier-nat",
        type=_KIND,
        metavar="KIND",
        help="Another one, of its provider, before that. [default: there is none]",
    )
    yield click.option(
        f"--{name}-outside",
        type=click.Choice([*FAMILIES, NAT64]),
        default="both",
        show_default=True,
        help="Its IP families; nat64 is IPv6 alone, translated to IPv4.",
    )
    yield click.option(
        f"--{name}-hairpin",
        is_flag=True,
        help="The NAT turns round what is sent to its own outer address.",
    )
    yield click.option(
        f"--{name}-path-mtu",
        type=_PATH_MTU,
        metavar="BYTES",
        help="Larger packets do not pass, and the router says so.",
    )


def _lab(
    *, shared_nat: bool, one_port: bool, public: str, directory: Path | None, **given: Any
) -> Lab:
    if shared_nat:
        _refuse_gateway_options()
    try:
        return Lab(
            client=_site_of("client", given),
            gateway=None if shared_nat else _site_of("gateway", given),
            shared_nat=shared_nat,
            one_port=one_port,
            public_families=FAMILIES[public],
            directory=directory,
        )
    except LabError as error:
        raise click.UsageError(str(error)) from None


def _refuse_gateway_options() -> None:
    context = click.get_current_context()
    for name in context.params:
        source = context.get_parameter_source(name)
        if name.startswith("gateway_") and source is not click.core.ParameterSource.DEFAULT:
            raise click.UsageError("with --shared-nat the options of the client say it all")


def _site_of(name: str, given: dict[str, Any]) -> Site:
    carrier, outside = given[f"{name}_carrier_nat"], given[f"{name}_outside"]
    return Site(
        Nat(given[f"{name}_nat"]),
        FAMILIES["v6" if outside == NAT64 else outside],
        carrier=None if carrier is None else Nat(carrier),
        hairpin=given[f"{name}_hairpin"],
        path_mtu=given[f"{name}_path_mtu"],
        nat64=outside == NAT64,
    )
