"""An engine in memory that says what a test tells it to, by the same contract as the real one."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from text_generation_router.engine.request import (
    EngineError,
    Finished,
    FinishReason,
    GenerationRequest,
    OutputSink,
    TokenOutput,
    TopToken,
)


@dataclass(frozen=True)
class Said:
    """One scripted token."""

    text: str
    token_id: int = 100
    logprob: float = -0.5
    special: bool = False
    top_tokens: tuple[TopToken, ...] = ()


END = Said("</s>", token_id=2, special=True)


@dataclass
class FakeGeneration:
    """One submitted request; a test may drive it by hand."""

    request: GenerationRequest
    sink: OutputSink
    cancelled: bool = False
    ended: bool = False
    said: list[Said] = field(default_factory=list)

    def say(self, said: Said | str, reason: FinishReason | None = None) -> None:
        """Hand the next token to the sink, the last one with a reason."""
        if self.cancelled or self.ended:
            return
        said = Said(said) if isinstance(said, str) else said
        self.said.append(said)
        self.ended = reason is not None
        output = TokenOutput(
            said.token_id, said.text, said.logprob, said.special, list(said.top_tokens)
        )
        self.sink.token(output, None if reason is None else self._finished(reason))

    def fail(self, error: EngineError) -> None:
        """End without a last token."""
        if not (self.cancelled or self.ended):
            self.ended = True
            self.sink.failed(error)

    def cancel(self) -> None:
        """GenerationHandle."""
        if not self.ended:
            self.cancelled = True

    def _finished(self, reason: FinishReason) -> Finished:
        num_prompt = len(self.request.prompt_ids)
        num_scored = num_prompt - 1 if self.request.prompt_logprobs else 0
        top = [
            TopToken(100 + i, f"t{i}", -1.0 - i, False) for i in range(self.request.top_n_tokens)
        ]
        return Finished(
            reason=reason,
            stop_sequence=None,
            generated_text="".join(said.text for said in self.said if not said.special),
            num_prompt_tokens=num_prompt,
            num_cached_tokens=num_prompt // 2,
            num_generated_tokens=len(self.said),
            prompt_logprobs=[-1.0] * num_scored if self.request.prompt_logprobs else None,
            prompt_top_tokens=[top] * num_scored,
            queue_time=0.001,
            inference_time=0.002 * len(self.said),
            time_to_first_token=0.003,
        )


class FakeEngine:
    """Answers every request with `script`, one token per pass of the event loop; with
    `is_manual` it only collects them in `generations`.
    """

    def __init__(self, script: Sequence[Said | str] = ("Hello", " world", END)) -> None:
        self.script: Sequence[Said | str] = script
        self.reason = FinishReason.EOS_TOKEN
        self.generations: list[FakeGeneration] = []
        self.is_manual = False
        self.is_healthy = True
        self.refusal: EngineError | None = None
        self.failure: EngineError | None = None
        self.script_for: Callable[[GenerationRequest], Sequence[Said | str]] | None = None
        self._arrived = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()

    def submit(self, request: GenerationRequest, sink: OutputSink) -> FakeGeneration:
        """Contract of `Engine.submit`."""
        if self.refusal is not None:
            raise self.refusal
        generation = FakeGeneration(replace(request), sink)
        self.generations.append(generation)
        self._arrived.set()
        if not self.is_manual:
            task = asyncio.get_running_loop().create_task(self._run(generation))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        return generation

    async def health(self) -> bool:
        """What the health endpoint shows."""
        return self.is_healthy

    async def submitted(self, count: int) -> None:
        """Wait until so many requests have arrived."""
        while len(self.generations) < count:
            self._arrived.clear()
            await self._arrived.wait()

    async def _run(self, generation: FakeGeneration) -> None:
        script = self.script_for(generation.request) if self.script_for else self.script
        script = script[: generation.request.max_new_tokens]
        for i, said in enumerate(script):
            await asyncio.sleep(0)
            if self.failure is not None and i == len(script) - 1:
                generation.fail(self.failure)
                return
            is_last = i == len(script) - 1
            reason = self.reason
            if is_last and len(script) == generation.request.max_new_tokens:
                reason = FinishReason.LENGTH
            generation.say(said, reason if is_last else None)
