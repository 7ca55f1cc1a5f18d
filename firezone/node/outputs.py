"""What the node has to say, and to whom: commands to the data plane, events to the role."""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass, field

from firezone.commands import Command
from firezone.node.events import NodeEvent


@dataclass(slots=True)
class Outputs:
    """Filled by all parts of the node, in order. `counters` says why something was dropped."""

    commands: deque[Command] = field(default_factory=deque)
    events: deque[NodeEvent] = field(default_factory=deque)
    counters: Counter[str] = field(default_factory=Counter)
