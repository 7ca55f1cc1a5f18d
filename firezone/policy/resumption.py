"""Flows that were in use and are asked for again by the clock, not only by traffic.

Who downloads has nothing to send until more comes. So what was reached before a break is asked for
until it is reached again, though not for ever: a gateway that is back later than we are is away for
seconds, not for hours. While a gateway that was granted is being connected to, the question rests.
"""

from __future__ import annotations

from dataclasses import dataclass

from firezone.durations import MINUTE, SECOND
from firezone.model import ResourceId, Timeout

FIRST_PAUSE = 1 * SECOND
LONGEST_PAUSE = 10 * SECOND
"""Between two questions; the pause doubles."""

GIVE_UP_AFTER = 5 * MINUTE
MAX_RESUMED = 256
"""Resources at a time: of any more, only traffic repeats the question."""


@dataclass(slots=True)
class _Resumption:
    due_at: int | None
    """None while the question rests."""
    pause: int
    ends_at: int


class Resumptions:
    """When to ask again for each resource that was in use."""

    def __init__(self) -> None:
        self._by_resource: dict[ResourceId, _Resumption] = {}

    def begin(self, resource: ResourceId, now: int) -> None:
        """The portal is asked now for the first time."""
        if resource in self._by_resource or len(self._by_resource) < MAX_RESUMED:
            self._by_resource[resource] = _Resumption(
                now + FIRST_PAUSE, FIRST_PAUSE, now + GIVE_UP_AFTER
            )

    def rest(self, resource: ResourceId) -> None:
        """It was granted, and may soon be reached."""
        resumption = self._by_resource.get(resource)
        if resumption is not None:
            resumption.due_at = None

    def go_on(self, resource: ResourceId, now: int) -> None:
        """It was not reached."""
        resumption = self._by_resource.get(resource)
        if resumption is not None and now < resumption.ends_at:
            resumption.due_at = now
        else:
            self.settle(resource)

    def settle(self, resource: ResourceId) -> None:
        """It was reached, refused for good, or is not ours any more."""
        self._by_resource.pop(resource, None)

    def take_all(self) -> list[ResourceId]:
        """End all of them, which are not settled."""
        found = list(self._by_resource)
        self._by_resource.clear()
        return found

    def due(self, now: int) -> list[ResourceId]:
        """Those that the portal is to be asked for now."""
        found = [
            resource
            for resource, r in self._by_resource.items()
            if r.due_at is not None and r.due_at <= now
        ]
        for resource in found:
            resumption = self._by_resource[resource]
            resumption.pause = min(2 * resumption.pause, LONGEST_PAUSE)
            resumption.due_at = now + resumption.pause
            if resumption.due_at > resumption.ends_at:
                del self._by_resource[resource]
        return found

    def poll_timeout(self) -> Timeout | None:
        due = [r.due_at for r in self._by_resource.values() if r.due_at is not None]
        return Timeout(min(due), "flow to resume") if due else None

    def __contains__(self, resource: object) -> bool:
        return resource in self._by_resource
