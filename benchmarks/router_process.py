"""The real router in front of a shard that computes nothing, each on cores of its own; and that
shard without a router.
"""

import contextlib
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc.aio
import numpy as np
import uvloop
from text_generation_proto import shard_pb2, shard_pb2_grpc

from benchmarks.checkpoint import SHAPES
from benchmarks.processes import RunningServer, free_port, program, serve
from benchmarks.summary import Percentiles
from benchmarks.vocabulary import write_tokenizer

VOCAB_SIZE = 32000
MAX_LENGTH = 4096
SHARD_START_S = 30.0
BLOCK_SIZE = 16


@dataclass(frozen=True, kw_only=True)
class Cores:
    """Who computes where; None where the machine has a single core."""

    router: set[int] | None
    others: set[int] | None

    @classmethod
    def split(cls) -> "Cores":
        """The last allowed core for the router, the rest for everything else."""
        allowed = sorted(os.sched_getaffinity(0))
        if len(allowed) < 2:
            return cls(router=None, others=None)
        return cls(router={allowed[-1]}, others=set(allowed[:-1]))


@dataclass(frozen=True, kw_only=True)
class RouterAndShard:
    """Both run."""

    server: RunningServer
    # The shard's socket. A step stream of one's own ends the router's, and so the router.
    socket: str


@contextlib.contextmanager
def run_router(step_ms: float, cores: Cores) -> Iterator[RouterAndShard]:
    """Until the block ends; `step_ms` is what a step takes the shard."""
    with tempfile.TemporaryDirectory(prefix="bench-", dir="/tmp") as scratch:
        folder = Path(scratch)
        write_tokenizer(folder, VOCAB_SIZE, MAX_LENGTH)
        config = SHAPES["398m"].config("float32")
        (folder / "config.json").write_text(json.dumps(config))
        port = free_port()
        argv = [program("text-generation-router"), "--model-path", scratch, "--port", str(port)]
        argv += ["--shard-uds-path", f"{scratch}/shard", "--hostname", "127.0.0.1"]
        argv += ["--max-concurrent-requests", "4096", "--max-batch-size", "4096"]
        argv += ["--logger-level", "WARNING"]
        with (
            run_null_shard(f"{scratch}/shard-0", step_ms),
            serve(argv, port=port, cores=cores.router) as server,
        ):
            yield RouterAndShard(server=server, socket=f"{scratch}/shard-0")


@contextlib.contextmanager
def run_null_shard(socket: str, step_ms: float) -> Iterator[None]:
    """A shard alone, until the block ends."""
    argv = [sys.executable, "-m", "benchmarks.null_shard", "--socket", socket]
    argv += ["--step-ms", str(step_ms), "--vocab-size", str(VOCAB_SIZE)]
    process = subprocess.Popen([*argv, "--max-length", str(MAX_LENGTH)])
    try:
        deadline = time.monotonic() + SHARD_START_S
        while not Path(socket).exists():
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError("the null shard did not start")
            time.sleep(0.02)
        yield
    finally:
        process.terminate()
        process.wait(10)


def direct_first_token(socket: str, prompt_tokens: int, count: int) -> Percentiles:
    """Time to first token of a client that speaks to the shard itself: it sends the step that
    admits and reads a prompt, and has the token with its result. One prompt after the other.
    """
    return Percentiles.of(np.array(uvloop.run(_direct(socket, prompt_tokens, count))))


async def _direct(socket: str, prompt_tokens: int, count: int) -> list[float]:
    source = random.Random(0)
    seconds: list[float] = []
    async with grpc.aio.insecure_channel(f"unix:{socket}") as channel:
        stub: Any = shard_pb2_grpc.ShardStub(channel)  # type: ignore[no-untyped-call]
        await stub.Warmup(
            shard_pb2.WarmupRequest(max_step_tokens=MAX_LENGTH, block_size=BLOCK_SIZE)
        )
        stream = stub.Run()
        for step in range(1, count + 1):
            token_ids = source.choices(range(VOCAB_SIZE), k=prompt_tokens)
            begin = time.perf_counter()
            request = shard_pb2.StepRequest(
                step=step,
                retired_slots=[0] if step > 1 else [],
                admissions=[shard_pb2.Admission(slot=0, sequence_id=step, token_ids=token_ids)],
                work_slots=[0],
                work_num_tokens=[prompt_tokens],
            )
            await stream.write(request)
            result = await stream.read()
            seconds.append(time.perf_counter() - begin)
            assert len(result.token_ids) == 1
        stream.cancel()
    return seconds
