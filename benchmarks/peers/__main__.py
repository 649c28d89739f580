"""CPU engines side by side in one run: this one, llama.cpp, OpenVINO and transformers.

    python -m benchmarks.peers --size 398m --precisions bfloat16 int8 int4 --rounds 5

Writes a checkpoint with random weights, converts it for each engine, and measures all of them in
turn, round after round, with the same prompt lengths, output lengths and number of threads. Peers
run in an environment of their own (`.venv-peers`), into which they are installed at first. "this
server, HTTP" is the whole server with as many clients, prompts different from each other; its
prefill includes tokenization and the first token's way to the client.
"""

import argparse
import contextlib
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from benchmarks.checkpoint import SHAPES, write_checkpoint
from benchmarks.peers.contest import CONTEXT, PROMPT, Contestant, run_rounds, show
from benchmarks.peers.contestants import PRECISIONS, PeerError, Setting, entries
from benchmarks.peers.environment import FOLDER
from benchmarks.processes import ServerFailedError


def compare(setting: Setting, clients: list[int], num_rounds: int, console: Console) -> None:
    """One table."""
    contestants: dict[str, Contestant] = {}
    missing: dict[str, str] = {}
    ours: list[str] = []
    with contextlib.ExitStack() as running:
        for entry in entries(setting):
            try:
                contestants[entry.name] = running.enter_context(entry.start)
            except (OSError, PeerError, ServerFailedError) as error:
                missing[entry.name] = str(error)
            if entry.is_ours:
                ours.append(entry.name)
        rates = run_rounds(contestants, clients, num_rounds)
    title = (
        f"{setting.model.name}, {setting.precision}, {setting.num_threads} threads: a prompt of "
        f"{PROMPT} tokens; decode after {CONTEXT}. Tokens/s, medians (against the best peer)"
    )
    show(rates, ours, missing, title, console)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.peers",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--size", choices=SHAPES, default="398m", help="random weights")
    parser.add_argument("--precisions", nargs="+", choices=PRECISIONS, default=list(PRECISIONS))
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=12, help="decode steps of one measurement")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--environment", type=Path, default=FOLDER, help="the peers' packages")
    options = parser.parse_args(argv)
    if min(options.rounds, options.steps, options.threads, *options.clients) < 1:
        sys.exit("rounds, steps, threads and clients must be at least 1")
    if max(options.clients) > 32:
        sys.exit("--clients: at most 32")
    console = Console(width=120)
    with tempfile.TemporaryDirectory(prefix="bench-peers-") as folder:
        scratch = Path(folder)
        model = scratch / options.size
        write_checkpoint(model, SHAPES[options.size], dtype="bfloat16")
        for precision in options.precisions:
            setting = Setting(
                model=model,
                precision=precision,
                scratch=scratch,
                environment=options.environment,
                num_threads=options.threads,
                num_steps=options.steps,
            )
            compare(setting, options.clients, options.rounds, console)


if __name__ == "__main__":
    main()
