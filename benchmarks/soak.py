"""Use a server as a crowd of good, careless and hostile clients does, and see what is left of it.

    python -m benchmarks.soak --requests 20000
    python -m benchmarks.soak --duration 120 --kill-every 20    # and shards die meanwhile

Clients stream and do not, leave in the middle, read slowly, ask for grammars and tools, send
nonsense. Afterwards everything must be idle again: no request running or waiting, no block of the
cache held, no descriptor open that was not open before, and memory where it was after the first
tenth. Every answer is checked for its status and its end; nothing but a 429 may be refused.
"""

import argparse
import asyncio
import contextlib
import os
import random
import re
import signal
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
from rich.console import Console
from rich.table import Table

from benchmarks.processes import RunningServer, free_port, process_tree, program, serve
from benchmarks.soak_clients import CROWD, Client, WrongAnswerError

# Memory may grow by so much after the first tenth: caches that fill, the allocator's own ways.
MEMORY_SLACK = 1.3
# Small, so that it is full (and its memory used) soon, and sequences give way to each other.
CACHE_TOKENS = 8192
# Gauges that say that something is still there.
IDLE_GAUGES = ("tgi_batch_current_size", "tgi_queue_size", "tgi_cache_usage")


@dataclass
class Findings:
    """What was seen."""

    done: Counter[str] = field(default_factory=Counter)
    failures: Counter[str] = field(default_factory=Counter)
    kills: int = 0
    seconds: float = 0.0
    # Per program: bytes and open descriptors after the first tenth, and at the end.
    early: dict[str, tuple[int, int]] = field(default_factory=dict)
    late: dict[str, tuple[int, int]] = field(default_factory=dict)
    not_idle: dict[str, float] = field(default_factory=dict)

    def complaints(self) -> list[str]:
        """What must not be."""
        found = [f"{count} x {text}" for text, count in self.failures.most_common(8)]
        found += [f"{name} is {value:g} at the end" for name, value in self.not_idle.items()]
        for name, (memory, descriptors) in self.late.items():
            before, opened = self.early.get(name, (memory, descriptors))
            if memory > before * MEMORY_SLACK and not self.kills:
                found.append(f"{name} grew from {before >> 20} to {memory >> 20} MiB")
            if descriptors > opened and not self.kills:
                found.append(f"{name} has {descriptors} descriptors open, {opened} before")
        return found


async def soak(server: RunningServer, options: argparse.Namespace) -> Findings:
    """Send the crowd; returns when all is answered and had time to settle."""
    found, started = Findings(), time.monotonic()
    source = random.Random(options.seed)
    timeout = aiohttp.ClientTimeout(total=300)
    connector = aiohttp.TCPConnector(limit=0)
    session = aiohttp.ClientSession(server.url, timeout=timeout, connector=connector)

    def is_over(share: float = 1.0) -> bool:
        is_late = time.monotonic() - started >= float(options.duration) * share
        return is_late or found.done.total() >= int(options.requests) * share

    async def visitor(number: int) -> None:
        client = Client(session, random.Random(options.seed + number))
        while not is_over():
            behaviour = source.choices(list(CROWD), list(CROWD.values()))[0]
            name = getattr(behaviour, "__name__", "client")
            found.done[name] += 1
            try:
                await behaviour(client)
            except (aiohttp.ClientError, TimeoutError, WrongAnswerError, ValueError) as error:
                found.failures[f"{name}: {type(error).__name__}: {error}"] += 1
            if number == 0 and not found.early and is_over(0.1):
                found.early = _resources(server)

    async with session, asyncio.TaskGroup() as group:
        visitors = [group.create_task(visitor(number)) for number in range(options.clients)]
        killing = group.create_task(_kill_shards(server, options.kill_every, found))
        await asyncio.wait(visitors)
        killing.cancel()
    found.seconds = time.monotonic() - started
    found.not_idle = await _until_idle(server)
    found.late = _resources(server)
    return found


async def _kill_shards(server: RunningServer, every: float | None, found: Findings) -> None:
    while every is not None:
        await asyncio.sleep(every)
        for pid, name in _programs(server).items():
            if name == "shard":
                os.kill(pid, signal.SIGKILL)
                found.kills += 1
                break


async def _until_idle(server: RunningServer, patience: float = 20.0) -> dict[str, float]:
    """Gauges that are not back at 0 after a while."""
    deadline = time.monotonic() + patience
    async with aiohttp.ClientSession() as session:
        while True:
            async with session.get(f"{server.url}/metrics") as response:
                text = await response.text()
            busy = {name: value for name in IDLE_GAUGES if (value := _gauge(text, name)) != 0}
            if not busy or time.monotonic() > deadline:
                return busy
            await asyncio.sleep(0.2)


def _gauge(text: str, name: str) -> float:
    match = re.search(rf"^{name} (\S+)$", text, re.MULTILINE)
    return float(match[1]) if match else float("nan")


def _programs(server: RunningServer) -> dict[int, str]:
    """Router and shards among the launcher's processes."""
    found = {}
    for pid in process_tree(server.process.pid):
        with contextlib.suppress(OSError):
            command = Path(f"/proc/{pid}/cmdline").read_bytes()
            for name in ("router", "shard"):
                if f"text_generation_{name}.cli".encode() in command:
                    found[pid] = name
    return found


def _resources(server: RunningServer) -> dict[str, tuple[int, int]]:
    """Resident bytes and open descriptors of each program."""
    page = os.sysconf("SC_PAGE_SIZE")
    found = {}
    for pid, name in _programs(server).items():
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
        found[name] = (pages * page, len(list(Path(f"/proc/{pid}/fd").iterdir())))
    return found


def _show(found: Findings) -> None:
    total = sum(found.done.values())
    title = f"{total} requests in {found.seconds:.0f} s, {found.kills} shards killed"
    table = Table(title=title, title_justify="left")
    for column in ("program", "memory after a tenth", "at the end", "descriptors", "at the end"):
        table.add_column(column)
    for name, (memory, descriptors) in found.late.items():
        before, opened = found.early.get(name, (0, 0))
        row = (f"{before >> 20} MiB", f"{memory >> 20} MiB", str(opened), str(descriptors))
        table.add_row(name, *row)
    console = Console()
    console.print(table)
    console.print(", ".join(f"{name} {count}" for name, count in found.done.most_common()))
    for complaint in found.complaints():
        console.print(complaint, style="red", markup=False)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.soak",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--requests", type=int, default=1_000_000, help="at most this many")
    parser.add_argument("--duration", type=float, default=600.0, help="seconds, at most")
    parser.add_argument("--kill-every", type=float, help="kill a shard every so many seconds")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--model-id", help="(default: the demonstration model)")
    options = parser.parse_args()
    port = free_port()
    argv = [program("text-generation-launcher"), "--port", str(port), "--max-restarts", "1000"]
    argv += ["--max-batch-total-tokens", str(CACHE_TOKENS)]
    if options.model_id:
        argv += ["--model-id", options.model_id]
    with serve(argv, port=port) as server:
        found = asyncio.run(soak(server, options))
    _show(found)
    sys.exit(1 if found.complaints() else 0)


if __name__ == "__main__":
    main()
