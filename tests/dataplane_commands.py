"""Commands to a data plane: a session and flows of one peer."""

from ipaddress import ip_address

from firezone import commands
from firezone.commands import Action, Direction, FlowKey, InstallFlow, InstallKeypair, Rewrite

FOREVER = 1 << 62
SLOT = 1


def keypair(initiator: bool, age: int = 1) -> InstallKeypair:
    """Session number `age` of one end: every one has keys of its own."""
    keys = [bytes([role]) * 30 + age.to_bytes(2, "big") for role in (1, 2)]
    send, receive = keys if initiator else reversed(keys)
    index = 0x700 + age % 8
    return InstallKeypair(SLOT, index, index, send, receive, initiator, age, FOREVER, FOREVER)


def flow(
    direction: Direction,
    source: str,
    destination: str,
    source_port: int,
    destination_port: int,
    rewrite: Rewrite | None = None,
) -> InstallFlow:
    key_slot = SLOT if direction is Direction.DOWN else commands.NOBODY
    key = FlowKey(
        direction,
        key_slot,
        17,
        ip_address(source),
        ip_address(destination),
        source_port,
        destination_port,
    )
    return InstallFlow(key, Action.FORWARD, SLOT, SLOT, 0, 0, rewrite)
