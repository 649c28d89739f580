"""Memory of a shard: while it loads, after that, after warmup, and when it has computed.

    python -m benchmarks.memory --size 398m

Aim: weights at their precision, the cache and 600 MB. The shard runs alone, without a router, and
is warmed up as the launcher does by default; then it reads 4 prompts of 500 tokens and decodes a
few steps. The cache is reserved and not touched: it counts as far as blocks were used. Peak is
the most resident memory while it loaded, pages of the mapped checkpoint among it, which are the
system's to take back; the other columns show anonymous and mapped memory apart.
"""

import argparse
import json
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import grpc
from rich.console import Console
from rich.table import Table
from text_generation_proto import shard_pb2, shard_pb2_grpc

from benchmarks.measured_model import add_model_options, model_folder, model_name

STORAGES: dict[str, list[str]] = {
    "float32": ["--dtype", "float32"],
    "bfloat16": ["--dtype", "bfloat16"],
    "int8": ["--quantize", "int8"],
    "int4": ["--quantize", "int4"],
}
AIM_MB = 600
START_S = 120.0
BLOCK_SIZE = 16
PROMPT_TOKENS, DECODED_TOKENS, STREAMS = 500, 8, 4


@dataclass(frozen=True, kw_only=True)
class Memory:
    """Of a process, in MB (10^6 bytes)."""

    anonymous: float
    mapped: float
    peak: float

    @classmethod
    def of(cls, pid: int) -> "Memory":
        fields = dict(
            line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines()
        )

        def megabytes(name: str) -> float:
            return int(fields[name].split()[0]) * 1024 / 1e6

        mapped = megabytes("RssFile") + megabytes("RssShmem")
        return cls(anonymous=megabytes("RssAnon"), mapped=mapped, peak=megabytes("VmHWM"))

    @property
    def resident(self) -> float:
        return self.anonymous + self.mapped


@dataclass(frozen=True, kw_only=True)
class Found:
    """One storage."""

    weights_mb: float
    # Reserved; and what the sequences of the last column hold of it.
    cache_mb: float
    used_cache_mb: float
    loaded: Memory
    warm: Memory
    computed: Memory

    @property
    def beside_mb(self) -> float:
        """What is resident beside weights and used cache, after computing."""
        return self.computed.resident - self.weights_mb - self.used_cache_mb


def measure(folder: Path, flags: list[str]) -> Found:
    """Start, load, warm up, compute, stop."""
    with _shard(folder, flags) as (pid, socket):
        loaded = Memory.of(pid)
        with grpc.insecure_channel(f"unix:{socket}") as channel:
            stub: Any = shard_pb2_grpc.ShardStub(channel)  # type: ignore[no-untyped-call]
            vocab_size = stub.Info(shard_pb2.InfoRequest()).vocab_size
            warmup = stub.Warmup(
                shard_pb2.WarmupRequest(
                    max_slots=128, max_step_tokens=4096, block_size=BLOCK_SIZE, max_top_n_tokens=5
                )
            )
            warm = Memory.of(pid)
            for _ in stub.Run(_steps(vocab_size)):
                pass
            computed = Memory.of(pid)
    cache_mb = warmup.cache_bytes / 1e6
    return Found(
        weights_mb=warmup.weight_bytes / 1e6,
        cache_mb=cache_mb,
        used_cache_mb=cache_mb / warmup.num_blocks * STREAMS * _blocks_per_sequence(),
        loaded=loaded,
        warm=warm,
        computed=computed,
    )


def _blocks_per_sequence() -> int:
    return -(-(PROMPT_TOKENS + DECODED_TOKENS) // BLOCK_SIZE)


def _steps(vocab_size: int) -> Iterator[shard_pb2.StepRequest]:
    """Each prompt in a step of its own, then decodes of all."""
    source, count = random.Random(0), _blocks_per_sequence()
    for slot in range(STREAMS):
        admission = shard_pb2.Admission(
            slot=slot,
            sequence_id=slot + 1,
            token_ids=source.choices(range(vocab_size), k=PROMPT_TOKENS),
            block_ids=range(1 + slot * count, 1 + (slot + 1) * count),
            sampling=shard_pb2.SamplingParameters(
                temperature=1.0, top_p=1.0, typical_p=1.0, repetition_penalty=1.0
            ),
        )
        yield shard_pb2.StepRequest(
            step=slot + 1,
            admissions=[admission],
            work_slots=[slot],
            work_num_tokens=[PROMPT_TOKENS],
        )
    for step in range(STREAMS + 1, STREAMS + DECODED_TOKENS):
        yield shard_pb2.StepRequest(
            step=step, work_slots=range(STREAMS), work_num_tokens=[1] * STREAMS
        )


@contextmanager
def _shard(folder: Path, flags: list[str]) -> Iterator[tuple[int, Path]]:
    """Its process and socket, when it has loaded."""
    with tempfile.TemporaryDirectory(prefix="bench-", dir="/tmp") as scratch:
        argv = [sys.executable, "-P", "-m", "text_generation_shard.cli", "serve"]
        argv += ["--model-path", str(folder), "--uds-path", f"{scratch}/s", *flags]
        process = subprocess.Popen([*argv, "--logger-level", "WARNING"])
        socket, deadline = Path(f"{scratch}/s-0"), time.monotonic() + START_S
        try:
            while not socket.exists():
                if process.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError(f"the shard did not start: exit code {process.returncode}")
                time.sleep(0.02)
            yield process.pid, socket
        finally:
            process.terminate()
            process.wait(30)


def show(found: dict[str, Found], title: str, console: Console | None = None) -> None:
    """One row for each storage."""
    table = Table(title=f"{title}, MB", title_justify="left")
    table.add_column("weights as")
    for column in (
        "weights",
        "loaded: anonymous + mapped",
        "peak",
        "warm",
        "computed",
        "used cache",
        "beside weights and used cache",
        f"<= {AIM_MB}",
    ):
        table.add_column(column, justify="right")
    for name, each in found.items():
        loaded, warm, computed = (
            f"{state.anonymous:.0f} + {state.mapped:.0f}"
            for state in (each.loaded, each.warm, each.computed)
        )
        cells = (loaded, f"{each.loaded.peak:.0f}", warm, computed, f"{each.used_cache_mb:.0f}")
        met = "yes" if each.beside_mb <= AIM_MB else "NO"
        table.add_row(name, f"{each.weights_mb:.0f}", *cells, f"{each.beside_mb:.0f}", met)
    (console or Console()).print(table)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.memory",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_model_options(parser, size="398m", dtype="bfloat16")
    parser.add_argument("--storage", action="append", choices=STORAGES, help="default: all")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the result there too")
    options = parser.parse_args()
    with model_folder(options) as folder:
        names = options.storage or list(STORAGES)
        found = {name: measure(folder, STORAGES[name]) for name in names}
    show(found, f"Memory of the shard of {model_name(options)}")
    if options.json:
        content = {name: asdict(each) for name, each in found.items()}
        options.json.write_text(json.dumps(content, indent=2) + "\n")


if __name__ == "__main__":
    main()
