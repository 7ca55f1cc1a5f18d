"""`firezone portal`: the embedded control plane, from a file of policy."""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from firezone.cli.options import (
    Logs,
    check_option,
    log_options,
    server_tls_context,
    tell_ok,
)
from firezone.errors import ConfigurationError, LocalError
from firezone.model import Endpoint

if TYPE_CHECKING:
    from firezone.portal.starter import Starter

_PATH = click.Path(path_type=Path)


@click.group(invoke_without_command=True)
@click.option(
    "--config",
    envvar="FIREZONE_PORTAL_CONFIG",
    type=_PATH,
    default="portal.toml",
    show_default=True,
    help="The portal file: who may reach what.",
)
@click.option(
    "--state",
    envvar="FIREZONE_PORTAL_STATE",
    type=_PATH,
    help="The database of identities and flows. [default: portal.db next to the portal file]",
)
@click.option(
    "--listen",
    envvar="FIREZONE_PORTAL_LISTEN",
    default="0.0.0.0:8080",
    show_default=True,
    help="Address and port to serve on; [::]:8080 takes both families.",
)
@click.option(
    "--tls-cert",
    envvar="FIREZONE_PORTAL_TLS_CERT",
    type=_PATH,
    help="The certificate chain, PEM. Without it the portal speaks plain ws://.",
)
@click.option(
    "--tls-key", envvar="FIREZONE_PORTAL_TLS_KEY", type=_PATH, help="Its private key, PEM."
)
@check_option
@log_options
@click.pass_context
def portal(
    ctx: click.Context,
    config: Path,
    state: Path | None,
    listen: str,
    tls_cert: Path | None,
    tls_key: Path | None,
    check: bool,
    log: Logs,
) -> int:
    """Decide who may reach what, and bring the peers together.

    Serves GET /healthz besides the peers. The portal file is read again when it changes and on
    SIGHUP; a version with an error is not taken. Start with: firezone portal init
    """
    if ctx.invoked_subcommand is not None:
        return 0
    from firezone.portal.program import Settings, run_portal
    from firezone.portal.reload import load

    log.set_up()
    settings = Settings(
        config=config,
        state=state or config.with_name("portal.db"),
        listen=_endpoint(listen),
        ssl_context=server_tls_context(tls_cert, tls_key),
    )
    if check:
        load(config)
        tell_ok()
        return 0
    asyncio.run(run_portal(settings))
    return 0


@portal.command(short_help="Write a first portal file, and a token for each program.")
@click.argument("directory", type=_PATH, default=".", metavar="[DIR]")
def init(directory: Path) -> None:
    """Write a first portal file to DIR, with a token each for a client, a gateway and a relay."""
    from firezone.portal.starter import write_starter

    starter = write_starter(directory, os.urandom, int(time.time()))
    click.echo(_next_steps(starter))


@portal.command()
@click.argument("kind", type=click.Choice(["client", "gateway", "relay"]))
@click.argument("owner", required=False, metavar="[ACTOR|SITE]")
@click.option(
    "--out",
    type=_PATH,
    help="Write the token to this new file, mode 0600. [default: to standard error]",
)
def token(kind: str, owner: str | None, out: Path | None) -> None:
    """Mint a token for a client of ACTOR, a gateway of SITE, or a relay.

    Prints the entry for the portal file, which holds only the token's hash.
    """
    from firezone.portal.starter import token_entry, write_private
    from firezone.portal.tokens import mint

    if (owner is None) is not (kind == "relay"):
        wanted = {"client": "an ACTOR", "gateway": "a SITE", "relay": "nothing more"}[kind]
        raise click.UsageError(f"{kind} takes {wanted}")
    text = mint(os.urandom)
    if out is None:
        click.echo(f"token (shown once): {text}", err=True)
    else:
        try:
            write_private(out, text + "\n")
        except OSError as error:
            problem = error.strerror or str(error)
            raise ConfigurationError(
                "out", "--out", f"{out}: {problem}", "name a new file"
            ) from None
    click.echo(token_entry(kind, owner or "", text, int(time.time())))


def _next_steps(starter: Starter) -> str:
    api = "ws://PORTAL:8080"
    return f"""\
wrote {starter.config}
      {starter.client_token}, {starter.gateway_token}, {starter.relay_token}

Edit the resource's address in {starter.config}, then run, PORTAL being this host's address:

  firezone portal --config {starter.config}
  firezone relay --public-ip4-addr ADDRESS --api-url {api} --token-path {starter.relay_token}
  firezone gateway --api-url {api} --token-path {starter.gateway_token}
  firezone client --api-url {api} --token-path {starter.client_token}"""


def _endpoint(text: str) -> Endpoint:
    try:
        return Endpoint.parse(text)
    except LocalError as error:
        raise ConfigurationError(
            "listen", "--listen or FIREZONE_PORTAL_LISTEN", str(error), "give it as 0.0.0.0:8080"
        ) from None
