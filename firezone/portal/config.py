"""The portal file: who may reach what. An account has actors, sites, resources and policies.

A file for one account has its settings in `[account]` and all else at the top. One for several has
a table `[accounts.NAME]` for each, with everything of that account below it; what stands at the top
then is the tokens of relays that serve them all.

Reading it is all or nothing: a file with one error changes nothing that is in force. Ids that
peers see are derived from the account's slug and the name of a thing, unless the file gives an
`id`, so they are the same on every read.

What takes access away must be taken at once, however it is written: a group that lost its last
member, or a token that outlived its actor, is worth a warning and no more.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from ipaddress import ip_address, ip_network

from firezone.errors import LocalError
from firezone.model import Endpoint
from firezone.policy.addresses import RESERVED
from firezone.portal import conditions, tokens
from firezone.portal.conditions import Condition
from firezone.portal.toml_table import Table

_NAMESPACE = uuid.UUID("9b3f3b0e-6d0c-5a52-8f6a-4d1f5d0c7e21")
_FILTER_PROTOCOLS = ("tcp", "udp", "icmp")
_IP_STACKS = ("dual", "ipv4_only", "ipv6_only")
_DNS_PORT = 53


class TokenKind(StrEnum):
    """Whom a token lets in; its value is the topic."""

    CLIENT = "client"
    GATEWAY = "gateway"
    RELAY = "relay"


@dataclass(frozen=True, slots=True)
class Account:
    slug: str
    disabled: bool
    upstream_dns: tuple[Endpoint, ...]
    search_domain: str | None


@dataclass(frozen=True, slots=True)
class Site:
    id: str
    name: str


@dataclass(frozen=True, slots=True)
class Filter:
    """Allows a protocol; `ports` is inclusive, None for all."""

    protocol: str
    ports: tuple[int, int] | None


@dataclass(frozen=True, slots=True)
class Resource:
    """`kind` is cidr, dns or internet; the latter has no address."""

    id: str
    name: str
    kind: str
    address: str | None
    description: str | None
    ip_stack: str | None
    sites: tuple[Site, ...]
    filters: tuple[Filter, ...]

    @property
    def target(self) -> str:
        """What flows lead to: when it changes they end."""
        return f"{self.kind} {self.address} {self.ip_stack}"


@dataclass(frozen=True, slots=True)
class Actor:
    name: str
    groups: frozenset[str]
    disabled: bool


@dataclass(frozen=True, slots=True)
class Policy:
    """Members of the group may use the resource while all conditions hold."""

    group: str
    resource_id: str
    conditions: tuple[Condition, ...]
    expires_at: int | None
    disabled: bool


@dataclass(frozen=True, slots=True)
class Token:
    """`owner` is the actor of a client, the site of a gateway, empty for a relay."""

    kind: TokenKind
    owner: str
    hash: str
    expires_at: int | None

    def is_live(self, unix_now: int) -> bool:
        return self.expires_at is None or unix_now < self.expires_at


@dataclass(frozen=True, slots=True)
class Config:
    """One account. Resources and tokens are found by id and hash."""

    account: Account
    sites: Mapping[str, Site]
    actors: Mapping[str, Actor]
    resources: Mapping[str, Resource]
    policies: tuple[Policy, ...]
    tokens: Mapping[str, Token] = field(repr=False)

    def policies_for(self, actor: str, resource_id: str) -> list[Policy]:
        """Those that link the actor with the resource, whatever their conditions say."""
        found = self.actors.get(actor)
        if found is None or found.disabled:
            return []
        return [
            policy
            for policy in self.policies
            if not policy.disabled
            and policy.resource_id == resource_id
            and policy.group in found.groups
        ]


@dataclass(frozen=True, slots=True)
class PortalFile:
    """One reading of the file. The account of a file for one has the name ""."""

    accounts: Mapping[str, Config]
    warnings: tuple[str, ...] = field(default=(), compare=False)

    def accounts_of(self, hash: str) -> list[str]:
        """The names of the accounts that a token leads to."""
        return [name for name, config in self.accounts.items() if hash in config.tokens]


def parse(text: str, file: str) -> PortalFile:
    """Reads the text of a portal file. Raises ConfigurationError with `file:line`."""
    root = Table.parse(text, file)
    notes = _Notes()
    tables = list(root.named("accounts"))
    if tables:
        # Without actors and sites only relays can have a token here.
        relays = _tokens(root, {}, {}, notes)
        accounts = {name: _config(table, table, name, relays, notes) for name, table in tables}
    else:
        accounts = {"": _config(root.table("account"), root, None, {}, notes)}
    root.finish()
    if len({config.account.slug for config in accounts.values()}) < len(accounts):
        raise root.error(("accounts",), "two have the same slug", "leave slug out to use the name")
    return PortalFile(accounts, tuple(notes.warnings))


@dataclass(slots=True)
class _Notes:
    """What reading the file brought up: warnings, and the hashes of all tokens so far."""

    warnings: list[str] = field(default_factory=list)
    hashes: set[str] = field(default_factory=set, repr=False)


def _config(
    settings: Table, root: Table, slug: str | None, relays: Mapping[str, Token], notes: _Notes
) -> Config:
    """An account, whose settings may stand in a table of their own."""
    account = _account(settings, slug)
    if settings is not root:
        settings.finish()
    sites = {name: _site(table, name, account) for name, table in root.named("sites")}
    actors = {name: _actor(table, name) for name, table in root.named("actors")}
    resources = {
        name: _resource(table, name, account, sites) for name, table in root.named("resources")
    }
    groups = {group for actor in actors.values() for group in actor.groups}
    policies = tuple(_policy(table, groups, resources, notes) for table in root.array("policies"))
    by_hash = _tokens(root, actors, sites, notes)
    root.finish()
    by_id = {resource.id: resource for resource in resources.values()}
    if len(by_id) < len(resources):
        raise root.error(("resources",), "two have the same id", "leave id out to derive one")
    return Config(account, sites, actors, by_id, policies, {**relays, **by_hash})


def _account(table: Table, slug: str | None) -> Account:
    given = table.text("slug") if slug is None else table.optional_text("slug")
    upstream = tuple(_dns_server(table, text) for text in table.texts("upstream_dns"))
    return Account(
        given or slug or "",
        table.flag("disabled"),
        upstream,
        table.optional_text("search_domain"),
    )


def _dns_server(table: Table, text: str) -> Endpoint:
    try:
        return Endpoint(ip_address(text), _DNS_PORT)
    except ValueError:
        pass
    try:
        return Endpoint.parse(text)
    except LocalError:
        raise table.error(
            ("upstream_dns",), f"{text!r} is no DNS server", "write an IP address, or ip:port"
        ) from None


def _site(table: Table, name: str, account: Account) -> Site:
    site = Site(_id(table, account, "site", name), name)
    table.finish()
    return site


def _actor(table: Table, name: str) -> Actor:
    actor = Actor(name, frozenset(table.texts("groups")), table.flag("disabled"))
    table.finish()
    return actor


def _id(table: Table, account: Account, kind: str, name: str) -> str:
    given = table.optional_text("id")
    if given is None:
        return str(uuid.uuid5(_NAMESPACE, f"{account.slug}/{kind}/{name}"))
    try:
        return str(uuid.UUID(given))
    except ValueError:
        raise table.error(("id",), f"{given!r} is no UUID", "leave it out to derive one") from None


def _resource(table: Table, name: str, account: Account, sites: Mapping[str, Site]) -> Resource:
    kind = table.optional_text("type") or "cidr"
    if kind not in ("cidr", "dns", "internet"):
        raise table.error(("type",), f"{kind!r} is no type", "use cidr, dns or internet")
    resource = Resource(
        id=_id(table, account, "resource", name),
        name=table.optional_text("name") or name,
        kind=kind,
        address=None if kind == "internet" else _address(table, kind),
        description=table.optional_text("description"),
        ip_stack=_ip_stack(table),
        sites=tuple(_known(table, "sites", site, sites) for site in table.texts("sites")),
        filters=tuple(_filter(table, text) for text in table.texts("filters")),
    )
    table.finish()
    return resource


def _address(table: Table, kind: str) -> str:
    text = table.text("address")
    if kind == "dns":
        return text
    try:
        network = ip_network(text)
    except ValueError as error:
        raise table.error(
            ("address",), str(error), "write a network as 10.0.0.0/24, or a single IP address"
        ) from None
    for reserved in RESERVED:
        inside = network.overlaps(reserved) and network.prefixlen >= reserved.prefixlen
        if inside:
            problem = f"{text} is part of the tunnel's own {reserved}"
            raise table.error(("address",), problem, "use another network")
    return str(network)


def _ip_stack(table: Table) -> str | None:
    stack = table.optional_text("ip_stack")
    if stack is not None and stack not in _IP_STACKS:
        raise table.error(("ip_stack",), f"{stack!r} is none", f"use one of {_IP_STACKS}")
    return stack


def _filter(table: Table, text: str) -> Filter:
    """`tcp`, `tcp/443`, `udp/8000-8100`, `icmp`."""
    protocol, slash, ports = text.partition("/")
    first, dash, last = ports.partition("-")
    span = _ports(first, last if dash else first) if slash else None
    if protocol not in _FILTER_PROTOCOLS or (slash and (span is None or protocol == "icmp")):
        raise table.error(
            ("filters",), f"{text!r} is no filter", "write tcp/443, udp/8000-8100, tcp or icmp"
        )
    return Filter(protocol, span)


def _ports(first: str, last: str) -> tuple[int, int] | None:
    if not (first.isdecimal() and last.isdecimal()):
        return None
    start, end = int(first), int(last)
    return (start, end) if 1 <= start <= end <= 0xFFFF else None


def _known(table: Table, key: str, name: str, known: Mapping[str, Site]) -> Site:
    if name not in known:
        raise table.error((key,), f"there is no site {name!r}", f"add [sites.{name}]")
    return known[name]


def _policy(
    table: Table, groups: set[str], resources: Mapping[str, Resource], notes: _Notes
) -> Policy:
    group, resource = table.text("group"), table.text("resource")
    if resource not in resources:
        raise table.error(
            ("resource",), f"there is no resource {resource!r}", f"add [resources.{resource}]"
        )
    if group not in groups:
        remedy = "add it to the groups of an actor, or remove the policy"
        notes.warnings.append(
            str(table.error(("group",), f"no actor is in group {group!r}", remedy))
        )
    policy = Policy(
        group=group,
        resource_id=resources[resource].id,
        conditions=tuple(_condition(entry) for entry in table.array("conditions")),
        expires_at=table.moment("expires_at"),
        disabled=table.flag("disabled"),
    )
    table.finish()
    return policy


def _condition(table: Table) -> Condition:
    property, operator = table.text("property"), table.text("operator")
    values = table.texts("values")
    table.finish()
    try:
        return conditions.parse(property, operator, values)
    except ValueError as error:
        raise table.error((), str(error), "correct the condition") from None


def _tokens(
    root: Table, actors: Mapping[str, Actor], sites: Mapping[str, Site], notes: _Notes
) -> dict[str, Token]:
    """By hash. Those of unknown actors are left out, so they let nobody in."""
    by_hash: dict[str, Token] = {}
    for table in root.array("tokens"):
        token = _token(table, sites)
        if token.hash in notes.hashes:
            raise table.error(("token_hash",), "stands here twice", "mint another token")
        notes.hashes.add(token.hash)
        if token.kind is TokenKind.CLIENT and token.owner not in actors:
            problem, remedy = f"there is no actor {token.owner!r}", "remove the token"
            notes.warnings.append(str(table.error(("actor",), problem, remedy)))
        else:
            by_hash[token.hash] = token
    return by_hash


def _token(table: Table, sites: Mapping[str, Site]) -> Token:
    kind, hash = table.text("kind"), table.text("token_hash")
    if kind not in set(TokenKind):
        raise table.error(("kind",), f"{kind!r} is no kind", "use client, gateway or relay")
    if not tokens.is_hash(hash):
        raise table.error(
            ("token_hash",), "is no hash of a token", "make one with: firezone portal token"
        )
    owner = _owner(table, TokenKind(kind), sites)
    expires_at = table.moment("expires_at")
    if kind == TokenKind.CLIENT and expires_at is None:
        raise table.error(
            (), "a client's token has no end", "add expires_at = 2027-01-31T00:00:00Z"
        )
    table.finish()
    return Token(TokenKind(kind), owner, hash, expires_at)


def _owner(table: Table, kind: TokenKind, sites: Mapping[str, Site]) -> str:
    match kind:
        case TokenKind.CLIENT:
            return table.text("actor")
        case TokenKind.GATEWAY:
            return _known(table, "site", table.text("site"), sites).name
        case TokenKind.RELAY:
            return ""
