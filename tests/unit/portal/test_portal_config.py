import os
from pathlib import Path

import pytest
from portal_kit import parse

from firezone.errors import ConfigurationError
from firezone.portal import config as portal_config
from firezone.portal.config import Filter, TokenKind
from firezone.portal.reload import load
from firezone.portal.starter import TEMPLATE, token_entry, write_starter
from firezone.portal.tokens import token_hash

HASH = "sha256:" + "0" * 64
GOOD = f"""\
[account]
slug = "acme"
upstream_dns = ["9.9.9.9", "[2620:fe::fe]:5353"]

[sites.office]

[actors.alice]
groups = ["staff"]

[resources.web]
address = "10.0.0.7"
sites = ["office"]
filters = ["tcp/443", "udp/8000-8100", "tcp", "icmp"]

[[policies]]
group = "staff"
resource = "web"

[[tokens]]
kind = "client"
actor = "alice"
expires_at = 2027-01-01T00:00:00Z
token_hash = "{HASH}"
"""


def test_a_good_file() -> None:
    config = parse(GOOD, "portal.toml")
    [web] = config.resources.values()
    assert web.address == "10.0.0.7/32"
    assert web.filters == (
        Filter("tcp", (443, 443)),
        Filter("udp", (8000, 8100)),
        Filter("tcp", None),
        Filter("icmp", None),
    )
    assert [str(server) for server in config.account.upstream_dns] == [
        "9.9.9.9:53",
        "[2620:fe::fe]:5353",
    ]
    [token] = config.tokens.values()
    assert (token.kind, token.owner, token.expires_at) == (TokenKind.CLIENT, "alice", 1798761600)
    assert HASH not in repr(config)


def test_ids_are_the_same_on_every_read() -> None:
    assert parse(GOOD, "a") == parse(GOOD, "b")


@pytest.mark.parametrize(
    ("old", "new", "line", "said"),
    [
        ('slug = "acme"', "slug = acme", 2, "syntax"),
        ('slug = "acme"', "", 1, "'slug' is missing"),
        ('slug = "acme"', "slug = 5", 2, "account.slug"),
        ('"9.9.9.9"', '"dns.example"', 3, "no DNS server"),
        ('groups = ["staff"]', "groups = [1]", 8, "no list of texts"),
        ('groups = ["staff"]', 'group = ["staff"]', 8, "no setting here"),
        ('address = "10.0.0.7"', 'address = "10.0.0.7/8"', 11, "host bits"),
        ('address = "10.0.0.7"', 'address = "100.64.0.9"', 11, "part of the tunnel's own"),
        ('address = "10.0.0.7"', 'address = "fd00:2021:1111::/64"', 11, "part of the tunnel's own"),
        ('sites = ["office"]', 'sites = ["offce"]', 12, "no site 'offce'"),
        ("tcp/443", "tcp/443-80", 13, "no filter"),
        ("tcp/443", "tcp/", 13, "no filter"),
        ("tcp/443", "icmp/8", 13, "no filter"),
        ("tcp/443", "tcp/70000", 13, "no filter"),
        ("tcp/443", "sctp", 13, "no filter"),
        ('resource = "web"', 'resource = "wbe"', 17, "no resource 'wbe'"),
        ('kind = "client"', 'kind = "admin"', 20, "is no kind"),
        ("expires_at = 2027-01-01T00:00:00Z", "", 19, "has no end"),
        ("expires_at = 2027-01-01T00:00:00Z", "expires_at = 7", 22, "date and time"),
        (HASH, "hunter2", 23, "no hash of a token"),
        ("[[policies]]", "[policies]", 15, "list of tables"),
        ("[sites.office]", "[sits.office]", 12, "no site"),
        ("[[tokens]]", '[[policies]]\ngroup = "x"\nresource = "y"\n[[tokens]]', 21, "'y'"),
    ],
)
def test_an_error_names_its_line(old: str, new: str, line: int, said: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        parse(GOOD.replace(old, new, 1), "portal.toml")
    assert f"portal.toml:{line})" in str(caught.value)
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("old", "new", "line", "said"),
    [
        ('groups = ["staff"]', "groups = []", 16, "no actor is in group 'staff'"),
        ('group = "staff"', 'group = "stuff"', 16, "no actor is in group 'stuff'"),
        ('actor = "alice"', 'actor = "malory"', 21, "no actor 'malory'"),
        ('[actors.alice]\ngroups = ["staff"]\n', "", 14, "no actor is in group 'staff'"),
    ],
)
def test_what_takes_access_away_is_only_warned_of(old: str, new: str, line: int, said: str) -> None:
    file = portal_config.parse(GOOD.replace(old, new, 1), "portal.toml")
    config = file.accounts[""]
    assert f"portal.toml:{line})" in file.warnings[0] and said in file.warnings[0]
    for token in config.tokens.values():
        assert all(not config.policies_for(token.owner, id) for id in config.resources)


def test_a_token_of_nobody_lets_nobody_in() -> None:
    file = portal_config.parse(GOOD.replace('actor = "alice"', 'actor = "malory"'), "p")
    assert not file.accounts[""].tokens and HASH not in str(file.warnings)
    twice = GOOD + GOOD[GOOD.index("[[tokens]]") :].replace("alice", "malory")
    with pytest.raises(ConfigurationError, match="stands here twice"):
        parse(twice, "p")


def test_a_file_that_is_nested_too_deeply_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="too deeply"):
        parse("a = " + "[" * 3_000, "p")


def test_a_secret_pasted_in_place_of_its_hash_is_not_repeated() -> None:
    with pytest.raises(ConfigurationError) as caught:
        parse(GOOD.replace(HASH, "hunter2"), "portal.toml")
    assert "hunter2" not in str(caught.value)


def test_a_condition_names_its_line() -> None:
    condition = (
        '[[policies.conditions]]\nproperty = "remote_ip"\noperator = "is_in_cidr"\nvalues = ["x"]'
    )
    text = GOOD.replace('resource = "web"\n', f'resource = "web"\n\n{condition}\n')
    with pytest.raises(ConfigurationError, match=r"policies\.0\.conditions\.0 \(p:19\)"):
        parse(text, "p")


def test_the_starter_is_a_good_file_and_private(tmp_path: Path) -> None:
    starter = write_starter(tmp_path / "new", os.urandom, 1_790_000_000)
    config = load(starter.config).accounts[""]
    files = [starter.client_token, starter.gateway_token, starter.relay_token]
    for kind, path in zip(TokenKind, files, strict=True):
        assert config.tokens[token_hash(path.read_text().strip())].kind is kind
        assert path.read_text().strip() not in starter.config.read_text()
    assert {p.stat().st_mode & 0o777 for p in (tmp_path / "new").iterdir()} == {0o600}
    assert len(config.policies) == 1


def test_the_starter_overwrites_nothing(tmp_path: Path) -> None:
    (tmp_path / "relay.token").write_text("precious")
    with pytest.raises(ConfigurationError, match="exists already"):
        write_starter(tmp_path, os.urandom, 0)
    assert [p.name for p in tmp_path.iterdir()] == ["relay.token"]


def test_a_minted_token_fits_into_the_file() -> None:
    text = GOOD.replace("alice", '"al\\"ice"')
    entry = token_entry("client", 'al"ice', "t", 1_790_000_000)
    config = parse(text.replace('"al\\"ice"]', '"al\\"ice"]').split("[[tokens]]")[0] + entry, "p")
    assert config.tokens[token_hash("t")].owner == 'al"ice'
    assert "{client_hash}" in TEMPLATE


def test_a_missing_or_binary_file_is_a_configuration_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="firezone portal init"):
        load(tmp_path / "none.toml")
    (tmp_path / "bad.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigurationError):
        load(tmp_path / "bad.toml")
