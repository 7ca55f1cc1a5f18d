"""The portal file of a lab is what the portal reads."""

from __future__ import annotations

from pathlib import Path

from firezone.lab.portal_file import Policy, PortalFile, Resource
from firezone.portal import config, tokens


def _read(file: PortalFile, path: Path) -> config.Config:
    file.write(path)
    return config.parse(path.read_text(), str(path)).accounts[""]


def test_the_usual_file_opens_the_web_server_only(tmp_path: Path) -> None:
    file = PortalFile.usual()
    read = _read(file, tmp_path / "portal.toml")
    assert {r.address for r in read.resources.values()} == {
        "10.20.0.80/32",
        "fd20::80/128",
        "10.20.0.81/32",
    }
    open_ids = {policy.resource_id for policy in read.policies}
    assert "vault" not in {read.resources[i].name for i in open_ids}
    for kind, token in file.tokens.items():
        assert read.tokens[tokens.token_hash(token)].kind == kind
        assert token not in (tmp_path / "portal.toml").read_text()


def test_changes_are_written(tmp_path: Path) -> None:
    file = PortalFile.usual()
    file.resources["lan"] = Resource("10.20.0.0/24")
    file.policies = [Policy("lan", expires_at=1_800_000_000)]
    del file.tokens["client"]
    read = _read(file, tmp_path / "portal.toml")
    assert [policy.expires_at for policy in read.policies] == [1_800_000_000]
    assert {str(token.kind) for token in read.tokens.values()} == {"gateway", "relay"}


def test_tokens_are_for_their_program_only(tmp_path: Path) -> None:
    file = PortalFile.usual()
    file.write_token("client", tmp_path / "token")
    assert (tmp_path / "token").read_text().strip() == file.tokens["client"]
    assert (tmp_path / "token").stat().st_mode & 0o777 == 0o600
    assert file.tokens["client"] not in repr(file)
