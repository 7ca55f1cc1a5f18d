"""Makes the gateway's host forward: lets clients' packets out to the site, under its own address.

Packets of clients leave the TUN device with tunnel addresses that nobody in the site knows, so
they are masqueraded. All rules are in a table of our own, which goes away at once when we do; what
cannot be in it are accept rules in the chains of others, which carry a comment to be found by.
Kernel parameters get their old values back, after a crash at the next start.
"""

from __future__ import annotations

import logging
import subprocess
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path
from typing import Any

import msgspec

from firezone.errors import ConfigurationError, FirezoneError, MissingRightsError
from firezone.shell.state import RUNTIME_DIRECTORY, Journal

TUNNEL_V4 = IPv4Network("100.64.0.0/11")
TUNNEL_V6 = IPv6Network("fd00:2021:1111::/107")
"""Where the tunnel addresses of clients and gateways come from."""

PARAMETERS = {
    "net/ipv4/ip_forward": "1",
    "net/ipv4/conf/all/src_valid_mark": "1",
    "net/ipv6/conf/all/disable_ipv6": "0",
    "net/ipv6/conf/all/forwarding": "1",
    "net/ipv6/conf/default/forwarding": "1",
}


class NatError(FirezoneError):
    """nftables refused our rules."""


class GatewayNat:
    """Forwarding between a TUN device and the rest of the host, from construction to `close`.

    Construct it after `open_tun`: owning the device proves that no live instance uses these rules.
    Raises ConfigurationError without nft, MissingRightsError without CAP_NET_ADMIN.
    """

    def __init__(self, interface: str, journal_directory: Path = RUNTIME_DIRECTORY) -> None:
        self._interface = interface
        self._table = f"firezone-{interface}"
        self._journal = Journal(f"nat-{interface}", journal_directory)
        self.repair()
        try:
            self._set_parameters()
            _nft([_add("table", self._table_object()), *self._own_rules(), *self._foreign_rules()])
        except BaseException:
            self.close()
            raise

    def repair(self) -> None:
        """Undo what a crashed run left."""
        _nft([_add("table", self._table_object()), {"delete": {"table": self._table_object()}}])
        for rule in _rules():
            if rule.get("comment") == self._table:
                place = {k: rule[k] for k in ("family", "table", "chain", "handle")}
                _nft([{"delete": {"rule": place}}])
        for name, value in self._journal.read().items():
            if name in PARAMETERS:
                _write_parameter(name, value)
        self._journal.clear()

    def close(self) -> None:
        """Undo everything. What cannot be undone is logged; closing goes on."""
        try:
            self.repair()
        except FirezoneError as error:
            logger.warning("forwarding rules are left behind", extra={"error": str(error)})

    def _set_parameters(self) -> None:
        originals = {name: value for name in PARAMETERS if (value := _read_parameter(name))}
        changed = {name: v for name, v in originals.items() if v != PARAMETERS[name]}
        if changed:
            self._journal.write(changed)
        for name in changed:
            _write_parameter(name, PARAMETERS[name])

    def _table_object(self) -> _Json:
        return {"family": "inet", "name": self._table}

    def _own_rules(self) -> list[_Json]:
        chain = {"family": "inet", "table": self._table, "name": "postrouting"}
        hook = {"type": "nat", "hook": "postrouting", "prio": 100, "policy": "accept"}
        return [
            _add("chain", chain | hook),
            *(
                _add(
                    "rule",
                    {
                        "family": "inet",
                        "table": self._table,
                        "chain": "postrouting",
                        "expr": [
                            _match({"meta": {"key": "oifname"}}, self._interface, "!="),
                            _match(_source(network), _prefix(network)),
                            {"masquerade": None},
                        ],
                    },
                )
                for network in (TUNNEL_V4, TUNNEL_V6)
            ),
        ]

    def _foreign_rules(self) -> list[_Json]:
        """A packet must pass every table, so an accept in ours does not help in one that drops.

        Docker and others set the policy of such chains to drop; ours is let through there.
        """
        rules = []
        for chain in _dropping_forward_chains():
            for side in ("iifname", "oifname"):
                rules.append(
                    {
                        "insert": {
                            "rule": {
                                "family": chain["family"],
                                "table": chain["table"],
                                "chain": chain["name"],
                                "comment": self._table,
                                "expr": [
                                    _match({"meta": {"key": side}}, self._interface),
                                    {"accept": None},
                                ],
                            }
                        }
                    }
                )
        return rules


logger = logging.getLogger(__name__)

_Json = dict[str, Any]


def _add(kind: str, what: _Json) -> _Json:
    return {"add": {kind: what}}


def _match(left: _Json, right: Any, operator: str = "==") -> _Json:
    return {"match": {"op": operator, "left": left, "right": right}}


def _source(network: IPv4Network | IPv6Network) -> _Json:
    return {"payload": {"protocol": "ip" if network.version == 4 else "ip6", "field": "saddr"}}


def _prefix(network: IPv4Network | IPv6Network) -> _Json:
    return {"prefix": {"addr": str(network.network_address), "len": network.prefixlen}}


def _dropping_forward_chains() -> list[_Json]:
    listed = _nft([{"list": {"chains": None}}])
    chains = [entry["chain"] for entry in listed if "chain" in entry]
    return [
        chain
        for chain in chains
        if chain.get("hook") == "forward"
        and chain.get("policy") == "drop"
        and chain["family"] in ("ip", "ip6", "inet")
    ]


def _rules() -> list[_Json]:
    return [entry["rule"] for entry in _nft([{"list": {"ruleset": None}}]) if "rule" in entry]


def _nft(commands: list[_Json]) -> list[_Json]:
    """Run commands of libnftables-json(5), all or nothing; returns what was listed."""
    try:
        done = subprocess.run(
            ["nft", "-j", "-f", "-"],
            input=msgspec.json.encode({"nftables": commands}),
            capture_output=True,
        )
    except FileNotFoundError:
        raise ConfigurationError(
            "forwarding", "nft", "not found", "install it (apt-get install nftables)"
        ) from None
    if b"Operation not permitted" in done.stderr:
        raise MissingRightsError("CAP_NET_ADMIN", "set up forwarding on this host")
    if done.returncode != 0:
        raise NatError(f"nft: {done.stderr.decode(errors='replace').strip()}")
    return _listed(done.stdout)


def _listed(output: bytes) -> list[_Json]:
    if not output.strip():
        return []
    listed: list[_Json] = msgspec.json.decode(output)["nftables"]
    return listed


def _read_parameter(name: str) -> str | None:
    try:
        return Path("/proc/sys", name).read_text().strip()
    except OSError:
        return None  # a kernel without IPv6 has no such parameter


def _write_parameter(name: str, value: str) -> None:
    try:
        Path("/proc/sys", name).write_text(value)
    except OSError as error:
        # Containers often mount these read-only, set as they should be from outside.
        context = {"parameter": name, "value": value, "error": error.strerror}
        logger.warning("cannot set a kernel parameter", extra=context)
