"""Hands one step's tokens to the generations that wait for them: the fan-out.

Everybody's tokens pass here, one pass per step: packed arrays are read once, and nothing is made
per token but its `TokenOutput`.
"""

import logging
from collections.abc import Callable, Iterable
from itertools import islice

from text_generation_proto import shard_pb2

from text_generation_router.engine.generation import Generation
from text_generation_router.engine.observer import EngineObserver
from text_generation_router.engine.request import EngineError, Finished, GenerationError, TopToken
from text_generation_router.scheduler.sequence import Ending, Sequence
from text_generation_router.scheduler.step_plan import AppliedStep

_log = logging.getLogger("text_generation_router.engine")
_NO_TOP_TOKENS: list[TopToken] = []


class Generations:
    """The table of generations that wait for tokens, by sequence id. Who leaves it hears nothing
    more; `end_sequence` then gives back what the sequence holds (harmless if that is done).
    """

    def __init__(
        self, observer: EngineObserver, end_sequence: Callable[[Sequence, Ending], None]
    ) -> None:
        self._observer = observer
        self._end_sequence = end_sequence
        self._table: dict[int, Generation] = {}

    def __len__(self) -> int:
        return len(self._table)

    def __getitem__(self, sequence_id: int) -> Generation:
        return self._table[sequence_id]

    def add(self, generation: Generation) -> None:
        self._table[generation.sequence.sequence_id] = generation

    def cancel(self, sequence_id: int) -> None:
        """The client does not want the rest. Harmless after the end."""
        generation = self._table.pop(sequence_id, None)
        if generation is not None:
            self._end_sequence(generation.sequence, Ending.CANCELLED)
            self._observer.sequence_cancelled()

    def fail(self, sequence_id: int, error: EngineError) -> None:
        """A generation ends without its last token. Harmless after the end."""
        generation = self._table.pop(sequence_id, None)
        if generation is None:
            return
        self._end_sequence(generation.sequence, Ending.FAILED)
        self._observer.sequence_failed(error)
        try:
            generation.sink.failed(error)
        except Exception:  # noqa: BLE001  a sink's own trouble; said in the log
            _log.exception("the sink of sequence %d failed", sequence_id)

    def fail_all(self, error: EngineError) -> None:
        for sequence_id in list(self._table):
            self.fail(sequence_id, error)

    def deliver(
        self, applied: AppliedStep, token_ids: list[int], result: shard_pb2.StepResult, now: float
    ) -> int:
        """Hand out what an applied step brought; returns how many tokens reached a sink."""
        for failed in applied.failed:
            self.fail(failed.sequence.sequence_id, GenerationError(failed.message))
        if result.prompt_logprobs:  # also of a step that samples nothing
            self._deliver_prompt_logprobs(applied, result)
        if not applied.rows:
            return 0
        logprobs = list(result.logprobs)
        candidates = _candidates(result) if result.top_n_counts else None
        num_tokens = 0
        table = self._table
        for row, receiver in enumerate(applied.rows):
            if receiver is None or (generation := table.get(receiver.sequence_id)) is None:
                continue
            num_tokens += 1
            top_tokens = _NO_TOP_TOKENS
            try:
                if candidates is not None and generation.request.top_n_tokens:
                    top_tokens = generation.top_tokens(*candidates[row])
                finished = generation.accept(
                    token_ids[row], logprobs[row], top_tokens, receiver.ending, now
                )
            except Exception:  # noqa: BLE001  a sink's or a tokenizer's: it costs its generation
                self._break_off(receiver.sequence_id)
                continue
            if finished is not None:
                self._finish(receiver, finished)
        return num_tokens

    def _finish(self, sequence: Sequence, finished: Finished) -> None:
        # The sink may have cancelled from within the call.
        if self._table.pop(sequence.sequence_id, None) is not None:
            self._end_sequence(sequence, Ending.STOPPED)
            self._observer.sequence_finished(finished)

    def _deliver_prompt_logprobs(self, applied: AppliedStep, result: shard_pb2.StepResult) -> None:
        sequences = dict(zip(applied.plan.work_slots, applied.plan.sequences, strict=True))
        for part in result.prompt_logprobs:
            generation = self._table.get(sequences[part.slot].sequence_id)
            if generation is None:
                continue
            try:
                top_tokens = [generation.top_tokens(*each) for each in _prompt_candidates(part)]
            except Exception:  # noqa: BLE001  as with the other tokens
                self._break_off(generation.sequence.sequence_id)
                continue
            generation.accept_prompt_logprobs(part.first_position, list(part.logprobs), top_tokens)

    def _break_off(self, sequence_id: int) -> None:
        """Called where an error was caught, which only the log tells in full."""
        _log.exception("a token of sequence %d could not be delivered", sequence_id)
        self.fail(sequence_id, EngineError("a token could not be delivered"))


def _prompt_candidates(part: shard_pb2.PromptLogprobs) -> list[tuple[list[int], list[float]]]:
    """For each position of a part, ids and log-probabilities of its candidates; none if the
    sequence asked for none.
    """
    if not part.top_n_token_ids:
        return []
    count = len(part.top_n_token_ids) // len(part.logprobs)
    return _split(part.top_n_token_ids, part.top_n_logprobs, [count] * len(part.logprobs))


def _candidates(result: shard_pb2.StepResult) -> list[tuple[list[int], list[float]]]:
    """For each sampled row, ids and log-probabilities of its candidates."""
    return _split(result.top_n_token_ids, result.top_n_logprobs, result.top_n_counts)


def _split(
    token_ids: Iterable[int], logprobs: Iterable[float], counts: Iterable[int]
) -> list[tuple[list[int], list[float]]]:
    """Two parallel arrays, cut into parts of so many entries."""
    ids, values = iter(token_ids), iter(logprobs)
    return [(list(islice(ids, count)), list(islice(values, count))) for count in counts]
