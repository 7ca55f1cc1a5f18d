"""What several programs have in common on the command line."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from firezone.errors import ConfigurationError
from firezone.shell import logs

if TYPE_CHECKING:
    import ssl

    from firezone.shell.health import HealthAddress
    from firezone.shell.offload import Offloads
    from firezone.shell.status_socket import StatusAddress

RELAY_SOCKET = "relay"
"""What stands in the name of a relay's status socket, as it has no interface."""

F = TypeVar("F", bound=Callable[..., Any])


def group(name: str, kind: type, *options: Callable[[Any], Any]) -> Callable[[F], F]:
    """A decorator that adds options and hands them over as one argument, a `kind`."""

    def decorate(f: F) -> F:
        @functools.wraps(f)
        def gathered(**given: Any) -> Any:
            values = {each.name: given.pop(each.name) for each in fields(kind)}
            return f(**given, **{name: kind(**values)})

        for option in reversed(options):
            gathered = option(gathered)
        return gathered  # type: ignore[return-value]

    return decorate


@dataclass(frozen=True, slots=True)
class Logs:
    """What is logged, and how."""

    log_format: logs.Format
    log_level: str | None

    def set_up(self) -> None:
        """Raises ConfigurationError."""
        logs.setup(self.log_format, self.log_level)


log_options = group(
    "log",
    Logs,
    click.option(
        "--log-format",
        envvar="LOG_FORMAT",
        type=click.Choice(["human", "json"]),
        default="human",
        show_default=True,
        help="Lines for people, or one JSON object a line.",
    ),
    click.option(
        "--log-level",
        help="As in `info` or `warn,firezone.ice=debug`. [env: FIREZONE_LOG, RUST_LOG]",
    ),
)


def api_url_option(**more: Any) -> Callable[[F], F]:
    """Where the portal is."""
    return click.option(
        "-u",
        "--api-url",
        envvar="FIREZONE_API_URL",
        help="The portal: ws://host:port or wss://host.",
        **more,
    )


def token_option(default: str) -> Callable[[F], F]:
    """Where the token is, unless FIREZONE_TOKEN holds it."""
    return click.option(
        "--token-path",
        envvar="FIREZONE_TOKEN_PATH",
        type=click.Path(path_type=Path),
        default=default,
        show_default=True,
        help="The file with the token, unless FIREZONE_TOKEN holds it.",
    )


def check_option(f: F) -> F:
    """For what is about to be deployed."""
    return click.option("--check", is_flag=True, help="Check the configuration and exit.")(f)


def tell_ok() -> None:
    """That `check_option` found nothing."""
    click.echo("configuration: ok")


def ca_option(f: F) -> F:
    """Whose certificates the portal may show."""
    return click.option(
        "--ca",
        envvar="FIREZONE_CA",
        type=click.Path(path_type=Path),
        help="Trust only the certificates in this PEM file for the portal. [default: the system's]",
    )(f)


@dataclass(frozen=True, slots=True)
class Threads:
    """How packets are carried."""

    offload: str
    without: tuple[str, ...]
    workers: int | None
    busy_poll: int
    """In microseconds."""

    def offloads(self) -> Offloads:
        """Raises ConfigurationError."""
        from firezone.shell.offload import parse_offloads

        return parse_offloads(self.offload, self.without)

    def pairs(self) -> int:
        """Raises ConfigurationError."""
        from firezone.shell.workers import choose_workers

        return choose_workers(self.workers)


thread_options = group(
    "threads",
    Threads,
    click.option(
        "--offload",
        envvar="FIREZONE_OFFLOAD",
        default="all",
        show_default=True,
        metavar="NAMES",
        help="What the kernel may do for many packets at once: all, none, or some of "
        "tun-tso,tun-uso,tun-coalesce,udp-gso,udp-gro.",
    ),
    click.option(
        "--no-offload",
        "without",
        multiple=True,
        metavar="NAME",
        help="Do without one; may be repeated.",
    ),
    click.option(
        "--workers",
        envvar="FIREZONE_WORKERS",
        type=int,
        metavar="N",
        help="Pairs of threads that carry packets. [default: half of the cores, 1 below 4]",
    ),
    click.option(
        "--busy-poll",
        envvar="FIREZONE_BUSY_POLL",
        type=click.IntRange(0, 1000),
        default=0,
        show_default=True,
        metavar="MICROSECONDS",
        help="How long a data thread looks for more packets before it sleeps, while they come that "
        "fast. Wants cores that have nothing else to do.",
    ),
)


def health_option(f: F) -> F:
    """Where to answer health checks."""
    return click.option(
        "--health-check-addr",
        envvar="HEALTH_CHECK_ADDR",
        default="0.0.0.0:8080",
        show_default=True,
        help="Where to answer GET /healthz and /readyz; empty for nowhere.",
    )(f)


def health_address(text: str) -> HealthAddress | None:
    """What `health_option` says, None for nowhere. Raises ConfigurationError.

    A port that is taken is an error only where somebody chose it.
    """
    from firezone.shell.health import HealthAddress

    if not text:
        return None
    host, _, port = text.rpartition(":")
    if not host or not port.isdecimal() or int(port) > 65535:
        raise ConfigurationError(
            "health check address",
            "--health-check-addr or HEALTH_CHECK_ADDR",
            f"{text!r} is no address and port",
            "write it like 0.0.0.0:8080 or [::]:8080",
        )
    source = click.get_current_context().get_parameter_source("health_check_addr")
    optional = source is click.core.ParameterSource.DEFAULT
    return HealthAddress(host.strip("[]"), int(port), optional)


def server_tls_context(cert: Path | None, key: Path | None) -> ssl.SSLContext | None:
    """What to serve TLS with; None if there is no certificate. Raises ConfigurationError."""
    import ssl

    if cert is None and key is None:
        return None
    if cert is None:
        raise ConfigurationError("tls-cert", "--tls-cert", "is missing", "give it with --tls-key")
    try:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(cert, key)
    except (OSError, ssl.SSLError) as error:
        raise ConfigurationError(
            "tls-cert", f"{cert}", str(error), "give a PEM certificate and its key"
        ) from None
    return context


def interface_option(f: F) -> F:
    """The tunnel's own network device."""
    return click.option(
        "--interface",
        envvar="FIREZONE_INTERFACE",
        default="tun-firezone",
        show_default=True,
        help="The name of the TUN interface.",
    )(f)


def status_socket_option(f: F) -> F:
    """Where a running program answers questions about itself."""
    return click.option(
        "--status-socket",
        envvar="FIREZONE_STATUS_SOCKET",
        help="The Unix socket for `firezone status`. "
        "[default: /run/firezone/<interface>-<network namespace>.sock]",
    )(f)


def status_path(text: str | None, interface: str) -> Path:
    """The socket that `status_socket_option` means."""
    from firezone.shell.status_socket import default_path

    return Path(text) if text else default_path(interface)


def status_address(text: str | None, interface: str) -> StatusAddress | None:
    """The same for who serves it: an empty text is nowhere."""
    from firezone.shell.status_socket import StatusAddress

    if text == "":
        return None
    return StatusAddress(status_path(text, interface), optional=text is None)


def json_option(f: F) -> F:
    """For programs that report."""
    return click.option("--json", "json_", is_flag=True, help="Print one JSON object.")(f)


def echo_json(report: object) -> None:
    """Print a report as `json_option` promises."""
    import msgspec

    click.echo(msgspec.json.format(msgspec.json.encode(report)).decode())
