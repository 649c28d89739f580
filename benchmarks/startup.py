"""Time from process start to the first token of the demonstration model, with the way there.

    python -m benchmarks.startup --runs 5
    python -m benchmarks.startup --model-id 398m-checkpoint -- --quantize int8

Every run starts `text-generation-launcher` anew, with what follows `--`, asks for a token as soon
as the port is open, and stops it. The first run warms the file cache and is not counted.
"""

import argparse
import datetime
import json
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import uvloop
from rich.console import Console
from rich.table import Table

from benchmarks.http_stream import Endpoint, StreamError
from benchmarks.processes import RunningServer, free_port, program, serve

PROMPT = "What is deep learning?"
TARGET_S = 6.0


@dataclass(frozen=True, kw_only=True)
class Startup:
    """One start, in seconds since the process was started."""

    ready: float
    first_token: float
    # When the log lines appeared, with their text.
    log: list[tuple[float, str]]


def measure(model: str | None, options: Sequence[str] = ()) -> Startup:
    """Start with these options of the launcher, ask, stop."""
    port = free_port()
    argv = [program("text-generation-launcher"), "--port", str(port), "--json-output", *options]
    argv += ["--model-id", model] if model else []
    with serve(argv, port=port) as server:
        ready = time.time() - server.started_at
        record_at = uvloop.run(_first_token(server))
        log = _milestones(server)
    return Startup(ready=ready, first_token=record_at - server.started_at, log=log)


async def _first_token(server: RunningServer) -> float:
    endpoint = Endpoint(url=server.url, path="/generate_stream")
    connection = await endpoint.connect()
    body = {"inputs": PROMPT, "parameters": {"max_new_tokens": 1}}
    record = await connection.request(endpoint.message(body), 60.0)
    if record.status != 200 or not record.event_times:
        raise StreamError(f"status {record.status}: {record.body[:200]!r}")
    arrived = time.time() - (time.perf_counter() - record.event_times[0])
    connection.close()
    return arrived


def _milestones(server: RunningServer) -> list[tuple[float, str]]:
    found = []
    for line in server.log.read_text(errors="replace").splitlines():
        try:
            record = json.loads(line)
            moment = datetime.datetime.fromisoformat(record["timestamp"]).timestamp()
        except (ValueError, KeyError, TypeError):
            continue
        found.append((moment - server.started_at, f"{record['target']}: {record['message']}"))
    return found


def show(runs: list[Startup], console: Console | None = None) -> None:
    """The breakdown of the median run, and the spread."""
    console = console or Console()
    ordered = sorted(runs, key=lambda run: run.first_token)
    middle = ordered[(len(ordered) - 1) // 2]
    table = Table(title="From process start (median run)", title_justify="left")
    table.add_column("seconds", justify="right")
    table.add_column("what")
    moments = [*middle.log, (middle.ready, "HTTP answers"), (middle.first_token, "first token")]
    for moment, text in sorted(moments):
        table.add_row(f"{moment:.2f}", text[:110])
    console.print(table)
    firsts = [run.first_token for run in ordered]
    console.print(
        f"first token after {statistics.median(firsts):.2f} s (median of {len(firsts)}; "
        f"{firsts[0]:.2f} to {firsts[-1]:.2f}); target {TARGET_S:g} s"
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.startup",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--model-id", help="another model than the demonstration")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the runs there too")
    parser.add_argument("launcher_options", nargs="*", metavar="-- OPTION ...")
    options = parser.parse_args()
    if options.runs < 1:
        parser.error("--runs must be at least 1")
    measure(options.model_id, options.launcher_options)
    runs = [measure(options.model_id, options.launcher_options) for _ in range(options.runs)]
    show(runs)
    if options.json:
        found = [{"ready_s": run.ready, "first_token_s": run.first_token} for run in runs]
        options.json.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
