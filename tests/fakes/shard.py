"""A shard without a model that speaks the real protocol.

What it answers is up to `shard_model`; a violation of the protocol is kept in `violations` and ends
the stream. It is also the null shard of the benchmarks: not strict, it answers a step of 256
sequences in well under a millisecond. `python -m tests.fakes.shard --help` runs one.
"""

import argparse
import asyncio
import tempfile
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Self

import grpc.aio
from text_generation_proto import shard_pb2, shard_pb2_grpc

from tests.fakes.shard_model import FakeShardConfig, ProtocolViolation, ShardModel


class FakeShard(shard_pb2_grpc.ShardServicer):
    """One rank: a `ShardModel` behind a gRPC server on a unix socket."""

    def __init__(
        self, uds_path: str, config: FakeShardConfig, *, rank: int = 0, world_size: int = 1
    ) -> None:
        self.uds_path = uds_path
        self.config = config
        self.violations: list[str] = []
        self.warmup: shard_pb2.WarmupRequest | None = None
        self.num_steps = 0
        # Set when it has come to the step at which it hangs.
        self.hangs = asyncio.Event()
        self._rank = rank
        self._world_size = world_size
        self._server: grpc.aio.Server | None = None
        self._free_at = 0.0

    async def start(self) -> None:
        options = (
            ("grpc.max_receive_message_length", -1),
            ("grpc.max_send_message_length", -1),
        )
        self._server = grpc.aio.server(options=options)
        shard_pb2_grpc.add_ShardServicer_to_server(self, self._server)
        self._server.add_insecure_port(f"unix:{self.uds_path}")
        await self._server.start()

    async def stop(self) -> None:
        """As if the process died; safe to call twice."""
        server, self._server = self._server, None
        if server is not None:
            await server.stop(None)

    async def Info(self, request: Any, context: Any) -> shard_pb2.InfoResponse:  # noqa: N802
        return shard_pb2.InfoResponse(
            model_type="fake",
            dtype="float32",
            device_type="cpu",
            vocab_size=self.config.vocab_size,
            max_position_embeddings=self.config.max_position_embeddings,
            world_size=self._world_size,
            rank=self._rank,
            decoder_start_token_id=self.config.decoder_start_token_id,
            supports_prefix_cache=self.config.supports_prefix_cache,
        )

    async def Health(self, request: Any, context: Any) -> shard_pb2.HealthResponse:  # noqa: N802
        return shard_pb2.HealthResponse(last_step=self.num_steps)

    async def Warmup(  # noqa: N802
        self, request: shard_pb2.WarmupRequest, context: Any
    ) -> shard_pb2.WarmupResponse:
        if self.config.warmup_refusal:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, self.config.warmup_refusal)
        self.warmup = request
        model = ShardModel(self.config, request)
        return shard_pb2.WarmupResponse(
            num_blocks=model.num_blocks,
            block_size=request.block_size,
            max_total_tokens=model.max_total_tokens,
            cache_bytes=1,
            weight_bytes=1,
            measured_tokens=[tokens for tokens, _, _ in self.config.measured_steps],
            measured_decodes=[decodes for _, decodes, _ in self.config.measured_steps],
            measured_ms=[milliseconds for _, _, milliseconds in self.config.measured_steps],
        )

    async def Run(  # noqa: N802
        self, requests: AsyncIterator[shard_pb2.StepRequest], context: Any
    ) -> AsyncIterator[shard_pb2.StepResult]:
        assert self.warmup is not None, "Run before Warmup"
        model = ShardModel(self.config, self.warmup)
        async for request in requests:
            if request.step == self.config.break_at_step:
                await context.abort(grpc.StatusCode.UNAVAILABLE, "the shard broke")
            if request.step == self.config.hang_at_step:
                self.hangs.set()
                await asyncio.Event().wait()
            started_at = time.perf_counter()
            try:
                result = model.step(request)
            except ProtocolViolation as violation:
                self.violations.append(str(violation))
                result = shard_pb2.StepResult(
                    step=request.step,
                    error=shard_pb2.StepError(
                        kind=shard_pb2.StepError.KIND_FATAL, message=str(violation)
                    ),
                )
            if self._rank:
                for name in ("token_ids", "logprobs", "prompt_logprobs"):
                    result.ClearField(name)
                for name in ("top_n_counts", "top_n_token_ids", "top_n_logprobs"):
                    result.ClearField(name)
            elif request.step == self.config.garble_at_step:
                result.logprobs.append(0.0)
            await self._take_time()
            self.num_steps = request.step
            result.total_us = max(1, int((time.perf_counter() - started_at) * 1e6))
            yield result
            if result.error.kind == shard_pb2.StepError.KIND_FATAL:
                return

    async def _take_time(self) -> None:
        if self.config.step_seconds:
            now = time.perf_counter()
            self._free_at = max(now, self._free_at) + self.config.step_seconds
            await asyncio.sleep(self._free_at - now)


class FakeShards:
    """Several ranks of one group, each on its socket, in a directory of their own. On the way out a
    violation of the protocol raises.
    """

    def __init__(self, config: FakeShardConfig | None = None, *, world_size: int = 1) -> None:
        self._directory = tempfile.TemporaryDirectory(prefix="tgi-", dir="/tmp")
        self.uds_paths = tuple(f"{self._directory.name}/s-{rank}" for rank in range(world_size))
        self.ranks = [
            FakeShard(path, config or FakeShardConfig(), rank=rank, world_size=world_size)
            for rank, path in enumerate(self.uds_paths)
        ]

    async def __aenter__(self) -> Self:
        for rank in self.ranks:
            await rank.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        for rank in self.ranks:
            await rank.stop()
        self._directory.cleanup()
        violations = [violation for rank in self.ranks for violation in rank.violations]
        if violations:
            raise ProtocolViolation("; ".join(violations))


async def _main() -> None:
    parser = argparse.ArgumentParser(description="Run a shard without a model.")
    parser.add_argument("--uds-path", required=True, help="socket; `-0` is appended (rank 0)")
    parser.add_argument("--step-ms", type=float, default=0.0)
    parser.add_argument("--vocab-size", type=int, default=1000)
    parser.add_argument("--num-blocks", type=int, default=65536)
    parser.add_argument("--max-position-embeddings", type=int, default=4096)
    parser.add_argument("--strict", action="store_true")
    options = parser.parse_args()
    path = f"{options.uds_path}-0"
    Path(path).unlink(missing_ok=True)  # noqa: ASYNC240
    shard = FakeShard(
        path,
        FakeShardConfig(
            vocab_size=options.vocab_size,
            num_blocks=options.num_blocks,
            max_position_embeddings=options.max_position_embeddings,
            step_seconds=options.step_ms / 1000,
            is_strict=options.strict,
        ),
    )
    await shard.start()
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(_main())
