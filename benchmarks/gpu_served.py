"""The kernels' tests, the server as its clients feel it, and transformers beside it."""

import importlib.util
import json
import random
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.gpu_rows import GpuRow
from benchmarks.processes import free_port, serve

MODEL = "llama-3.1-8b"
CLIENTS = (1, 8, 32, 128, 256)
SECONDS_PER_LOAD = 10
PROMPT_TOKENS, OUTPUT_TOKENS = 512, 128
BATCH = 32


def run_tests() -> Iterator[GpuRow]:
    """The tests of the kernels and of the decode graphs, on this GPU."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    # Other versions of packages may warn, and a plugin that these tests do without may be missing.
    command += ["-o", "addopts=--import-mode=importlib", "-o", "filterwarnings=default"]
    # What takes long is to compile, which several processes do side by side.
    if importlib.util.find_spec("xdist") is not None:
        command += ["-n", "8"]
    done = subprocess.run(
        [*command, "tests/shard/ops_triton"], capture_output=True, text=True, check=False
    )
    print(done.stdout[-20000:], done.stderr[-4000:], flush=True)
    for outcome in ("passed", "failed", "error", "skipped"):
        counts = re.findall(rf"(\d+) {outcome}", done.stdout)
        if counts or outcome == "passed":
            yield GpuRow(part="tests", name=outcome, value=int(counts[-1]) if counts else 0)


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


def _load(url: str, clients: int, folder: Path) -> Iterator[GpuRow]:
    result = folder / f"load-{clients}.json"
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


def measure_transformers(folder: Path) -> Iterator[GpuRow]:
    """Continuous batching as it is shipped: the second of two calls, with its own warm-up."""
    import torch
    from transformers import AutoModelForCausalLM, ContinuousBatchingConfig, GenerationConfig

    from benchmarks.gpu_steps import checkpoint

    model: Any = AutoModelForCausalLM.from_pretrained(
        checkpoint(MODEL, folder), dtype=torch.bfloat16, attn_implementation="paged|sdpa"
    )
    model.to("cuda")
    randomly = random.Random(0)
    prompts = [[randomly.randrange(3, 1000) for _ in range(PROMPT_TOKENS)] for _ in range(BATCH)]
    make: Any = GenerationConfig
    generation = make(
        max_new_tokens=OUTPUT_TOKENS, do_sample=False, eos_token_id=-1, pad_token_id=0
    )
    for call in range(2):
        started = time.monotonic()
        model.generate_batch(
            inputs=prompts,
            generation_config=generation,
            continuous_batching_config=ContinuousBatchingConfig(),
            persistent_manager=True,
        )
        rate = BATCH * OUTPUT_TOKENS / (time.monotonic() - started)
        if call == 1:
            name = f"{BATCH} sequences as shipped, with their prefill"
            yield GpuRow(part="transformers", name=name, value=rate, unit="tokens/s")
