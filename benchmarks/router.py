"""The router alone: real HTTP clients in front, a shard that computes nothing behind.

    python -m benchmarks.router --streams 256 --step-ms 5

The router gets a core of its own; the null shard and the clients share the other cores. First one
client at a time asks an idle router whose shard answers at once: that is what the router, HTTP and
gRPC add to the time to first token. Then all streams run, with a shard that takes --step-ms.
"""

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks.checkpoint import SHAPES
from benchmarks.load import LoadPlan, run_load
from benchmarks.processes import RunningServer, free_port, program, serve
from benchmarks.summary import Percentiles, Summary
from benchmarks.vocabulary import write_tokenizer
from benchmarks.workload import DIALECTS, Dialect, Lengths, Workload

VOCAB_SIZE = 32000
MAX_LENGTH = 4096
SHARD_START_S = 30.0
TARGET_TOKENS_PER_S = 30_000
TARGET_ADDED_MS = 1.0
IDLE_REQUESTS = 200
WARMUP_REQUESTS = 20


@dataclass(frozen=True, kw_only=True)
class Scenario:
    """What runs against the router."""

    dialect: Dialect
    streams: int
    step_ms: float
    prompt_tokens: int
    output_tokens: int
    duration: float


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
class RouterFigures:
    """What was found."""

    idle: Summary
    busy: Summary
    # Of the router process while the streams ran.
    cpu_us_per_token: float
    cpu_share: float


def measure(scenario: Scenario) -> RouterFigures:
    """Both phases, each with a router and a shard of its own."""
    cores = Cores.split()
    if cores.others is not None:
        os.sched_setaffinity(0, cores.others)
    with _router(0.0, cores) as server:
        _load(server, scenario, clients=1, requests=WARMUP_REQUESTS)
        idle = _load(server, scenario, clients=1, requests=IDLE_REQUESTS, output_tokens=1)
    with _router(scenario.step_ms, cores) as server:
        _load(server, scenario, clients=scenario.streams, requests=scenario.streams)
        before, begin = server.cpu_seconds(), time.perf_counter()
        busy = _load(server, scenario, clients=scenario.streams, requests=10**9)
        cpu, wall = server.cpu_seconds() - before, time.perf_counter() - begin
    return RouterFigures(
        idle=idle,
        busy=busy,
        cpu_us_per_token=cpu / max(1, busy.num_output_tokens) * 1e6,
        cpu_share=cpu / wall,
    )


@contextlib.contextmanager
def _router(step_ms: float, cores: Cores) -> Iterator[RunningServer]:
    """The real router in front of a null shard."""
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
            _null_shard(f"{scratch}/shard-0", step_ms),
            serve(argv, port=port, cores=cores.router) as server,
        ):
            yield server


@contextlib.contextmanager
def _null_shard(socket: str, step_ms: float) -> Iterator[None]:
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


def _load(
    server: RunningServer,
    scenario: Scenario,
    *,
    clients: int,
    requests: int,
    output_tokens: int | None = None,
) -> Summary:
    workload = Workload(
        dialect=scenario.dialect,
        prompt_tokens=Lengths("fixed", scenario.prompt_tokens),
        output_tokens=Lengths("fixed", output_tokens or scenario.output_tokens),
        tokens_per_word=2.0,
    )
    plan = LoadPlan(
        url=server.url,
        workload=workload,
        clients=clients,
        max_requests=requests,
        max_duration=scenario.duration,
    )
    return run_load(plan)


def show(found: RouterFigures, scenario: Scenario, console: Console | None = None) -> None:
    """One row for each claim."""
    console = console or Console()
    busy, idle = found.busy, found.idle
    table = Table(
        title=f"Router alone: {scenario.dialect}, {scenario.streams} streams of "
        f"{scenario.output_tokens} tokens, step {scenario.step_ms:g} ms",
        title_justify="left",
    )
    table.add_column("what")
    table.add_column("found", justify="right")
    table.add_column("target", justify="right")
    rows = (
        (
            "streamed tokens/s",
            f"{busy.output_tokens_per_s:,.0f}",
            f">= {TARGET_TOKENS_PER_S:,}",
        ),
        ("router CPU per token, us", f"{found.cpu_us_per_token:.1f}", ""),
        ("router CPU share of its core", f"{found.cpu_share:.0%}", ""),
        ("inter-token latency p50 / p99, ms", _pair(busy.inter_token), ""),
        (
            "time to first token when idle p50 / p99, ms",
            _pair(idle.time_to_first_token),
            f"<= {TARGET_ADDED_MS:g}",
        ),
        ("requests/s meanwhile", f"{busy.requests_per_s:.1f}", ""),
        ("client CPU share", f"{busy.client.cpu_share:.0%}", ""),
    )
    for row in rows:
        table.add_row(*row)
    console.print(table)
    for summary in (idle, busy):
        for reason, count in summary.failures.items():
            console.print(f"failed {count} times: {reason}", style="red", markup=False)
    if busy.client.is_saturated:
        console.print(
            "WARNING: the clients lacked CPU: the router may be faster than this.",
            style="bold yellow",
        )


def _pair(found: Percentiles) -> str:
    return "-" if found.p50 is None else f"{found.p50:.2f} / {found.p99:.2f}"


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.router",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--dialect", choices=DIALECTS, default="chat")
    parser.add_argument("--streams", type=int, default=256)
    parser.add_argument("--step-ms", type=float, default=5.0, help="what a step takes the shard")
    parser.add_argument("--prompt-tokens", type=int, default=32)
    parser.add_argument("--output-tokens", type=int, default=256)
    parser.add_argument("--duration", type=float, default=10.0)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the result there too")
    options = parser.parse_args()
    scenario = Scenario(
        dialect=options.dialect,
        streams=options.streams,
        step_ms=options.step_ms,
        prompt_tokens=options.prompt_tokens,
        output_tokens=options.output_tokens,
        duration=options.duration,
    )
    found = measure(scenario)
    show(found, scenario)
    if options.json:
        options.json.write_text(json.dumps(asdict(found), indent=2) + "\n")


if __name__ == "__main__":
    main()
