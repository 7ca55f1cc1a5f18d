"""A relay with one port between real programs: several clients, one gateway, one address."""

from __future__ import annotations

from pathlib import Path

import pytest
from one_port_net import (
    LISTEN_PORT,
    SECOND_CLIENT,
    download_both,
    status,
    two_clients,
)

from firezone.lab.topology import CLIENT, GATEWAY, relay_name

SIZE = 8_000_000
RELAY = relay_name(1)
CLIENTS = (CLIENT, SECOND_CLIENT)


@pytest.mark.slow
@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("turn_alone", [CLIENTS, (*CLIENTS, GATEWAY)], ids=["gateway", "all"])
def test_two_clients_download_at_once(
    tmp_path: Path, turn_alone: tuple[str, ...], family: int
) -> None:
    """From one gateway. It is reached where it stands; or all of them are peers of one another at
    the relay's own address."""
    with two_clients(tmp_path, *turn_alone, family=family) as lab:
        assert [each.status for each in download_both(lab, 10)] == [200, 200]
        both = download_both(lab, SIZE)
        assert [(each.status, each.body_bytes) for each in both] == [(200, SIZE)] * 2
        sockets = lab.exec(RELAY, ["ss", "-Huan"]).stdout.splitlines()
        assert sockets and all(line.split()[3].endswith(f":{LISTEN_PORT}") for line in sockets)
        addresses = map(str, lab.plan.internet[RELAY].addresses())
        peers = set()
        for host in CLIENTS:
            [connection] = status(lab, host)["connections"]
            assert connection["path"]["kind"] == "relayed", connection
            peers.add(connection["path"]["remote"])
        assert len(peers) == 1, peers
        at_home = any(address in peer for peer in peers for address in addresses)
        assert at_home is (GATEWAY in turn_alone)
        report = status(lab, RELAY, "--relay")
        assert report["mode"] == "one port"
        assert report["to_clients"]["bytes"] > 2 * SIZE  # compiled code moved it
