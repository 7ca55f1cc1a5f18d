"""What several programs have in common on the command line."""

from __future__ import annotations

import socket
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from firezone.errors import ConfigurationError
from firezone.shell import logs

if TYPE_CHECKING:
    import ssl

    from firezone.shell.health import HealthAddress
    from firezone.shell.status_socket import StatusAddress

DEFAULT_API_URL = "wss://api.firezone.dev"

RELAY_SOCKET = "relay"
"""What stands in the name of a relay's status socket, as it has no interface."""

F = TypeVar("F", bound=Callable[..., Any])


def portal_options(f: F) -> F:
    """How a program finds the portal and who it says it is."""
    for option in reversed(
        (
            click.option(
                "-u",
                "--api-url",
                envvar="FIREZONE_API_URL",
                default=DEFAULT_API_URL,
                show_default=True,
                help="The portal: ws://host:port or wss://host.",
            ),
            click.option(
                "-n",
                "--firezone-name",
                envvar="FIREZONE_NAME",
                help="The name people see in the portal. [default: the host name]",
            ),
            click.option(
                "-i",
                "--firezone-id",
                envvar="FIREZONE_ID",
                help="The id of this device. [default: kept in a file]",
            ),
            interface_option,
        )
    ):
        f = option(f)
    return f


def log_options(f: F) -> F:
    """What is logged, and how."""
    f = click.option(
        "--log-level",
        help="As in `info` or `warn,firezone.ice=debug`. [env: FIREZONE_LOG, RUST_LOG]",
    )(f)
    return click.option(
        "--log-format",
        envvar="LOG_FORMAT",
        type=click.Choice(["human", "json"]),
        default="human",
        show_default=True,
        help="Lines for people, or one JSON object a line.",
    )(f)


def set_up_logs(log_format: logs.Format, log_level: str | None) -> None:
    logs.setup(log_format, log_level)


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


def streams_option(f: F) -> F:
    """Whether relays may be reached by other means than UDP."""
    return click.option(
        "--streams/--no-streams",
        envvar="FIREZONE_RELAY_STREAMS",
        default=True,
        show_default=True,
        help="Reach relays over TCP 3478 or TLS 443 where no UDP gets through.",
    )(f)


def host_candidates_option(f: F) -> F:
    """Whether peers get to know how this host is reached on other networks than the internet."""
    return click.option(
        "--host-candidates/--no-host-candidates",
        envvar="FIREZONE_HOST_CANDIDATES",
        default=True,
        show_default=True,
        help="Tell peers the addresses of this host's interfaces, to meet on networks they share.",
    )(f)


def offload_options(f: F) -> F:
    """What the kernel does in bulk: to find out whether it is to blame."""
    f = click.option(
        "--no-offload",
        "without",
        multiple=True,
        metavar="NAME",
        help="Do without one; may be repeated.",
    )(f)
    return click.option(
        "--offload",
        envvar="FIREZONE_OFFLOAD",
        default="all",
        show_default=True,
        metavar="NAMES",
        help="What the kernel may do for many packets at once: all, none, or some of "
        "tun-tso,tun-uso,tun-coalesce,udp-gso,udp-gro.",
    )(f)


def workers_option(f: F) -> F:
    """How many cores the data plane may use."""
    return click.option(
        "--workers",
        envvar="FIREZONE_WORKERS",
        type=int,
        metavar="N",
        help="Pairs of threads that carry packets. [default: half of the cores, 1 below 4]",
    )(f)


def busy_poll_option(f: F) -> F:
    """Cores to spare, for latency."""
    return click.option(
        "--busy-poll",
        envvar="FIREZONE_BUSY_POLL",
        type=click.IntRange(0, 1000),
        default=0,
        show_default=True,
        metavar="MICROSECONDS",
        help="How long a data thread looks for more packets before it sleeps, while they come that "
        "fast. Wants cores that have nothing else to do.",
    )(f)


def tunnel_options(f: F) -> F:
    """How a program reaches its peers, carries packets and tells of itself."""
    for option in (
        log_options,
        busy_poll_option,
        workers_option,
        offload_options,
        status_socket_option,
        host_candidates_option,
        streams_option,
    ):
        f = option(f)
    return f


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


def host_name() -> str:
    return socket.gethostname().partition("\0")[0]
