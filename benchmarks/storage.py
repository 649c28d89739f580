"""The CPU engine by weight storage: speed, and what the storage costs in log-probability.

    python -m benchmarks.storage /tmp/llama-398m --rounds 4
    python -m benchmarks.storage demo/text_generation_demo/model --held-out 300

Engines without HTTP, in this process and in turn, so that a noisy machine is noisy for all. With
--text or --held-out the model reads the text once per storage, and the log-probabilities of its
tokens are compared with those of float32.
"""

import argparse
import itertools
import math
import statistics
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from text_generation_demo.corpus.mixture import documents
from text_generation_demo.corpus.split import Split
from text_generation_demo.tokenizer import text_of
from text_generation_proto import shard_pb2 as pb
from text_generation_shard.config import RankInfo, ShardConfig
from text_generation_shard.shard import Shard
from tokenizers import Tokenizer

# By the names of the table, the options that ask for a storage.
SETTINGS: dict[str, dict[str, Any]] = {
    "float32": {"dtype": "float32"},
    "bfloat16": {"dtype": "bfloat16"},
    "int8": {"quantize": "int8"},
    "int4": {"quantize": "int4"},
}
# Those whose cost is measured, but not their speed.
CACHE_SETTINGS: dict[str, dict[str, Any]] = {
    f"{name}, int8 cache": {**settings, "kv_cache_dtype": "int8"}
    for name, settings in SETTINGS.items()
}
ALONE = RankInfo(rank=0, world_size=1, master_addr="localhost", master_port=0)
BLOCK_SIZE = 16
MAX_TOKENS = 1024
# Most sequences that decode together, and most tokens of each.
NUM_SLOTS = 32
DECODE_TOKENS = 256
PREFILL = "prefill"
# Not the seed of the training documents.
HELD_OUT_SEED = 4242


@dataclass(frozen=True, kw_only=True)
class Sequence:
    """What an admission says of one sequence."""

    slot: int
    token_ids: list[int]
    first_block: int
    num_blocks: int = MAX_TOKENS // BLOCK_SIZE
    num_cached: int = 0


class StorageEngine:
    """One shard with its weights in one storage."""

    def __init__(self, model_path: Path, storage: str, num_threads: int) -> None:
        config = ShardConfig(model_path=str(model_path), num_threads=num_threads)
        self._shard = Shard.load(replace(config, **(SETTINGS | CACHE_SETTINGS)[storage]), ALONE)
        warmup = pb.WarmupRequest(
            max_slots=NUM_SLOTS,
            max_step_tokens=MAX_TOKENS,
            block_size=BLOCK_SIZE,
            max_total_tokens=MAX_TOKENS,
            max_cache_tokens=NUM_SLOTS * DECODE_TOKENS + MAX_TOKENS,
        )
        self.weight_bytes = self._shard.warm_up(warmup).weight_bytes
        self.vocab_size = self._shard.info().vocab_size
        self._num_steps = 0

    def prefill_rate(self, num_tokens: int) -> float:
        """Tokens per second of one prompt in one step."""
        sequence = Sequence(slot=0, token_ids=self._some_tokens(num_tokens), first_block=1)
        return num_tokens / self._timed(_request([sequence]))

    def decode_rate(self, num_sequences: int, context: int, num_steps: int) -> float:
        """Tokens per second of all sequences, from the median step."""
        self.begin(num_sequences, context, is_cached=True)
        seconds = [self.step() for _ in range(num_steps)]
        return num_sequences / statistics.median(seconds)

    def begin(self, num_sequences: int, num_tokens: int, *, is_cached: bool = False) -> None:
        """Forget everything, and read prompts; is_cached: take all tokens but the last as read."""
        blocks = MAX_TOKENS // BLOCK_SIZE if num_sequences == 1 else DECODE_TOKENS // BLOCK_SIZE
        sequences = [
            Sequence(
                slot=slot,
                token_ids=self._some_tokens(num_tokens),
                first_block=1 + slot * blocks,
                num_blocks=blocks,
                num_cached=num_tokens - 1 if is_cached else 0,
            )
            for slot in range(num_sequences)
        ]
        if is_cached or num_sequences * num_tokens <= MAX_TOKENS:
            self._timed(_request(sequences))
        else:
            self._shard.reset()
            for sequence in sequences:
                self._timed(_request([sequence]), reset=False)
        self._num_decoding = num_sequences

    def step(self) -> float:
        """One more token for every sequence; returns the seconds."""
        work = pb.StepRequest(
            work_slots=range(self._num_decoding), work_num_tokens=[1] * self._num_decoding
        )
        return self._timed(work, reset=False)

    def prompt_logprobs(self, token_ids: list[int]) -> list[float]:
        """Of every token but the first."""
        sequence = Sequence(slot=0, token_ids=token_ids, first_block=1)
        request = _request([sequence], prompt_logprobs=True)
        self._shard.reset()
        (report,) = self._shard.step(self._numbered(request)).prompt_logprobs
        return list(report.logprobs)

    def _timed(self, request: pb.StepRequest, *, reset: bool = True) -> float:
        if reset:
            self._shard.reset()
        self._numbered(request)
        started = time.perf_counter()
        self._shard.step(request)
        return time.perf_counter() - started

    def _numbered(self, request: pb.StepRequest) -> pb.StepRequest:
        self._num_steps += 1
        request.step = self._num_steps
        return request

    def _some_tokens(self, count: int) -> list[int]:
        return [7 * index % self.vocab_size for index in range(count)]


def _request(sequences: list[Sequence], *, prompt_logprobs: bool = False) -> pb.StepRequest:
    """Admit sequences and compute what is not cached of them."""
    request = pb.StepRequest()
    sampling = pb.SamplingParameters(temperature=1, top_p=1, typical_p=1, repetition_penalty=1)
    for sequence in sequences:
        request.admissions.append(
            pb.Admission(
                slot=sequence.slot,
                sequence_id=sequence.slot,
                token_ids=sequence.token_ids,
                num_cached_tokens=sequence.num_cached,
                block_ids=range(sequence.first_block, sequence.first_block + sequence.num_blocks),
                sampling=sampling,
                prompt_logprobs=prompt_logprobs,
            )
        )
        request.work_slots.append(sequence.slot)
        request.work_num_tokens.append(len(sequence.token_ids) - sequence.num_cached)
    return request


def measure_speed(engines: dict[str, StorageEngine], num_rounds: int) -> Table:
    """Median tokens per second; a first round of each is not counted."""
    columns = {PREFILL: 512, "decode 1": 1, "decode 8": 8, "decode 32": 32}
    found: dict[str, dict[str, list[float]]] = {
        name: {column: [] for column in columns} for name in engines
    }
    for number in range(num_rounds + 1):
        for name, engine in engines.items():
            for column, size in columns.items():
                if column == PREFILL:
                    rate = engine.prefill_rate(size)
                else:
                    rate = engine.decode_rate(size, context=128, num_steps=8)
                if number:
                    found[name][column].append(rate)
    table = Table(title="tokens/s: median (best)", title_justify="left")
    for heading in ("engine", "MB", "prefill 512", *list(columns)[1:]):
        table.add_column(heading)
    for name, rates in found.items():
        cells = [f"{statistics.median(each):.1f} ({max(each):.1f})" for each in rates.values()]
        table.add_row(name, f"{engines[name].weight_bytes / 1e6:.0f}", *cells)
    return table


def measure_quality(engines: dict[str, StorageEngine], texts: list[list[int]]) -> Table:
    """Perplexity of texts, and how far their log-probabilities lie from those of float32."""
    logprobs = {
        name: [value for token_ids in texts for value in engine.prompt_logprobs(token_ids)]
        for name, engine in engines.items()
    }
    num_tokens = len(logprobs["float32"])
    title = f"{num_tokens} tokens in {len(texts)} texts"
    table = Table(title=title, title_justify="left")
    for heading in (
        "weights",
        "perplexity",
        "difference of log-probabilities: mean",
        "99 %",
        "max",
    ):
        table.add_column(heading)
    for name, values in logprobs.items():
        differences = sorted(abs(a - b) for a, b in zip(values, logprobs["float32"], strict=True))
        perplexity = math.exp(-statistics.fmean(values))
        cells = (
            statistics.fmean(differences),
            differences[num_tokens * 99 // 100],
            differences[-1],
        )
        table.add_row(name, f"{perplexity:.4f}", *(f"{cell:.4f}" for cell in cells))
    return table


def held_out_texts(tokenizer: Tokenizer, count: int) -> list[list[int]]:
    """Token ids of documents like those that the demonstration model was trained on, with phrasings
    that it was not trained on.
    """
    stream = itertools.islice(documents(HELD_OUT_SEED, Split.HELD_OUT), count)
    ids = (tokenizer.encode(text_of(document), add_special_tokens=False).ids for document in stream)
    return [each[: MAX_TOKENS - 1] for each in ids if len(each) > 1]


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.storage",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("model", type=Path, help="a local checkpoint")
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--threads", type=int, default=2)
    quality = parser.add_mutually_exclusive_group()
    quality.add_argument("--text", type=Path, metavar="FILE", help="compare log-probabilities")
    quality.add_argument(
        "--held-out", type=int, metavar="N", help="the same, on N of the demo model's documents"
    )
    options = parser.parse_args()
    with torch.inference_mode():
        is_quality = options.text is not None or options.held_out is not None
        names = SETTINGS | CACHE_SETTINGS if is_quality else SETTINGS
        engines = {name: StorageEngine(options.model, name, options.threads) for name in names}
        tokenizer = Tokenizer.from_file(str(options.model / "tokenizer.json"))
        if options.text is not None:
            token_ids = tokenizer.encode(options.text.read_text()).ids[: MAX_TOKENS - 1]
            found = measure_quality(engines, [token_ids])
        elif options.held_out is not None:
            found = measure_quality(engines, held_out_texts(tokenizer, options.held_out))
        else:
            found = measure_speed(engines, options.rounds)
    Console(width=120).print(found)


if __name__ == "__main__":
    main()
