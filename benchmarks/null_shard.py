"""A shard that computes nothing: it answers every step after a fixed time, with whole-word tokens.

It speaks the step protocol and keeps only what it needs to know which work samples a token, so that
`benchmarks.router` measures the router and not its counterpart.
"""

import argparse
import asyncio
import contextlib
import itertools
import signal
import time
import zlib
from array import array
from collections.abc import AsyncIterator
from dataclasses import dataclass

import grpc
import uvloop
from text_generation_proto import shard_pb2, shard_pb2_grpc

# Ids from here on are strings of letters in `benchmarks.vocabulary`: no special tokens, no bytes.
FIRST_TOKEN_ID = 512
CACHE_TOKENS = 1 << 22


@dataclass(slots=True)
class _Slot:
    num_known: int
    num_computed: int


class NullShard(shard_pb2_grpc.ShardServicer):
    """The only rank; owns the counts of its slots."""

    def __init__(self, *, step_s: float, vocab_size: int, max_length: int) -> None:
        self._step_s = step_s
        self._vocab_size = vocab_size
        self._max_length = max_length
        self._token_ids = itertools.cycle(range(FIRST_TOKEN_ID, vocab_size))
        self._slots: dict[int, _Slot] = {}
        self._last_step = 0
        self._last_step_at = time.monotonic()

    async def Info(  # noqa: N802
        self, request: shard_pb2.InfoRequest, context: object
    ) -> shard_pb2.InfoResponse:
        del request, context
        return shard_pb2.InfoResponse(
            model_type="llama",
            dtype="float32",
            device_type="cpu",
            vocab_size=self._vocab_size,
            max_position_embeddings=self._max_length,
            world_size=1,
            rank=0,
            supports_prefix_cache=True,
        )

    async def Health(  # noqa: N802
        self, request: shard_pb2.HealthRequest, context: object
    ) -> shard_pb2.HealthResponse:
        del request, context
        age_ms = (time.monotonic() - self._last_step_at) * 1000
        return shard_pb2.HealthResponse(last_step=self._last_step, last_step_age_ms=age_ms)

    async def Warmup(  # noqa: N802
        self, request: shard_pb2.WarmupRequest, context: object
    ) -> shard_pb2.WarmupResponse:
        del context
        step_ms = self._step_s * 1000
        return shard_pb2.WarmupResponse(
            num_blocks=CACHE_TOKENS // request.block_size + 1,
            block_size=request.block_size,
            max_total_tokens=request.max_total_tokens or self._max_length,
            measured_tokens=[1, request.max_step_tokens],
            measured_decodes=[1, 0],
            measured_ms=[step_ms, step_ms],
        )

    async def Run(  # noqa: N802
        self, request_iterator: AsyncIterator[shard_pb2.StepRequest], context: object
    ) -> AsyncIterator[shard_pb2.StepResult]:
        del context
        self._slots.clear()
        free_at = time.monotonic()
        async for request in request_iterator:
            result = self._execute(request)
            free_at = max(time.monotonic(), free_at) + self._step_s
            if (wait := free_at - time.monotonic()) > 0:
                await asyncio.sleep(wait)
            self._last_step, self._last_step_at = request.step, time.monotonic()
            yield result

    def _execute(self, request: shard_pb2.StepRequest) -> shard_pb2.StepResult:
        for slot in request.retired_slots:
            del self._slots[slot]
        for admission in request.admissions:
            self._slots[admission.slot] = _Slot(
                len(admission.token_ids), admission.num_cached_tokens
            )
        num_sampled = 0
        for slot, num_tokens in zip(request.work_slots, request.work_num_tokens, strict=True):
            state = self._slots[slot]
            state.num_computed += num_tokens
            if state.num_computed == state.num_known:
                state.num_known += 1
                num_sampled += 1
        ids = list(itertools.islice(self._token_ids, num_sampled))
        step_us = round(self._step_s * 1e6)
        return shard_pb2.StepResult(
            step=request.step,
            token_ids=ids,
            logprobs=[-1.0] * num_sampled,
            total_us=step_us,
            forward_us=step_us,
            sampled_checksum=zlib.crc32(array("I", ids).tobytes()),
        )


async def run(shard: NullShard, socket: str) -> None:
    """Serve until SIGTERM or SIGINT."""
    server = grpc.aio.server()
    shard_pb2_grpc.add_ShardServicer_to_server(shard, server)  # type: ignore[no-untyped-call]
    server.add_insecure_port(f"unix:{socket}")
    await server.start()
    stopped = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    await stopped.wait()
    with contextlib.suppress(asyncio.CancelledError):
        await server.stop(0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--socket", required=True)
    parser.add_argument("--step-ms", type=float, default=0.0)
    parser.add_argument("--vocab-size", type=int, required=True)
    parser.add_argument("--max-length", type=int, required=True)
    options = parser.parse_args()
    shard = NullShard(
        step_s=options.step_ms / 1000,
        vocab_size=options.vocab_size,
        max_length=options.max_length,
    )
    uvloop.run(run(shard, options.socket))


if __name__ == "__main__":
    main()
