"""What every dialect makes of a request, and what it gets back when the answer is not streamed."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from text_generation_router.engine.request import (
    EngineError,
    Finished,
    GenerationHandle,
    GenerationRequest,
    OutputSink,
    TokenOutput,
)


class GenerationEngine(Protocol):
    """The part of the engine that generation needs."""

    def submit(self, request: GenerationRequest, sink: OutputSink) -> GenerationHandle:
        """Accept a request, or raise an `EngineError`."""


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """One prompt of a request, in both its forms."""

    # As the model's template or the client wrote it, before any truncation.
    text: str
    token_ids: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class FinishedGeneration:
    """What came of one generation."""

    # Empty if the dialect did not ask to keep them.
    tokens: list[TokenOutput]
    end: Finished

    @property
    def mean_logprob(self) -> float:
        """How likely the model found it, per token; by this `best_of` chooses."""
        return sum(output.logprob for output in self.tokens) / max(len(self.tokens), 1)


class GenerationCollector:
    """An `OutputSink` that waits for the end of one generation."""

    def __init__(self, *, keep_tokens: bool) -> None:
        self._keep_tokens = keep_tokens
        self._tokens: list[TokenOutput] = []
        self.result: asyncio.Future[FinishedGeneration] = asyncio.get_running_loop().create_future()

    def token(self, output: TokenOutput, finished: Finished | None) -> None:
        """Keep the token; resolve with the last one."""
        if self._keep_tokens:
            self._tokens.append(output)
        if finished is not None and not self.result.done():
            self.result.set_result(FinishedGeneration(self._tokens, finished))

    def failed(self, error: EngineError) -> None:
        """Resolve with the error."""
        if not self.result.done():
            self.result.set_exception(error)


async def generate_all(
    engine: GenerationEngine, requests: Sequence[GenerationRequest], *, keep_tokens: bool
) -> list[FinishedGeneration]:
    """Generate everything, in the order of the requests.

    The first failure fails all. However it ends, also when the caller is cancelled, nothing runs
    on afterwards.
    """
    collectors: list[GenerationCollector] = []
    handles: list[GenerationHandle] = []
    try:
        for request in requests:
            collector = GenerationCollector(keep_tokens=keep_tokens)
            handles.append(engine.submit(request, collector))
            collectors.append(collector)
        return list(await asyncio.gather(*(collector.result for collector in collectors)))
    finally:
        for handle in handles:
            handle.cancel()
        for collector in collectors:
            collector.result.cancel()
