"""The kernels' tests, and the server as its clients feel it."""

import importlib.util
import json
import math
import re
import subprocess
import sys
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

from benchmarks.gpu_rows import GpuRow, attempt, seconds_left
from benchmarks.processes import free_port, serve

MODEL = "llama-3.1-8b"
CLIENTS = (1, 8, 32, 128, 256)
SECONDS_PER_LOAD = 10
PROMPT_TOKENS, OUTPUT_TOKENS = 512, 128
BATCH = 32
# Of the words that a load is made of, in this shape's vocabulary.
TOKENS_PER_WORD = 1.93
# Seconds around a load: to start it, and to end requests under way; the shortest one; and for the
# server to end.
_AROUND_LOAD_S, _SHORTEST_LOAD_S, _STOP_S = 3.0, 3.0, 6.0
_SERVER_LOG_CHARS = 50_000
# Before the time of a part is up, for tests to be counted.
_TESTS_END_S = 6.0
# Tests that did not end well, in the table.
_MAX_NAMED = 20
_OUTCOME = re.compile(
    r"(?:\[gw\d+\] \[ *\d+%\] (?P<first>[A-Z]+) (?P<after>tests/.*?)"
    r"|(?P<before>tests/.*?) (?P<last>PASSED|FAILED|ERROR|SKIPPED)\b.*)\s*$"
)


# Of every kind of attention and block one, with its logits against those of transformers.
FAMILIES = ("llama", "qwen3", "gemma2", "mixtral", "gpt2", "deepseek_v3")


def run_kernel_tests() -> Iterator[GpuRow]:
    """The tests of the kernels and of the decode graphs, on this GPU."""
    return _run_tests("tests", "tests/shard/ops_triton")


def run_family_tests() -> Iterator[GpuRow]:
    """Small models of several families, whole: logits and greedy text, on this GPU."""
    test = "tests/shard/models/test_families.py::test_parity"
    return _run_tests("families", *(f"{test}[{name}]" for name in FAMILIES))


def _run_tests(part: str, *tests: str) -> Iterator[GpuRow]:
    command = [sys.executable, "-u", "-m", "pytest", "-v", "-p", "no:cacheprovider"]
    # Other versions of packages may warn, and a plugin that these tests do without may be missing.
    command += ["-o", "addopts=--import-mode=importlib", "-o", "filterwarnings=default"]
    # What takes long is to compile, which several processes do side by side.
    if importlib.util.find_spec("xdist") is not None:
        command += ["-n", "8"]
    lines = []
    with subprocess.Popen(
        [*command, *tests], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as running:
        # Those that were done are counted, also if the time does not suffice for all.
        if math.isfinite(seconds_left()):
            timer = threading.Timer(seconds_left() - _TESTS_END_S, running.terminate)
            timer.daemon = True
            timer.start()
        assert running.stdout is not None
        for line in running.stdout:
            print(line, end="", flush=True)
            lines.append(line)
    yield from outcome_rows(part, lines)
    if running.returncode not in (0, 1):
        yield GpuRow(part=part, name=f"pytest ended with {running.returncode}", value=None)


def outcome_rows(part: str, lines: Iterable[str]) -> Iterator[GpuRow]:
    """How many tests ended how, and which ones not well; lines: of pytest -v, xdist's or not."""
    ended: dict[str, str] = {}
    for line in lines:
        if match := _OUTCOME.match(line):
            ended[match["before"] or match["after"]] = match["first"] or match["last"]
    counts = Counter(ended.values())
    for outcome in ("PASSED", "FAILED", "ERROR", "SKIPPED"):
        if counts[outcome] or outcome == "PASSED":
            yield GpuRow(part=part, name=outcome.lower(), value=counts[outcome])
    bad = [test for test, outcome in ended.items() if outcome in ("FAILED", "ERROR")]
    for test in bad[:_MAX_NAMED]:
        yield GpuRow(part=part, name=test.rpartition("/")[2], value=None)


def measure_server(folder: Path) -> Iterator[GpuRow]:
    """Throughput, time to first token and inter-token latency by number of clients."""
    from benchmarks.gpu_steps import checkpoint

    port = free_port()
    launcher = [sys.executable, "-m", "text_generation_launcher.cli"]
    launcher += ["--model-id", str(checkpoint(MODEL, folder))]
    limits = ["--max-total-tokens", "2048", "--max-concurrent-requests", "512"]
    started = time.monotonic()
    with serve([*launcher, "--port", str(port), *limits], port=port) as server:
        elapsed = time.monotonic() - started
        yield GpuRow(part="serve", name="start until healthy", value=elapsed, unit="s")
        for done, clients in enumerate(CLIENTS):
            share = (seconds_left() - _STOP_S) / (len(CLIENTS) - done) - _AROUND_LOAD_S
            duration = min(SECONDS_PER_LOAD, share)
            name = f"{clients} clients"
            load = partial(_load, server.url, clients, duration, folder)
            yield from attempt("serve", name, load, needs_s=_STOP_S + _SHORTEST_LOAD_S)
        # In the part's log: the server's is gone with it.
        print(server.log.read_text(errors="replace")[-_SERVER_LOG_CHARS:], flush=True)


def _load(url: str, clients: int, duration: float, folder: Path) -> Iterator[GpuRow]:
    duration = max(_SHORTEST_LOAD_S, duration)
    result = folder / f"load-{clients}.json"
    before = DecodeTime.read(url)
    subprocess.run(
        [
            *(sys.executable, "-m", "benchmarks.load", "--url", url, "--json", str(result)),
            *("--clients", str(clients), "--duration", f"{duration:.1f}"),
            *("--prompt-tokens", str(PROMPT_TOKENS), "--output-tokens", str(OUTPUT_TOKENS)),
            *("--tokens-per-word", str(TOKENS_PER_WORD)),
        ],
        check=True,
        timeout=max(1.0, seconds_left() - 2) if math.isfinite(seconds_left()) else None,
    )
    summary = json.loads(result.read_text())
    name = f"{clients} clients"
    rate = summary["output_tokens_per_s"]
    yield GpuRow(part="serve", name=f"{name}, output", value=rate, unit="tokens/s")
    for key, label in (("time_to_first_token", "TTFT p50"), ("inter_token", "ITL p50")):
        yield GpuRow(part="serve", name=f"{name}, {label}", value=summary[key]["p50"], unit="ms")
    name = f"{name}, ITL p50 over the mean decode step"
    if step_ms := 1000 * DecodeTime.read(url).mean_since(before):
        added = summary["inter_token"]["p50"] / step_ms
        yield GpuRow(part="serve", name=name, value=added, unit="times", at_most=1.05)


@dataclass(frozen=True, slots=True)
class DecodeTime:
    """What the router counts of steps that decode: how many, and their seconds."""

    steps: float = 0
    seconds: float = 0

    @classmethod
    def read(cls, url: str) -> "DecodeTime":
        with urllib.request.urlopen(f"{url}/metrics", timeout=10) as response:
            return cls.parse(response.read().decode())

    @classmethod
    def parse(cls, text: str) -> "DecodeTime":
        """text: Prometheus' format."""
        values = {
            sample.name: sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
            if sample.labels.get("method") == "decode"
        }
        return cls(
            steps=values.get("tgi_batch_inference_duration_count", 0),
            seconds=values.get("tgi_batch_inference_duration_sum", 0),
        )

    def mean_since(self, earlier: "DecodeTime") -> float:
        """Seconds of a step; 0 if there was none."""
        steps = self.steps - earlier.steps
        return (self.seconds - earlier.seconds) / steps if steps else 0.0
