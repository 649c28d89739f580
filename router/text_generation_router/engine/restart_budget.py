"""How often the shards may be lost before the engine gives up."""

from collections import deque

WINDOW_SECONDS = 600.0


class RestartBudget:
    """At most `max_restarts` in any ten minutes. Owned by the engine, which alone decides: the
    launcher starts shards again for as long as the router lives.
    """

    def __init__(self, max_restarts: int) -> None:
        self._max_restarts = max_restarts
        self._taken_at: deque[float] = deque()

    @property
    def is_empty_by_choice(self) -> bool:
        """Whether there are never any restarts."""
        return self._max_restarts == 0

    def take(self, now: float) -> bool:
        """Spend one restart; False if none is left. `now` in seconds."""
        while self._taken_at and now - self._taken_at[0] >= WINDOW_SECONDS:
            self._taken_at.popleft()
        if len(self._taken_at) >= self._max_restarts:
            return False
        self._taken_at.append(now)
        return True
