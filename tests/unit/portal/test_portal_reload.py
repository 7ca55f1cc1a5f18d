"""Which versions of the portal file are put in force, and when."""

import asyncio
from contextlib import suppress
from pathlib import Path

import pytest
from portal_kit import CONFIG

from firezone.portal.config import Config, PortalFile
from firezone.portal.reload import Reloader, fingerprint, load

CUT = CONFIG[: CONFIG.index("[[tokens]]")]
WITH_LAB = CONFIG.replace("[sites.lab]", "[sites.lab]\n[sites.attic]")


class Watched:
    """A file that is watched, and what was put in force."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / "portal.toml"
        self.path.write_text(CONFIG)
        self.taken: list[Config] = []
        self.reloader = Reloader(self.path, self.take, loaded=fingerprint(self.path))

    def take(self, file: PortalFile) -> None:
        self.taken.append(file.accounts[""])

    def looks(self, times: int) -> int:
        """How many versions were taken up to then."""
        for _ in range(times):
            self.reloader.look()
        return len(self.taken)


@pytest.fixture
def file(tmp_path: Path) -> Watched:
    return Watched(tmp_path)


def test_a_changed_file_is_taken_once_when_it_is_quiet(file: Watched) -> None:
    assert file.looks(3) == 0
    file.path.write_text(WITH_LAB)
    assert file.looks(1) == 0
    assert file.looks(3) == 1
    assert "attic" in file.taken[0].sites


@pytest.mark.parametrize("is_asked", [False, True])
def test_a_half_written_file_is_not_taken(file: Watched, is_asked: bool) -> None:
    """What is cut off here is all the tokens."""
    assert not load_text(file.path, CUT).tokens
    if is_asked:
        file.reloader.request()
    assert file.looks(1) == 0
    file.path.write_text(WITH_LAB)
    assert file.looks(1) == 0
    assert file.looks(2) == 1
    assert file.taken[0].tokens


def test_a_file_that_changes_while_it_is_read_is_not_taken(
    file: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read(path: Path) -> PortalFile:
        config = load(path)
        path.write_text(WITH_LAB)
        return config

    file.path.write_text(CUT)
    with monkeypatch.context() as patch:
        patch.setattr("firezone.portal.reload.load", read)
        assert file.looks(2) == 0
    assert file.looks(2) == 1
    assert file.taken[0].tokens


def test_what_changed_while_the_program_started_is_noticed(tmp_path: Path) -> None:
    file = Watched(tmp_path)
    before = fingerprint(file.path)
    file.path.write_text(WITH_LAB)
    file.reloader = Reloader(file.path, file.take, loaded=before)
    assert file.looks(2) == 1


def test_a_bad_version_of_the_file_is_not_taken(
    file: Watched, caplog: pytest.LogCaptureFixture
) -> None:
    file.path.write_text(CONFIG.replace("tcp/443", "tcp/x"))
    assert file.looks(4) == 0
    assert [record.levelname for record in caplog.records].count("ERROR") == 1
    assert str(file.path) in caplog.text

    file.path.unlink()
    assert file.looks(3) == 0 and "no such file" in caplog.text
    file.path.write_text(CONFIG)
    assert file.looks(3) == 1
    file.reloader.request()
    assert file.looks(3) == 2


def test_warnings_are_logged(file: Watched, caplog: pytest.LogCaptureFixture) -> None:
    load_text(file.path, CONFIG.replace('groups = ["guests"]', "groups = []"))
    [record] = caplog.records
    assert record.levelname == "WARNING" and "no actor is in group 'guests'" in caplog.text


def test_sighup_is_answered_long_before_the_next_look(tmp_path: Path) -> None:
    async def scenario() -> None:
        file = Watched(tmp_path)
        taken = asyncio.Event()
        reloader = Reloader(
            file.path, lambda _: taken.set(), loaded=fingerprint(file.path), poll_seconds=600
        )
        task = asyncio.create_task(reloader.run())
        await asyncio.sleep(0)
        reloader.request()
        await asyncio.wait_for(taken.wait(), 5)
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task

    asyncio.run(scenario())


def load_text(path: Path, text: str) -> Config:
    path.write_text(text)
    return load(path).accounts[""]
