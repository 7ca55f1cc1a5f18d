from typing import Self, final

@final
class Lane:
    """What passes between a data thread and Python. For the kernels: it has no Python face."""

    def __new__(
        cls,
        slots: int,
        wake_fd: int,
        *,
        misses_per_peer: int,
        misses: int,
        misses_per_second: int,
        own_misses_per_second: int,
        burst: int,
    ) -> Self: ...
