"""A graph that all ranks have, or none."""

from collections.abc import Callable

from text_generation_shard.distributed import RankGroup
from text_generation_shard.errors import CollectiveError
from text_generation_shard.runner.step_graph import GraphRecorder, StepGraph


class AgreedRecording:
    """One graph, recorded by all ranks at the same time.

    The function is called twice: to compute, when its collectives wait for the other ranks', and to
    be recorded, when nothing is computed. A rank that fails the first time in the middle of it has
    left the others in a collective; that cannot be mended.
    """

    def __init__(self, ranks: RankGroup) -> None:
        self._ranks = ranks
        self._num_computed = 0
        self._first_collective = ranks.num_collectives
        self._is_recorded = False
        self.error: Exception | None = None

    def record(self, recorder: GraphRecorder, compute: Callable[[], None]) -> StepGraph | None:
        """The graph; None if this rank could not record it, and `error` says why."""

        def counted() -> None:
            compute()
            self._num_computed += 1

        try:
            graph = recorder.record(counted)
        except Exception as error:  # noqa: BLE001  torch's, or Triton's, which are no RuntimeErrors
            self.error = error
            return None
        self._is_recorded = True
        return graph

    def agree(self) -> bool:
        """Whether all ranks recorded; CollectiveError if they are in different places now."""
        num_launched = self._ranks.num_collectives - self._first_collective
        if self._ranks.minimum(self._num_computed) == 0 and (
            self._ranks.minimum(num_launched) != self._ranks.maximum(num_launched)
        ):
            raise CollectiveError(
                "a rank failed in the middle of a step that others computed: "
                f"{self.error or 'see the log of that rank'}"
            )
        return self._ranks.minimum(self._is_recorded) > 0
