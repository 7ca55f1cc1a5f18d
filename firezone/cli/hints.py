"""What an operator may do about what `firezone status` shows."""

from __future__ import annotations

from collections.abc import Iterator

from firezone.explain import ConnectionStatus, RelayStatus, Status

MIN_UNANSWERED = 4
"""Checks in a row; losses alone come to less."""
_SETTLING_SECONDS = 10.0
"""A program that was just started has not heard of everybody yet."""
_ALLOCATED = "allocated"


def is_unanswered(c: ConnectionStatus) -> bool:
    """Whether the peer does not answer on the path in use."""
    return c.path is not None and c.unanswered_checks >= MIN_UNANSWERED


def hints(status: Status, names: dict[str, str]) -> Iterator[str]:
    """Each names the trouble and the next step. `names` are those of the peers."""
    if not status.portal.connected:
        yield (
            "without the portal, connections go on and nothing new is authorized: "
            "`firezone netcheck` tries it"
        )
    yield from _of_relays(status)
    for c in status.connections:
        if is_unanswered(c):
            name = names[c.peer]
            yield f"{name} does not answer any more: `firezone explain {name}` shows each path"


def _of_relays(status: Status) -> Iterator[str]:
    if any(_serves(r, "udp") for r in status.relays):
        return
    if any(r.state == _ALLOCATED for r in status.relays):
        yield (
            "no relay is reached over UDP, so traffic takes a stream, which is slower: "
            "`firezone netcheck` tells whether UDP is blocked"
        )
    elif status.uptime_seconds < _SETTLING_SECONDS:
        return
    elif status.relays or status.lost_relays:
        yield (
            "no relay serves us, so only hosts that need none are reached: `firezone netcheck` "
            "tells whether they answer"
        )
    elif status.portal.connected:
        yield "the portal names no relay, so only hosts that need none are reached: start one"


def _serves(relay: RelayStatus, transport: str) -> bool:
    return relay.state == _ALLOCATED and relay.transport == transport
