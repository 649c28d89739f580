"""Prefill and decode speed of the CPU engine through HTTP, transformers beside it in the same run.

    python -m benchmarks.engine --size 398m --dtype bfloat16 --rounds 5

Both get the same weights, prompts and lengths, and take turns, so that a noisy machine is noisy for
both. The server's figures contain HTTP, tokenization and scheduling; those of transformers are a
forward over the whole prompt (logits of the last position) and `generate`.
"""

import argparse
import asyncio
import json
import os
import random
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Protocol

import uvloop
from rich.console import Console
from rich.table import Table
from tokenizers import Tokenizer

from benchmarks.http_stream import Endpoint, ResponseRecord, StreamError
from benchmarks.measured_model import add_model_options, model_folder, model_name
from benchmarks.processes import free_port, program, serve
from benchmarks.workload import WORDS

# Prompts of the batched decode: short, so that all streams begin almost together.
BATCH_PROMPT_TOKENS = 16


@dataclass(frozen=True, kw_only=True)
class Lengths:
    """What one round computes."""

    prompt_tokens: int
    output_tokens: int
    streams: int


@dataclass(frozen=True, kw_only=True)
class Rates:
    """Tokens per second of one round."""

    prefill: float
    decode: float
    # All streams together.
    batched_decode: float


class Engine(Protocol):
    """Something that can be asked for a round."""

    def measure(self, prompts: list[str], lengths: Lengths) -> Rates:
        """Prompts: one for prefill, one for decode, `streams` short ones for batched decode."""


class ServerEngine:
    """The server, through `/generate_stream`."""

    def __init__(self, url: str) -> None:
        self._endpoint = Endpoint(url=url, path="/generate_stream")

    def measure(self, prompts: list[str], lengths: Lengths) -> Rates:
        return uvloop.run(self._measure(prompts, lengths))

    async def _measure(self, prompts: list[str], lengths: Lengths) -> Rates:
        return Rates(
            prefill=await self.prefill(prompts[0]),
            decode=await self.decode(prompts[1:2], lengths.output_tokens),
            batched_decode=await self.decode(prompts[2:], lengths.output_tokens),
        )

    async def prefill(self, prompt: str) -> float:
        """Tokens of the prompt per second until the first token is here."""
        begin = time.perf_counter()
        record = await self._ask(prompt, 1)
        seconds = record.event_times[0] - begin
        return float((record.last_event or {})["details"]["input_length"] / seconds)

    async def decode(self, prompts: list[str], output_tokens: int) -> float:
        """Tokens per second of all streams, see `shared_rate`."""
        records = await asyncio.gather(*(self._ask(prompt, output_tokens) for prompt in prompts))
        return shared_rate([record.event_times for record in records])

    async def _ask(self, prompt: str, max_new_tokens: int) -> ResponseRecord:
        connection = await self._endpoint.connect()
        parameters = {"max_new_tokens": max_new_tokens, "details": True}
        record = await connection.request(
            self._endpoint.message({"inputs": prompt, "parameters": parameters}), 600.0
        )
        connection.close()
        if record.status != 200 or not record.event_times or "error" in (record.last_event or {}):
            raise StreamError(f"status {record.status}: {record.last_event or record.body!r}")
        return record


def shared_rate(streams: Sequence[Sequence[float]]) -> float:
    """Tokens per second of all streams while all of them decode, from the median time between two
    tokens of one stream, as an engine's is from its median step.

    streams: when each token of a stream came, in seconds.
    """
    begin = max(times[0] for times in streams)
    end = min(times[-1] for times in streams)
    gaps = [
        after - before
        for times in streams
        for before, after in pairwise(times)
        if begin <= before and after <= end
    ]
    if not gaps:
        raise StreamError("the streams did not run together: raise --output-tokens")
    return len(streams) / statistics.median(gaps)


class TransformersEngine:
    """The peer: transformers on the same weights, in this process."""

    def __init__(self, folder: Path, dtype: str) -> None:
        # As the shard does: threads that wait sleep, so that the two do not disturb each other.
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
        import torch
        from transformers import AutoModelForCausalLM

        self._torch = torch
        self._model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype)
        self._model.generation_config.eos_token_id = None
        self._model.generation_config.pad_token_id = 0
        self._tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))

    def measure(self, prompts: list[str], lengths: Lengths) -> Rates:
        with self._torch.inference_mode():
            ids = self._encode(prompts[:1])
            begin = time.perf_counter()
            self._model(ids, logits_to_keep=1)
            prefill = ids.shape[1] / (time.perf_counter() - begin)
            return Rates(
                prefill=prefill,
                decode=self._decode(prompts[1:2], lengths.output_tokens),
                batched_decode=self._decode(prompts[2:], lengths.output_tokens),
            )

    def _decode(self, prompts: list[str], output_tokens: int) -> float:
        """From the first token of `generate` on, before which the prompts are read."""
        ids = self._encode(prompts)
        moments: list[float] = []

        def stamp(_input_ids: Any, scores: Any) -> Any:
            moments.append(time.perf_counter())
            return scores

        self._model.generate(
            ids,
            attention_mask=self._torch.ones_like(ids),
            max_new_tokens=output_tokens,
            do_sample=False,
            logits_processor=[stamp],
        )
        return shared_rate([moments] * len(prompts))

    def _encode(self, prompts: list[str]) -> Any:
        """[prompts, shortest prompt] ids; prompts are cut to one length, so that none is padded."""
        rows = [self._tokenizer.encode(prompt).ids for prompt in prompts]
        shortest = min(map(len, rows))
        return self._torch.tensor([row[:shortest] for row in rows])


def draw_prompts(
    tokenizer: Tokenizer, count: int, prompt_tokens: int, source: random.Random
) -> list[str]:
    """Prompts of about `prompt_tokens` tokens, all different from the first word on."""
    sample = " ".join(WORDS)
    words = max(1, round(prompt_tokens * len(WORDS) / len(tokenizer.encode(sample).ids)))
    return [" ".join(source.choices(WORDS, k=words)) for _ in range(count)]


def show(found: dict[str, list[Rates]], title: str, console: Console | None = None) -> None:
    """Medians and ranges, one row for each engine."""
    table = Table(title=title, title_justify="left")
    table.add_column("tokens/s: median (range)")
    for column in ("prefill", "decode, 1 stream", "decode, all streams"):
        table.add_column(column, justify="right")
    for name, rounds in found.items():
        cells = []
        for field in ("prefill", "decode", "batched_decode"):
            values = [getattr(rates, field) for rates in rounds]
            cells.append(f"{statistics.median(values):.1f} ({min(values):.1f}-{max(values):.1f})")
        table.add_row(name, *cells)
    (console or Console()).print(table)


def compare(folder: Path, dtype: str, lengths: Lengths, num_rounds: int) -> dict[str, list[Rates]]:
    """Alternate between the server and transformers; a first round of each is not counted."""
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    source = random.Random(0)
    port = free_port()
    argv = [program("text-generation-launcher"), "--model-id", str(folder), "--port", str(port)]
    argv += ["--dtype", dtype]
    with serve(argv, port=port, ready_timeout=600.0) as server:
        engines: dict[str, Engine] = {
            "this server": ServerEngine(server.url),
            "transformers": TransformersEngine(folder, dtype),
        }
        found: dict[str, list[Rates]] = {name: [] for name in engines}
        for number in range(num_rounds + 1):
            prompts = draw_prompts(tokenizer, 2, lengths.prompt_tokens, source)
            prompts += draw_prompts(tokenizer, lengths.streams, BATCH_PROMPT_TOKENS, source)
            for name, engine in engines.items():
                rates = engine.measure(prompts, lengths)
                if number:
                    found[name].append(rates)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.engine",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_model_options(parser, size="135m", dtype="float32")
    parser.add_argument("--prompt-tokens", type=int, default=256)
    parser.add_argument("--output-tokens", type=int, default=32)
    parser.add_argument("--streams", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rounds there too")
    options = parser.parse_args()
    if min(options.prompt_tokens, options.streams, options.rounds) < 1 or options.output_tokens < 2:
        sys.exit("lengths, streams and rounds must be at least 1, --output-tokens at least 2")
    lengths = Lengths(
        prompt_tokens=options.prompt_tokens,
        output_tokens=options.output_tokens,
        streams=options.streams,
    )
    with model_folder(options) as folder:
        found = compare(folder, options.dtype, lengths, options.rounds)
    show(
        found,
        f"{model_name(options)}, {options.dtype}, {os.cpu_count()} cores, prompts of "
        f"{lengths.prompt_tokens} tokens, {lengths.output_tokens} new, {lengths.streams} streams",
    )
    if options.json:
        rounds = {name: [asdict(rates) for rates in values] for name, values in found.items()}
        options.json.write_text(json.dumps(rounds, indent=2) + "\n")


if __name__ == "__main__":
    main()
