"""What grammars and penalties cost: tokens per second with them over without, and the time of a
mask.

    python -m benchmarks.grammars --size 135m --streams 32

One server, rounds in turns: all streams free, all under a grammar, half of each, all free with
penalties for repetition and frequency. Each takes the most likely token, which costs the sampler
least, or draws one (--sample). The masks are timed in this process as a shard computes them, on the
same vocabulary.
"""

import argparse
import asyncio
import json
import os
import random
import statistics
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import uvloop
from rich.console import Console
from rich.table import Table
from text_generation_proto import shard_pb2 as pb
from text_generation_router.grammar.marks import PLAIN_MARKS
from text_generation_router.grammar.source import JsonSchemaGrammar, serialised
from text_generation_shard.grammar.table import GrammarTable
from text_generation_shard.grammar.tokenizer import load_grammar_tokenizer
from tokenizers import Tokenizer

from benchmarks.engine import BATCH_PROMPT_TOKENS, draw_prompts
from benchmarks.http_stream import Endpoint, ResponseRecord, StreamError
from benchmarks.measured_model import add_model_options, model_folder, model_name
from benchmarks.processes import free_port, program, serve
from benchmarks.summary import Percentiles

TARGET = 0.9
PENALTIES = {"repetition_penalty": 1.1, "frequency_penalty": 0.2}
# Longer than any run: it does not end before its tokens are counted.
SCHEMA: dict[str, Any] = {
    "type": "array",
    "minItems": 10_000,
    "items": {
        "type": "object",
        "properties": {
            "name": {"type": "string", "maxLength": 40},
            "age": {"type": "integer", "minimum": 0, "maximum": 130},
            "mood": {"enum": ["good", "bad", "unknown"]},
            "tags": {"type": "array", "items": {"type": "string"}, "maxItems": 5},
        },
        "required": ["name", "age", "mood", "tags"],
    },
}


@dataclass(frozen=True, kw_only=True)
class Rates:
    """Tokens per second of one round, of one stream on average."""

    free: float
    constrained: float
    # In the round with half of each.
    free_beside: float
    penalised: float


class Client:
    """Asks one server for rounds."""

    def __init__(self, url: str, output_tokens: int, *, do_sample: bool) -> None:
        self._endpoint = Endpoint(url=url, path="/generate_stream")
        self._output_tokens = output_tokens
        self._do_sample = do_sample

    def measure(self, prompts: list[str]) -> Rates:
        """One round of each kind."""
        streams = len(prompts)
        free = self._round(prompts, 0)
        constrained = self._round(prompts, streams)
        mixed = self._round(prompts, streams // 2)
        penalised = self._round(prompts, 0, PENALTIES)
        return Rates(
            free=_rate(free),
            constrained=_rate(constrained),
            free_beside=_rate(mixed[streams // 2 :]),
            penalised=_rate(penalised),
        )

    def _round(
        self, prompts: list[str], num_constrained: int, penalties: Mapping[str, float] = {}
    ) -> list[ResponseRecord]:
        async def run() -> list[ResponseRecord]:
            return await asyncio.gather(
                *(
                    self._ask(prompt, i < num_constrained, i, penalties)
                    for i, prompt in enumerate(prompts)
                )
            )

        return uvloop.run(run())

    async def _ask(
        self, prompt: str, is_constrained: bool, seed: int, penalties: Mapping[str, float]
    ) -> ResponseRecord:
        parameters: dict[str, Any] = {
            "max_new_tokens": self._output_tokens,
            "do_sample": self._do_sample,
            "seed": seed,
            "details": True,
            **penalties,
        }
        if is_constrained:
            parameters["grammar"] = {"type": "json", "value": SCHEMA}
        else:
            parameters["ignore_eos"] = True
        connection = await self._endpoint.connect()
        record = await connection.request(
            self._endpoint.message({"inputs": prompt, "parameters": parameters}), 600.0
        )
        connection.close()
        if record.status != 200 or len(record.event_times) < self._output_tokens:
            raise StreamError(f"status {record.status}: {record.last_event or record.body!r}")
        return record


def _rate(records: list[ResponseRecord]) -> float:
    """Of one stream, while all run: from the last first token to the first last one."""
    begin = max(record.event_times[0] for record in records)
    end = min(record.event_times[-1] for record in records)
    if end <= begin:
        raise StreamError("the streams did not run together: raise --output-tokens")
    count = sum(1 for r in records for moment in r.event_times if begin < moment <= end)
    return count / (end - begin) / len(records)


def time_masks(folder: Path, streams: int, steps: int) -> Percentiles:
    """Milliseconds per token: from the tokens of a step to the masks of the next, over the rows.

    The rows take random tokens among those that their masks allow.
    """
    config = json.loads((folder / "config.json").read_text())
    tokenizer = load_grammar_tokenizer(folder, vocab_size=config["vocab_size"], eos_token_ids=[0])
    table = GrammarTable(tokenizer, streams)
    grammar = serialised(JsonSchemaGrammar(SCHEMA).grammars(PLAIN_MARKS))
    slots = list(range(streams))
    table.admit(pb.Admission(slot=slot, grammar=grammar) for slot in slots)
    source = np.random.default_rng(0)
    seconds: list[float] = []
    for _ in range(steps):
        found = table.masks(slots)
        assert found is not None
        rows = found.allowed.numpy().view(np.uint8)
        allowed = np.unpackbits(rows, axis=1, bitorder="little")
        tokens = [int(source.choice(np.flatnonzero(row))) for row in allowed]
        begin = time.perf_counter()
        table.advance(slots, partial(list, tokens))
        table.masks(slots)
        seconds.append((time.perf_counter() - begin) / streams)
    return Percentiles.of(np.array(seconds))


def show(rounds: list[Rates], masks: Percentiles, title: str) -> None:
    """Medians, and the two ratios."""
    table = Table(title=title, title_justify="left")
    table.add_column("medians")
    table.add_column("tokens/s of a stream", justify="right")
    table.add_column("over free", justify="right")
    for name, field in (
        ("free", "free"),
        ("under a grammar", "constrained"),
        ("free beside as many under a grammar", "free_beside"),
        ("free, with penalties", "penalised"),
    ):
        ratio = statistics.median(getattr(rates, field) / rates.free for rates in rounds)
        rate = statistics.median(getattr(rates, field) for rates in rounds)
        table.add_row(name, f"{rate:.1f}", f"{ratio:.2f}")
    console = Console()
    console.print(table)
    if masks.p50 is not None and masks.p99 is not None:
        console.print(f"mask of one token: p50 {masks.p50:.3f} ms, p99 {masks.p99:.3f} ms")


def measure(
    folder: Path,
    dtype: str,
    streams: int,
    output_tokens: int,
    num_rounds: int,
    *,
    do_sample: bool = False,
) -> list[Rates]:
    """Start the server on a checkpoint; a first round is not counted."""
    port = free_port()
    argv = [program("text-generation-launcher"), "--model-id", str(folder), "--port", str(port)]
    argv += ["--dtype", dtype]
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    source = random.Random(0)
    with serve(argv, port=port, ready_timeout=600.0) as server:
        client = Client(server.url, output_tokens, do_sample=do_sample)
        prompts = [
            draw_prompts(tokenizer, streams, BATCH_PROMPT_TOKENS, source)
            for _ in range(num_rounds + 1)
        ]
        return [client.measure(of_round) for of_round in prompts][1:]


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.grammars",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_model_options(parser, size="135m", dtype="float32")
    parser.add_argument("--streams", type=int, default=32)
    parser.add_argument("--output-tokens", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--sample", action="store_true", help="draw tokens, at temperature 1")
    options = parser.parse_args()
    if options.streams < 2 or options.rounds < 1 or options.output_tokens < 2:
        sys.exit("--streams and --output-tokens must be at least 2, --rounds at least 1")
    with model_folder(options) as folder:
        rounds = measure(
            folder,
            options.dtype,
            options.streams,
            options.output_tokens,
            options.rounds,
            do_sample=options.sample,
        )
        masks = time_masks(folder, options.streams, 200)
    show(
        rounds,
        masks,
        f"{model_name(options)}, {options.dtype}, {os.cpu_count()} cores, "
        f"{options.streams} streams of {options.output_tokens} tokens",
    )


if __name__ == "__main__":
    main()
