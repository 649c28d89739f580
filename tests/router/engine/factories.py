"""Engines on fake shards, and sinks that remember."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from text_generation_router.engine.info import EngineConfig
from text_generation_router.engine.loop import Engine
from text_generation_router.engine.request import (
    EngineError,
    Finished,
    GenerationRequest,
    SamplingParameters,
    TokenOutput,
)
from tokenizers import Tokenizer, decoders, models

from tests.fakes.shard import FakeShards
from tests.fakes.shard_model import FakeShardConfig

EOS = 1
# What a client hears of lost shards; no path, and nothing that a shard's libraries said.
LOST = r"^the model's shards are lost; the server's log says why$"


class RecordingSink:
    """Keeps what it hears, and insists that the end comes once and last."""

    def __init__(self) -> None:
        self.outputs: list[TokenOutput] = []
        self.finished: Finished | None = None
        self.error: EngineError | None = None
        self._news = asyncio.Event()

    def token(self, output: TokenOutput, finished: Finished | None) -> None:
        assert not self.is_over, "a token after the end"
        self.outputs.append(output)
        self.finished = finished
        self._news.set()

    def failed(self, error: EngineError) -> None:
        assert not self.is_over, "two ends"
        self.error = error
        self._news.set()

    @property
    def is_over(self) -> bool:
        return self.finished is not None or self.error is not None

    @property
    def token_ids(self) -> list[int]:
        return [output.token_id for output in self.outputs]

    @property
    def text(self) -> str:
        return "".join(output.text for output in self.outputs)

    async def received(self, num_tokens: int) -> None:
        """Wait for so many tokens (or the end)."""
        while len(self.outputs) < num_tokens and not self.is_over:
            self._news.clear()
            await asyncio.wait_for(self._news.wait(), 20)

    async def over(self) -> Finished:
        """Wait for the end; raises the error if it is one."""
        await self.received(1 << 30)
        if self.error is not None:
            raise self.error
        assert self.finished is not None
        return self.finished


def word_tokenizer(*words: str) -> Tokenizer:
    """Token 0 is "<unk>", 1 the special "</s>"; then come the words, then names like "t7" up to
    1000. A space in a word is a space.
    """
    names = ["<unk>", "</s>", *(word.replace(" ", "Ġ") for word in words)]
    names += [f"t{i}" for i in range(len(names), 1000)]
    tokenizer = Tokenizer(models.BPE(vocab={name: i for i, name in enumerate(names)}, merges=[]))
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["</s>"])
    return tokenizer


def make_request(prompt=5, max_new_tokens=4, **changes) -> GenerationRequest:
    prompt = tuple(range(prompt)) if isinstance(prompt, int) else tuple(prompt)
    changes.setdefault("sampling", SamplingParameters())
    return GenerationRequest(prompt_ids=prompt, max_new_tokens=max_new_tokens, **changes)


@asynccontextmanager
async def running_engine(
    *,
    tokenizer: Tokenizer | None = None,
    eos_token_ids=frozenset({EOS}),
    observer=None,
    world_size: int = 1,
    shard: FakeShardConfig | None = None,
    clock: Callable[[], float] = time.monotonic,
    **changes,
) -> AsyncIterator[tuple[Engine, FakeShards]]:
    """An engine that serves on fake shards; both are gone afterwards."""
    async with FakeShards(shard, world_size=world_size) as shards:
        config = EngineConfig(
            **({"shard_uds_paths": shards.uds_paths, "max_concurrent_requests": 8} | changes)
        )
        engine = Engine(config, tokenizer or word_tokenizer(), eos_token_ids, observer, clock)
        try:
            await engine.start()
            yield engine, shards
        finally:
            await engine.stop()


def generate(engine: Engine, *args, **changes) -> RecordingSink:
    """Submit a request, return its sink."""
    sink = RecordingSink()
    engine.submit(make_request(*args, **changes), sink)
    return sink
