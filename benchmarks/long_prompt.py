"""What a long prompt does to the streams that decode meanwhile.

    python -m benchmarks.long_prompt --size 398m --dtype bfloat16 --rounds 2

The real launcher with its defaults serves random weights. Streams decode; then a prompt of 4,000
tokens arrives. Counted are the streams' gaps (between two tokens) from its sending until its first
token. A step may take --target-step-ms while others wait; the aim is a 99th percentile of at most
twice that. Every round begins with new streams; the first one finds a server that knows nothing but
its warmup.
"""

import argparse
import asyncio
import json
import random
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import uvloop
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from benchmarks.http_stream import Endpoint, ResponseRecord, StreamConnection, StreamError
from benchmarks.measured_model import add_model_options, model_folder, model_name
from benchmarks.processes import free_port, program, serve
from benchmarks.summary import Percentiles
from benchmarks.workload import WORDS

# Tokens of each stream before the prompt comes.
LEAD_TOKENS = 24
STREAM_PROMPT_TOKENS = 16
STREAM_TOKENS = 4000
POLL_S = 0.01
TIME_LIMIT_S = 600.0
AIM = 2.0


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What one round does."""

    streams: int
    prompt_tokens: int
    target_step_ms: float


@dataclass(frozen=True, kw_only=True)
class Round:
    """What it found."""

    # Gaps of the streams before the prompt was sent, and until its first token.
    before: Percentiles
    during: Percentiles
    longest_ms: float
    num_gaps: int
    # Of the long prompt.
    first_token_s: float


async def measure_round(url: str, plan: Plan, source: random.Random) -> Round:
    """Streams, then the prompt."""
    endpoint = Endpoint(url=url, path="/generate_stream")
    connections = [await endpoint.connect() for _ in range(plan.streams)]
    message = endpoint.message(_body(source, STREAM_PROMPT_TOKENS, STREAM_TOKENS))
    streams = [
        asyncio.create_task(connection.request(message, TIME_LIMIT_S)) for connection in connections
    ]
    try:
        while min(len(connection.event_times) for connection in connections) < LEAD_TOKENS:
            _check_running(streams)
            await asyncio.sleep(POLL_S)
        sent_at = time.perf_counter()
        record = await _read_prompt(endpoint, plan, source)
        _check_running(streams)
        return _round(connections, sent_at, record.event_times[0])
    finally:
        for connection in connections:
            connection.close()
        await asyncio.gather(*streams, return_exceptions=True)


async def _read_prompt(endpoint: Endpoint, plan: Plan, source: random.Random) -> ResponseRecord:
    connection = await endpoint.connect()
    body = _body(source, plan.prompt_tokens, 1)
    record = await connection.request(endpoint.message(body), TIME_LIMIT_S)
    connection.close()
    details = (record.last_event or {}).get("details") or {}
    if record.status != 200 or details.get("input_length") != plan.prompt_tokens:
        raise StreamError(f"status {record.status}: {record.last_event or record.body!r}")
    return record


def _body(source: random.Random, prompt_tokens: int, output_tokens: int) -> dict[str, Any]:
    """A new prompt of exactly so many tokens: a word has one at least."""
    parameters = {
        "max_new_tokens": output_tokens,
        "truncate": prompt_tokens,
        "ignore_eos": True,
        "details": True,
    }
    return {"inputs": " ".join(source.choices(WORDS, k=prompt_tokens)), "parameters": parameters}


def _check_running(streams: list["asyncio.Task[ResponseRecord]"]) -> None:
    for stream in streams:
        if stream.done():
            record = stream.result()
            raise StreamError(f"a stream ended early: status {record.status}: {record.body!r}")


def _round(connections: list[StreamConnection], sent_at: float, read_at: float) -> Round:
    before, during = [], []
    for connection in connections:
        times = np.array(connection.event_times)
        gaps = np.diff(times)
        before.append(gaps[times[1:] <= sent_at])
        during.append(gaps[(times[1:] > sent_at) & (times[:-1] < read_at)])
    gaps_during: NDArray[np.float64] = np.concatenate(during)
    return Round(
        before=Percentiles.of(np.concatenate(before)),
        during=Percentiles.of(gaps_during),
        longest_ms=float(gaps_during.max()) * 1000,
        num_gaps=len(gaps_during),
        first_token_s=read_at - sent_at,
    )


def measure(folder: Path, flags: list[str], plan: Plan, rounds: int) -> list[Round]:
    """One server, all rounds."""
    port = free_port()
    argv = [program("text-generation-launcher"), "--model-id", str(folder), "--port", str(port)]
    argv += ["--target-step-ms", str(plan.target_step_ms), *flags]
    source = random.Random(0)
    with serve(argv, port=port, ready_timeout=600.0) as server:
        return [uvloop.run(measure_round(server.url, plan, source)) for _ in range(rounds)]


def show(found: list[Round], plan: Plan, title: str, console: Console | None = None) -> None:
    """One row for each round."""
    aim = AIM * plan.target_step_ms
    table = Table(title=title, title_justify="left")
    columns = ("round", "gap before, p50 / p99", "while it is read, p50 / p99", "longest", "aim")
    for column in (*columns, "met", "the prompt's first token"):
        table.add_column(column, justify="right")
    for number, each in enumerate(found, 1):
        p99 = each.during.p99
        table.add_row(
            str(number),
            f"{each.before.p50:.1f} / {each.before.p99:.1f} ms",
            f"{each.during.p50:.1f} / {p99:.1f} ms",
            f"{each.longest_ms:.1f} ms",
            f"p99 <= {aim:g} ms",
            "yes" if p99 is not None and p99 <= aim else "NO",
            f"{each.first_token_s:.2f} s",
        )
    (console or Console()).print(table)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.long_prompt",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_model_options(parser, size="398m", dtype="bfloat16")
    parser.add_argument("--quantize", choices=("int8", "int4"))
    parser.add_argument("--streams", type=int, default=8)
    parser.add_argument("--prompt-tokens", type=int, default=4000)
    parser.add_argument("--target-step-ms", type=float, default=100.0, help="the launcher's flag")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rounds there too")
    options = parser.parse_args()
    plan = Plan(
        streams=options.streams,
        prompt_tokens=options.prompt_tokens,
        target_step_ms=options.target_step_ms,
    )
    flags = ["--dtype", options.dtype]
    if options.quantize:
        flags += ["--quantize", options.quantize]
    with model_folder(options) as folder:
        found = measure(folder, flags, plan, options.rounds)
    show(
        found,
        plan,
        f"{plan.streams} streams while {plan.prompt_tokens} tokens are read: "
        f"{model_name(options)}, {' '.join(flags)}",
    )
    if options.json:
        options.json.write_text(json.dumps([asdict(each) for each in found], indent=2) + "\n")


if __name__ == "__main__":
    main()
