"""The first portal file, with one of each: actor, site, resource, policy, and their tokens."""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec

from firezone.errors import ConfigurationError
from firezone.model import Entropy
from firezone.portal.tokens import mint, token_hash

CLIENT_TOKEN_LIFE = timedelta(days=365)


@dataclass(frozen=True, slots=True)
class Starter:
    """The files that were written."""

    config: Path
    client_token: Path
    gateway_token: Path
    relay_token: Path


def write_starter(directory: Path, entropy: Entropy, unix_now: int) -> Starter:
    """Write the files, mode 0600; none that exists is touched. Raises ConfigurationError."""
    starter = Starter(
        directory / "portal.toml",
        directory / "client.token",
        directory / "gateway.token",
        directory / "relay.token",
    )
    secrets = [mint(entropy) for _ in range(3)]
    files = [starter.client_token, starter.gateway_token, starter.relay_token]
    client_hash, gateway_hash, relay_hash = map(token_hash, secrets)
    text = TEMPLATE.format(
        client_hash=client_hash,
        gateway_hash=gateway_hash,
        relay_hash=relay_hash,
        expires_at=_timestamp(unix_now),
    )
    try:
        directory.mkdir(parents=True, exist_ok=True)
        for path in (starter.config, *files):
            if path.exists():
                raise FileExistsError(17, "exists already", str(path))
        for path, content in zip([*files, starter.config], [*secrets, text], strict=True):
            write_private(path, content.rstrip("\n") + "\n")
    except OSError as error:
        raise ConfigurationError(
            "DIR",
            str(error.filename or directory),
            error.strerror or str(error),
            "give another directory, or move the file away",
        ) from None
    return starter


def write_private(path: Path, content: str) -> None:
    """A new file that only its owner may read. Raises OSError."""
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        file.write(content)


def token_entry(kind: str, owner: str, token: str, unix_now: int) -> str:
    """The `[[tokens]]` that lets a token in."""
    # A JSON string is a TOML basic string, too.
    quoted = msgspec.json.encode(owner).decode()
    lines = ["[[tokens]]", f'kind = "{kind}"']
    if kind == "client":
        lines += [f"actor = {quoted}", f"expires_at = {_timestamp(unix_now)}"]
    elif kind == "gateway":
        lines.append(f"site = {quoted}")
    lines.append(f'token_hash = "{token_hash(token)}"')
    return "\n".join(lines)


def _timestamp(unix_now: int) -> str:
    moment = datetime.fromtimestamp(unix_now, UTC) + CLIENT_TOKEN_LIFE
    return f"{moment:%Y-%m-%dT%H:%M:%SZ}"


TEMPLATE = """\
# Who may reach what. The portal reads this file again whenever it changes, or on SIGHUP. A version
# with an error is reported with its line, and what was in force before stays in force. A program
# that writes this file should write another one and rename it, so that no half of it is ever read.

[account]
slug = "home"
# The DNS servers that clients use for names that are no resource, as seen from the client.
# upstream_dns = ["9.9.9.9", "[2620:fe::fe]:53"]
# search_domain = "corp.example"

# Sites: places with gateways. Every gateway of a site can reach the site's resources.
[sites.office]

# Actors: people or machines that run a client, and the groups that policies speak of.
[actors.alice]
groups = ["everyone"]

# Resources: what can be reached. `address` is a network, or a single IP address.
# `filters` lists what is allowed; without it everything is.
[resources.intranet]
type = "cidr"
address = "10.0.0.0/24"
sites = ["office"]
filters = ["tcp/80", "tcp/443", "icmp"]

# Policies: a group may use a resource. Optionally until a moment, and while conditions hold.
[[policies]]
group = "everyone"
resource = "intranet"
# expires_at = 2027-01-31T00:00:00Z
# [[policies.conditions]]
# property = "remote_ip"                 # where the client connects from
# operator = "is_in_cidr"                # or is_not_in_cidr
# values = ["192.0.2.0/24"]
# [[policies.conditions]]
# property = "current_utc_datetime"      # M T W R F S U are Monday to Sunday
# operator = "is_in_day_of_week_time_ranges"
# values = ["M/08:00-17:00/Europe/Berlin", "S/true/UTC"]

# Tokens: only their hashes stand here. Mint more with `firezone portal token`. A token that is
# removed from this file closes the connections it opened and lets nobody in.
[[tokens]]
kind = "client"
actor = "alice"
expires_at = {expires_at}
token_hash = "{client_hash}"

[[tokens]]
kind = "gateway"
site = "office"
token_hash = "{gateway_hash}"

[[tokens]]
kind = "relay"
token_hash = "{relay_hash}"
"""
