"""What nobody foresaw is logged without its words, and ends no more than it must."""

import asyncio
import logging
import os
from pathlib import Path

import pytest
import test_portal_server as served

from firezone.model import Endpoint
from firezone.phoenix import Hiccup
from firezone.phoenix.messages import client
from firezone.portal import control_plane as control_plane_module
from firezone.portal import server as server_module
from firezone.portal.control_plane import ControlPlane
from firezone.portal.failures import PortalFailed, describe
from firezone.portal.program import Settings, run_portal
from firezone.portal.starter import write_starter

SECRET = "sha256:5ec7e7"


def fail(*_: object) -> None:
    raise KeyError(SECRET)


def test_a_timekeeper_that_fails_ends_the_program(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A supervisor starts it again; without its timekeeper it would expire nothing."""
    monkeypatch.setattr(ControlPlane, "handle_timeout", fail)
    monkeypatch.setattr(control_plane_module, "RECOMPUTE_INTERVAL", 1)
    with pytest.raises(PortalFailed, match="timekeeper"):
        asyncio.run(asyncio.wait_for(run_portal(settings(tmp_path)), 5))
    assert_told(caplog)


def test_a_reloader_that_fails_ends_the_program(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("firezone.portal.reload.Reloader.look", fail)
    with pytest.raises(PortalFailed, match="reloader"):
        asyncio.run(asyncio.wait_for(run_portal(settings(tmp_path)), 5))
    assert_told(caplog)


def test_a_fault_ends_its_connection_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario() -> None:
        async with served.portal(tmp_path) as world, world.client() as c:
            [resource] = (await c.next(client.Init)).resources
            async with world.gateway() as g:
                with monkeypatch.context() as patch:
                    patch.setattr(ControlPlane, "handle_text", fail)
                    await g.next_event(Hiccup)
            c.link.send(*client.create_flow(resource.id, []))
            assert await c.next(client.FlowCreationFailed)

    served.run(scenario)
    assert_told(caplog)


def test_a_fault_at_the_door_asks_for_patience(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario() -> None:
        async with served.portal(tmp_path) as world:
            monkeypatch.setattr(ControlPlane, "admit", fail)
            async with world.client() as c:
                assert (await c.next_event(Hiccup)).error == "HTTP 503"

    served.run(scenario)
    assert_told(caplog)


def test_a_peer_that_does_not_read_is_dropped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario() -> None:
        async with served.portal(tmp_path) as world, world.client() as c:
            await c.next_event(Hiccup)

    monkeypatch.setattr(server_module, "MAX_OUTBOX", 100)
    served.run(scenario)


def test_a_description_tells_where() -> None:
    try:
        fail()
    except KeyError as error:
        said = describe(error)
    assert said.startswith("KeyError in test_portal_failures.py:") and said.endswith(" fail")


def settings(directory: Path) -> Settings:
    starter = write_starter(directory, os.urandom, served.WALL)
    endpoint = Endpoint.of("127.0.0.1", 0)
    return Settings(starter.config, directory / "portal.db", endpoint, None)


def assert_told(caplog: pytest.LogCaptureFixture) -> None:
    errors = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert errors and all("KeyError in " in record.getMessage() for record in errors)
    assert all(record.exc_info is None for record in errors)
    assert SECRET not in caplog.text
