"""A short selection of the benchmarks in one table: `make bench` (a few minutes).

The single commands have options and say more; see `benchmarks/__init__.py`.
"""

import argparse
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks import engine, grammars, router, startup
from benchmarks.checkpoint import SHAPES, write_checkpoint
from benchmarks.http_stream import StreamError
from benchmarks.load import LoadPlan, run_load
from benchmarks.processes import ServerFailedError, free_port, program, serve
from benchmarks.workload import Lengths, Workload

DEMO_MODEL = Path("demo/text_generation_demo/model")


@dataclass(frozen=True)
class Row:
    """One figure and what it should be."""

    what: str
    found: str
    target: str
    command: str


def startup_rows() -> Iterator[Row]:
    startup.measure(None)
    seconds = [startup.measure(None).first_token for _ in range(3)]
    found = f"{statistics.median(seconds):.2f} s"
    yield Row("start to first token", found, f"< {startup.TARGET_S:g} s", "startup")


def router_rows() -> Iterator[Row]:
    for name in ("arrivals", "idle"):
        row, _ = router.ROWS[name](8.0)
        yield Row(f"router alone, {row.what}", row.found, row.target, f"router --row {name}")


def load_rows() -> Iterator[Row]:
    port = free_port()
    argv = [program("text-generation-launcher"), "--port", str(port)]
    workload = Workload(
        dialect="generate",
        prompt_tokens=Lengths("fixed", 64),
        output_tokens=Lengths("fixed", 64),
        temperature=1.0,
    )
    with serve(argv, port=port) as server:
        plan = LoadPlan(
            url=server.url, workload=workload, clients=16, max_requests=2000, max_duration=8.0
        )
        found = run_load(plan)
    command = "load --clients 16 --temperature 1 --prompt-tokens 64"
    rate = f"{found.output_tokens_per_s:,.0f}/s"
    yield Row("demonstration model, 16 clients, output tokens", rate, "", command)
    first, gap = found.time_to_first_token.p50, found.inter_token.p50
    yield Row("   time to first token, p50", "-" if first is None else f"{first:.1f} ms", "", "")
    yield Row("   inter-token latency, p50", "-" if gap is None else f"{gap:.1f} ms", "", "")


def engine_rows() -> Iterator[Row]:
    lengths = engine.Lengths(prompt_tokens=128, output_tokens=16, streams=4)
    with tempfile.TemporaryDirectory(prefix="bench-") as scratch:
        write_checkpoint(Path(scratch), SHAPES["135m"], dtype="float32")
        found = engine.compare(Path(scratch), "float32", lengths, num_rounds=2)
    for field, what in (
        ("prefill", "135m float32, prefill"),
        ("decode", "   decode, 1 stream"),
        ("batched_decode", "   decode, 4 streams"),
    ):
        medians = {
            name: statistics.median(getattr(rates, field) for rates in rounds)
            for name, rounds in found.items()
        }
        yield Row(
            what,
            f"{medians['this server']:.1f}/s (transformers {medians['transformers']:.1f}/s)",
            "",
            "engine --size 135m",
        )


def grammar_rows() -> Iterator[Row]:
    found = grammars.measure(DEMO_MODEL, "float32", streams=32, output_tokens=100, num_rounds=1)
    ratio = statistics.median(rates.constrained / rates.free for rates in found)
    yield Row(
        "demonstration model, 32 streams, tokens/s under a grammar over free",
        f"{ratio:.2f}",
        f">= {grammars.TARGET:g}",
        f"grammars --model-id {DEMO_MODEL}",
    )


def main() -> None:
    argparse.ArgumentParser(
        prog="python -m benchmarks",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    ).parse_args()
    console = Console()
    table = Table(title="Benchmarks, short selection", title_justify="left")
    for column in ("what", "found", "target", "python -m benchmarks ..."):
        table.add_column(column)
    failed = False
    parts: tuple[Callable[[], Iterator[Row]], ...] = (
        startup_rows,
        router_rows,
        load_rows,
        engine_rows,
        grammar_rows,
    )
    for part in parts:
        name = part.__name__.removesuffix("_rows")
        console.print(f"{name} ...", style="dim")
        try:
            for row in part():
                table.add_row(row.what, row.found, row.target, row.command)
        except (ServerFailedError, StreamError, OSError, RuntimeError) as error:
            console.print(str(error), style="red", markup=False)
            table.add_row(name, f"failed: {str(error).splitlines()[0]}", "", name)
            failed = True
    console.print(table)
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
