"""Reads the networks that a relay may or may not send to from a file: `allow` or `deny` and one
network per line."""

from __future__ import annotations

from ipaddress import ip_network
from pathlib import Path

from firezone.errors import ConfigurationError
from firezone.turn.relay_peers import PeerPolicy


def read_peers(path: Path, setting: str, policy: PeerPolicy) -> PeerPolicy:
    """The policy with the file's networks besides its own. Empty lines and those that begin with
    `#` count for nothing.

    `setting` says where `path` was set. Raises ConfigurationError for what cannot be read.
    """
    try:
        lines = path.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(
            "peers", f"{setting} {path}", f"cannot be read: {error}", "create it"
        ) from None
    for number, line in enumerate(lines, 1):
        if line.strip() and not line.startswith("#"):
            policy = _with_line(policy, line, f"{path}:{number}")
    return policy


def _with_line(policy: PeerPolicy, line: str, where: str) -> PeerPolicy:
    verdict, _, text = line.strip().partition(" ")
    try:
        network = ip_network(text.strip())
        if verdict not in ("allow", "deny"):
            raise ValueError(f"{verdict!r} is neither allow nor deny")
    except ValueError as error:
        raise ConfigurationError("peers", where, str(error), "write deny 192.0.2.0/24") from None
    is_allowed = verdict == "allow"
    return policy.with_networks((network,) if is_allowed else (), () if is_allowed else (network,))
