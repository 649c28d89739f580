"""The kernels' tests, and the server as its clients feel it."""

import importlib.util
import json
import re
import shutil
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

from benchmarks.gpu_rows import GpuRow
from benchmarks.processes import free_port, serve

MODEL = "llama-3.1-8b"
CLIENTS = (1, 8, 32, 128, 256)
SECONDS_PER_LOAD = 10
PROMPT_TOKENS, OUTPUT_TOKENS = 512, 128
BATCH = 32


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
    # Printed line by line: if the time is up, the log holds what was done until then.
    lines = []
    with subprocess.Popen(
        [*command, *tests], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as running:
        assert running.stdout is not None
        for line in running.stdout:
            print(line, end="", flush=True)
            lines.append(line)
    output = "".join(lines)
    for outcome in ("passed", "failed", "error", "skipped"):
        counts = re.findall(rf"(\d+) {outcome}", output)
        if counts or outcome == "passed":
            yield GpuRow(part=part, name=outcome, value=int(counts[-1]) if counts else 0)


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
        for clients in CLIENTS:
            yield from _load(server.url, clients, folder)
            # Now, for it is gone with the server, and a part whose time is up ends at once.
            shutil.copy(server.log, folder / "serve-server.log")


def _load(url: str, clients: int, folder: Path) -> Iterator[GpuRow]:
    result = folder / f"load-{clients}.json"
    before = DecodeTime.read(url)
    subprocess.run(
        [
            *(sys.executable, "-m", "benchmarks.load", "--url", url, "--json", str(result)),
            *("--clients", str(clients), "--duration", str(SECONDS_PER_LOAD)),
            *("--prompt-tokens", str(PROMPT_TOKENS), "--output-tokens", str(OUTPUT_TOKENS)),
        ],
        check=True,
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
