"""What the engine tells whoever keeps metrics. Calls must be quick: they are made in the step
loop.
"""

from dataclasses import dataclass
from typing import Protocol

from text_generation_router.engine.request import EngineError, Finished


@dataclass(frozen=True, slots=True, kw_only=True)
class StepStats:
    """One finished step."""

    step: int
    num_decodes: int
    num_prefill_tokens: int
    # Prompts that this step began to read.
    num_admitted: int
    # Sequences that left the batch with this step.
    num_retired: int
    # Tokens that reached a stream.
    num_tokens: int
    # Seconds that the scheduler took to plan it and write it down.
    plan_duration: float
    # Seconds from its turn (sent, and the result of the one before was there) to its result.
    duration: float
    # Seconds the slowest shard spent on it, and on the model's forward pass alone.
    shard_duration: float
    forward_duration: float
    # Decode steps that a shard has recorded by now, and whether this step was one of them.
    num_graphs: int
    is_replayed: bool
    # Whether it was not computed.
    is_failed: bool


class EngineObserver(Protocol):
    """Sees every step and every end of a generation."""

    def step_finished(self, stats: StepStats) -> None:
        """A step's result was applied and handed out."""

    def sequence_finished(self, finished: Finished) -> None:
        """A generation reached its end."""

    def sequence_failed(self, error: EngineError) -> None:
        """A generation ended with an error."""

    def sequence_cancelled(self) -> None:
        """A client did not want the rest."""

    def sequence_refused(self, error: EngineError) -> None:
        """A request was not taken: overload or shutdown."""

    def shards_restarted(self) -> None:
        """Lost shards are back, and what ran goes on."""


class NullObserver:
    """Keeps nothing."""

    def step_finished(self, stats: StepStats) -> None:
        pass

    def sequence_finished(self, finished: Finished) -> None:
        pass

    def sequence_failed(self, error: EngineError) -> None:
        pass

    def sequence_cancelled(self) -> None:
        pass

    def sequence_refused(self, error: EngineError) -> None:
        pass

    def shards_restarted(self) -> None:
        pass
