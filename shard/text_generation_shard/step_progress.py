"""How far the steps have come: written by the compute thread, read by the one that answers
Health.
"""

import time
from dataclasses import dataclass, replace

from text_generation_proto import shard_pb2 as pb


@dataclass(frozen=True, slots=True, kw_only=True)
class _Progress:
    last_step: int
    last_finished: float
    in_flight: int
    in_flight_since: float


class StepProgress:
    """Each change replaces one frozen value: readers need no lock."""

    def __init__(self) -> None:
        self._progress = _Progress(
            last_step=0, last_finished=time.monotonic(), in_flight=0, in_flight_since=0.0
        )

    def begin(self, step: int) -> None:
        """A step is being computed."""
        self._progress = replace(self._progress, in_flight=step, in_flight_since=time.monotonic())

    def finish(self, step: int) -> None:
        """A step is done, or was refused."""
        self._progress = _Progress(
            last_step=step, last_finished=time.monotonic(), in_flight=0, in_flight_since=0.0
        )

    def report(self) -> pb.HealthResponse:
        """The state of this moment."""
        progress, now = self._progress, time.monotonic()
        response = pb.HealthResponse(
            last_step=progress.last_step,
            last_step_age_ms=(now - progress.last_finished) * 1000,
        )
        if progress.in_flight:
            response.step_in_flight = progress.in_flight
            response.step_in_flight_age_ms = (now - progress.in_flight_since) * 1000
        return response
