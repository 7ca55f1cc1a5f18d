"""What the parts of the relay share for their output: commands in order, answers, counters."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterable

from firezone.model import Transmit
from firezone.stun import Method
from firezone.turn.relay_commands import RelayCommand
from firezone.turn.relay_exchange import Exchange, Value

_SUCCESSES = {int(method): f"{method.name.lower()}_success" for method in Method}


class Outbox:
    """Commands until they are taken, and what was counted by reason."""

    def __init__(self) -> None:
        self.translate: Callable[[RelayCommand], Iterable[RelayCommand]] | None = None
        """What a command stands for, if not for itself."""
        self._commands: deque[RelayCommand] = deque()
        self.counters: Counter[str] = Counter()

    def put(self, *commands: RelayCommand) -> None:
        """To be carried out after all that was put before."""
        if self.translate is None:
            self._commands.extend(commands)
            return
        for command in commands:
            self._commands.extend(self.translate(command))

    def take(self) -> RelayCommand | None:
        """The next thing to do."""
        return self._commands.popleft() if self._commands else None

    def count(self, reason: str) -> None:
        """One more of these."""
        self.counters[reason] += 1

    def succeed(self, exchange: Exchange, *values: Value) -> Transmit:
        """Answer with a success response; returns it."""
        self.count(_SUCCESSES[exchange.request.method])
        response = exchange.success(*values)
        self.put(response)
        return response

    def refuse(self, exchange: Exchange, code: int, *values: Value) -> None:
        """Answer with an error response."""
        self.count(f"error_{code}")
        self.put(exchange.error(code, *values))
