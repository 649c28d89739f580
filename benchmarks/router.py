"""The router alone: real HTTP clients in front, a shard that computes nothing behind.

    python -m benchmarks.router                      # every row, with its target
    python -m benchmarks.router --row short --row idle
    python -m benchmarks.router --streams 256 --step-ms 5 --output-tokens 256    # one of your own

The router gets a core of its own; the null shard and the clients share the other cores.

    long      256 streams of 2,000 tokens, a step takes 3 ms
    arrivals  256 streams of 128 tokens, 5 ms: whoever is done asks again, so more than 300 new
              chats a second arrive when the target is met
    gaps      the same with 10 ms: half of what the router can, so its gaps are its own
    short     64 clients that want answers of 16 tokens in one piece, 2 ms
    idle      one client at a time, a shard that answers at once. What the router adds is the median
              time to first token less that of a client that sends the shard the step itself: so
              HTTP, also the client's part of it, counts as added
"""

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks.load import LoadPlan, run_load
from benchmarks.processes import RunningServer
from benchmarks.router_process import Cores, direct_first_token, run_null_shard, run_router
from benchmarks.summary import Percentiles, Summary
from benchmarks.workload import DIALECTS, Dialect, Lengths, Workload

IDLE_REQUESTS = 200
WARMUP_REQUESTS = 20
WARMUP_TOKENS = 32


@dataclass(frozen=True, kw_only=True)
class Scenario:
    """What runs against the router."""

    dialect: Dialect = "chat"
    streams: int
    step_ms: float
    prompt_tokens: int = 32
    output_tokens: int
    duration: float = 8.0
    # Or answered in one piece.
    is_streamed: bool = True


@dataclass(frozen=True, kw_only=True)
class BusyFigures:
    """What was found while clients ran."""

    load: Summary
    # Of the router process meanwhile.
    cpu_us_per_token: float
    cpu_share: float


@dataclass(frozen=True, kw_only=True)
class IdleFigures:
    """What one client at a time found."""

    load: Summary
    # Time to first token without a router.
    direct: Percentiles

    @property
    def added_ms(self) -> float:
        """What the router adds to the median time to first token."""
        through, direct = self.load.time_to_first_token.p50, self.direct.p50
        assert through is not None and direct is not None, "nothing was answered"
        return through - direct


LONG = Scenario(streams=256, step_ms=3.0, output_tokens=2000)
ARRIVALS = Scenario(streams=256, step_ms=5.0, output_tokens=128)
GAPS = replace(ARRIVALS, step_ms=10.0)
SHORT = Scenario(streams=64, step_ms=2.0, output_tokens=16, is_streamed=False)
IDLE = Scenario(streams=1, step_ms=0.0, output_tokens=1)


@dataclass(frozen=True)
class Row:
    """One claim: what was found, what it should be, and what else was seen."""

    what: str
    found: str
    target: str
    is_met: bool | None
    seen: str


def measure_busy(scenario: Scenario) -> BusyFigures:
    """All streams at the same time, for the scenario's duration and until they end."""
    with run_router(scenario.step_ms, _pinned()) as running:
        server = running.server
        warmup = min(WARMUP_TOKENS, scenario.output_tokens)
        _load(server, replace(scenario, output_tokens=warmup), requests=scenario.streams)
        before, begin = server.cpu_seconds(), time.perf_counter()
        load = _load(server, scenario, requests=10**9)
        cpu, wall = server.cpu_seconds() - before, time.perf_counter() - begin
    return BusyFigures(
        load=load,
        cpu_us_per_token=cpu / max(1, load.num_output_tokens) * 1e6,
        cpu_share=cpu / wall,
    )


def measure_idle(scenario: Scenario = IDLE) -> IdleFigures:
    """One client at a time through the router, then the same without it."""
    with run_router(0.0, _pinned()) as running:
        _load(running.server, scenario, requests=WARMUP_REQUESTS)
        load = _load(running.server, scenario, requests=IDLE_REQUESTS)
    with tempfile.TemporaryDirectory(prefix="bench-", dir="/tmp") as scratch:
        socket = f"{scratch}/shard-0"
        with run_null_shard(socket, 0.0):
            direct_first_token(socket, scenario.prompt_tokens, WARMUP_REQUESTS)
            direct = direct_first_token(socket, scenario.prompt_tokens, IDLE_REQUESTS)
    return IdleFigures(load=load, direct=direct)


def _pinned() -> Cores:
    """This process and its children keep off the router's core."""
    cores = _CORES
    if cores.others is not None:
        os.sched_setaffinity(0, cores.others)
    return cores


# Asked once: afterwards this process may use fewer.
_CORES = Cores.split()


def _load(server: RunningServer, scenario: Scenario, *, requests: int) -> Summary:
    workload = Workload(
        dialect=scenario.dialect,
        prompt_tokens=Lengths("fixed", scenario.prompt_tokens),
        output_tokens=Lengths("fixed", scenario.output_tokens),
        tokens_per_word=2.0,
        is_streamed=scenario.is_streamed,
    )
    plan = LoadPlan(
        url=server.url,
        workload=workload,
        clients=scenario.streams,
        max_requests=requests,
        max_duration=scenario.duration,
    )
    return run_load(plan)


def long_row(duration: float) -> tuple[Row, BusyFigures]:
    found = measure_busy(replace(LONG, duration=duration))
    return _at_least(found, "tokens/s of 256 long streams", 70_000, tokens=True), found


def arrivals_row(duration: float) -> tuple[Row, BusyFigures]:
    found = measure_busy(replace(ARRIVALS, duration=duration))
    what = "tokens/s while chats of 128 tokens arrive"
    row = _at_least(found, what, 40_000, tokens=True)
    arriving = found.load.requests_per_s
    return replace(
        row,
        target=f"{row.target}, >= 300 chats/s",
        found=f"{row.found}, {arriving:.0f} chats/s",
        is_met=bool(row.is_met) and arriving >= 300,
    ), found


def gaps_row(duration: float) -> tuple[Row, BusyFigures]:
    scenario = replace(GAPS, duration=duration)
    found = measure_busy(scenario)
    target, gap = 1.5 * scenario.step_ms, found.load.inter_token.p99
    is_met = gap is not None and gap <= target
    shown = "-" if gap is None else f"{gap:.2f} ms"
    what = f"p99 gap at {found.load.output_tokens_per_s:,.0f} tokens/s, 10 ms steps"
    return Row(what, shown, f"<= {target:g} ms", is_met, _seen(found)), found


def short_row(duration: float) -> tuple[Row, BusyFigures]:
    found = measure_busy(replace(SHORT, duration=duration))
    what = "unstreamed chats of 16 tokens a second"
    return _at_least(found, what, 400, tokens=False), found


def idle_row(duration: float) -> tuple[Row, IdleFigures]:
    del duration
    found = measure_idle()
    seen = f"p50 / p99 {_pair(found.load.time_to_first_token)} ms, without router "
    seen += f"{_pair(found.direct)} ms"
    is_met = found.added_ms <= 0.7
    what = "added to an idle first token, p50"
    return Row(what, f"{found.added_ms:.2f} ms", "<= 0.7 ms", is_met, seen), found


ROWS: dict[str, Callable[[float], tuple[Row, BusyFigures | IdleFigures]]] = {
    "long": long_row,
    "arrivals": arrivals_row,
    "gaps": gaps_row,
    "short": short_row,
    "idle": idle_row,
}


def _at_least(found: BusyFigures, what: str, target: float, *, tokens: bool) -> Row:
    rate = found.load.output_tokens_per_s if tokens else found.load.requests_per_s
    return Row(what, f"{rate:,.0f}", f">= {target:,}", rate >= target, _seen(found))


def _seen(found: BusyFigures) -> str:
    """What says how the figure came about."""
    load = found.load
    text = f"router {found.cpu_us_per_token:.1f} us a token, {found.cpu_share:.0%} of its core"
    if load.inter_token.p50 is not None:
        text += f"; gap p50 / p99 {_pair(load.inter_token)} ms"
    text += f"; clients {load.client.cpu_share:.0%}"
    return text + (", TOO FEW for the router" if load.client.is_saturated else "")


def _pair(found: Percentiles) -> str:
    return "-" if found.p50 is None else f"{found.p50:.2f} / {found.p99:.2f}"


def show(rows: list[Row], console: Console | None = None) -> None:
    """The table."""
    table = Table(title="Router alone", title_justify="left")
    table.add_column("what")
    table.add_column("found", justify="right")
    table.add_column("target", justify="right")
    table.add_column("met")
    table.add_column("seen meanwhile")
    for row in rows:
        met = "" if row.is_met is None else "yes" if row.is_met else "NO"
        table.add_row(row.what, row.found, row.target, met, row.seen)
    (console or Console()).print(table)


def _measure(
    options: argparse.Namespace,
) -> Iterator[tuple[str, tuple[Row, BusyFigures | IdleFigures]]]:
    """The rows asked for, or the one scenario."""
    names = ("dialect", "streams", "step_ms", "prompt_tokens", "output_tokens")
    given = {name: value for name in names if (value := getattr(options, name)) is not None}
    if given:
        scenario = Scenario(
            **{"streams": 256, "step_ms": 5.0, "output_tokens": 256} | given,
            duration=options.duration,
        )
        figures = measure_busy(scenario)
        what = f"{scenario.dialect}, {scenario.streams} streams of {scenario.output_tokens} tokens"
        rate = f"{figures.load.output_tokens_per_s:,.0f} tokens/s"
        yield (
            "own",
            (Row(f"{what}, {scenario.step_ms:g} ms", rate, "", None, _seen(figures)), figures),
        )
        return
    for name in options.row or ROWS:
        print(f"{name} ...", file=sys.stderr)
        yield name, ROWS[name](options.duration)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.router",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--row", action="append", choices=ROWS, help="repeatable (default: all)")
    parser.add_argument("--duration", type=float, default=8.0, help="seconds of each row")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the result there too")
    own = parser.add_argument_group("a scenario of your own instead of the rows")
    own.add_argument("--dialect", choices=DIALECTS)
    own.add_argument("--streams", type=int)
    own.add_argument("--step-ms", type=float, help="what a step takes the shard")
    own.add_argument("--prompt-tokens", type=int)
    own.add_argument("--output-tokens", type=int)
    options = parser.parse_args()
    found = dict(_measure(options))
    show([row for row, _ in found.values()])
    failures = [figures.load.failures for _, figures in found.values()]
    for reason, count in (item for each in failures for item in each.items()):
        print(f"failed {count} times: {reason}")
    if options.json:
        content = {name: asdict(figures) for name, (_, figures) in found.items()}
        options.json.write_text(json.dumps(content, indent=2) + "\n")
    sys.exit(1 if any(failures) else 0)


if __name__ == "__main__":
    main()
