"""Flows that were in use and are asked for again by the clock, not only by traffic.

Who downloads has nothing to send until more comes. So what was reached before a break is asked for
until it is granted, though not for ever: a gateway that is back at the portal later than we are is
away for seconds, not for hours.
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
    due_at: int
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

    def settle(self, resource: ResourceId) -> None:
        """It was granted, refused for good, or is not ours any more."""
        self._by_resource.pop(resource, None)

    def take_all(self) -> list[ResourceId]:
        """End all of them, which are not settled."""
        found = list(self._by_resource)
        self._by_resource.clear()
        return found

    def due(self, now: int) -> list[ResourceId]:
        """Those that the portal is to be asked for now."""
        found = [resource for resource, r in self._by_resource.items() if r.due_at <= now]
        for resource in found:
            resumption = self._by_resource[resource]
            resumption.pause = min(2 * resumption.pause, LONGEST_PAUSE)
            resumption.due_at = now + resumption.pause
            if resumption.due_at > resumption.ends_at:
                del self._by_resource[resource]
        return found

    def poll_timeout(self) -> Timeout | None:
        if not self._by_resource:
            return None
        return Timeout(min(r.due_at for r in self._by_resource.values()), "flow to resume")

    def __contains__(self, resource: object) -> bool:
        return resource in self._by_resource
