"""Identity and journal survive what they should, and complain about what they must."""

from __future__ import annotations

from pathlib import Path

import pytest

from firezone.errors import ConfigurationError
from firezone.shell import state
from firezone.shell.state import Journal, device_id, namespace_identity, replace_file


def test_the_id_is_made_once(tmp_path: Path) -> None:
    path = tmp_path / "config" / "firezone-id.json"
    made = device_id(path)
    assert len(made) == 64
    assert device_id(path) == made
    assert path.stat().st_mode & 0o777 == 0o640


def test_an_id_of_the_original_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "firezone-id.json"
    path.write_text('{"id": "ab-cd", "extra": 1}')
    assert device_id(path) == "ab-cd"


@pytest.mark.parametrize("content", ["", "{}", '{"id": 1}', "[]", "\xff"])
def test_a_damaged_id_is_not_overwritten(tmp_path: Path, content: str) -> None:
    path = tmp_path / "firezone-id.json"
    path.write_text(content)
    with pytest.raises(ConfigurationError, match="device id"):
        device_id(path)
    assert path.read_text() == content


def test_the_journal_keeps_originals_until_cleared(tmp_path: Path) -> None:
    journal = Journal("test", tmp_path)
    assert journal.read() == {}
    journal.write({"net/ipv4/ip_forward": "0"})
    assert Journal("test", tmp_path).read() == {"net/ipv4/ip_forward": "0"}
    assert Journal("other", tmp_path).read() == {}
    journal.clear()
    journal.clear()
    assert journal.read() == {}


def test_a_journal_of_another_namespace_is_not_restored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its number is this one's by now, but the values are not."""
    Journal("test", tmp_path).write({"net/ipv4/ip_forward": "0"})
    mine = namespace_identity()
    monkeypatch.setattr(state, "namespace_identity", lambda: f"{mine}0")
    assert Journal("test", tmp_path).read() == {}
    monkeypatch.undo()
    assert Journal("test", tmp_path).read() == {"net/ipv4/ip_forward": "0"}


def test_the_identity_of_a_namespace_lasts() -> None:
    assert namespace_identity() == namespace_identity()


def test_a_damaged_journal_is_an_empty_one(tmp_path: Path) -> None:
    journal = Journal("test", tmp_path)
    journal.write({"a": "b"})
    next(tmp_path.iterdir()).write_text("{")
    assert journal.read() == {}


def test_files_are_replaced_with_the_mode_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "secret"
    replace_file(path, b"one", 0o600)
    replace_file(path, b"two", 0o600)
    assert path.read_bytes() == b"two"
    assert path.stat().st_mode & 0o777 == 0o600
    assert list(tmp_path.iterdir()) == [path]
