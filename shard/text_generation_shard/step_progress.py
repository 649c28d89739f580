"""How far the steps have come: written by the threads that compute and answer them, read by the one
that answers Health.
"""

import threading
import time
from collections import deque

from text_generation_proto import shard_pb2 as pb


class StepProgress:
    """Steps begin and finish in order; one may begin before the one before it has finished."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._last_step = 0
        self._last_finished = time.monotonic()
        # Steps that began, and when.
        self._in_flight: deque[tuple[int, float]] = deque()

    def begin(self, step: int) -> None:
        """A step is being computed."""
        with self._lock:
            self._in_flight.append((step, time.monotonic()))

    def finish(self, step: int) -> None:
        """The oldest step is done, or was refused."""
        with self._lock:
            self._in_flight.popleft()
            self._last_step, self._last_finished = step, time.monotonic()

    def report(self) -> pb.HealthResponse:
        """The state of this moment. That a step waited for the one before is no part of its age."""
        with self._lock:
            now = time.monotonic()
            response = pb.HealthResponse(
                last_step=self._last_step, last_step_age_ms=(now - self._last_finished) * 1000
            )
            if self._in_flight:
                step, began = self._in_flight[0]
                response.step_in_flight = step
                response.step_in_flight_age_ms = (now - max(began, self._last_finished)) * 1000
        return response
