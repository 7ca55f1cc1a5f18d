"""The portal file of a lab, as something that a test can change and write anew."""

from __future__ import annotations

import hashlib
import os
import secrets
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

from firezone.lab.topology import RESOURCE_ALLOWED, RESOURCE_DENIED

ACTOR, GROUP, SITE = "alice", "everyone", "office"


@dataclass(slots=True)
class Resource:
    """A network or DNS pattern of the site; no filters allow everything."""

    address: str
    filters: tuple[str, ...] = ()
    kind: str = "cidr"


@dataclass(slots=True)
class Policy:
    """The actor's group may use this resource. `expires_at` is Unix seconds; None is for ever."""

    resource: str
    expires_at: int | None = None


@dataclass(slots=True)
class PortalFile:
    """One account with one actor, one site and what the fields say. Change them, then `write`."""

    resources: dict[str, Resource] = field(default_factory=dict)
    policies: list[Policy] = field(default_factory=list)
    tokens: dict[str, str] = field(default_factory=dict, repr=False)
    """The tokens of client, gateway and relay. Removing one from the file shuts that role out."""

    @classmethod
    def usual(cls) -> PortalFile:
        """The web server is open on its port 80; its second address is a resource for nobody."""
        filters = ("tcp/80", "tcp/5201", "udp/5201", "icmp")
        return cls(
            resources={
                "web": Resource(str(RESOURCE_ALLOWED.v4), filters),
                "web-v6": Resource(str(RESOURCE_ALLOWED.v6), filters),
                "vault": Resource(str(RESOURCE_DENIED.v4)),
            },
            policies=[Policy("web"), Policy("web-v6")],
            tokens={kind: secrets.token_urlsafe(32) for kind in ("client", "gateway", "relay")},
        )

    def write(self, path: Path) -> None:
        """Replace the file at once, so that the portal never reads a half of it."""
        temporary = path.with_suffix(".new")
        temporary.write_text("\n".join([*self._account(), *self._rules(), *self._tokens()]) + "\n")
        os.replace(temporary, path)

    def write_token(self, kind: str, path: Path) -> None:
        """Put a token where its program reads it, for nobody else to see."""
        fd = os.open(path, os.O_CREAT | os.O_TRUNC | os.O_WRONLY, 0o600)
        with os.fdopen(fd, "w") as file:
            file.write(self.tokens[kind] + "\n")

    def _account(self) -> Iterable[str]:
        yield '[account]\nslug = "lab"'
        yield f"\n[sites.{SITE}]"
        yield f'\n[actors.{ACTOR}]\ngroups = ["{GROUP}"]'

    def _rules(self) -> Iterable[str]:
        for name, resource in self.resources.items():
            filters = ", ".join(f'"{text}"' for text in resource.filters)
            yield f'\n[resources.{name}]\ntype = "{resource.kind}"\naddress = "{resource.address}"'
            yield f'sites = ["{SITE}"]\nfilters = [{filters}]'
        for policy in self.policies:
            yield f'\n[[policies]]\ngroup = "{GROUP}"\nresource = "{policy.resource}"'
            if policy.expires_at is not None:
                yield f"expires_at = {_moment(policy.expires_at)}"

    def _tokens(self) -> Iterable[str]:
        owners = {
            # The portal demands an end of a client's token.
            "client": f'actor = "{ACTOR}"\nexpires_at = {_moment(_tomorrow())}',
            "gateway": f'site = "{SITE}"',
            "relay": "",
        }
        for kind, token in self.tokens.items():
            digest = hashlib.sha256(token.encode()).hexdigest()
            yield f'\n[[tokens]]\nkind = "{kind}"\ntoken_hash = "sha256:{digest}"\n{owners[kind]}'


def _tomorrow() -> int:
    return int((datetime.now(UTC) + timedelta(days=1)).timestamp())


def _moment(unix_seconds: int) -> str:
    return f"{datetime.fromtimestamp(unix_seconds, UTC):%Y-%m-%dT%H:%M:%SZ}"
