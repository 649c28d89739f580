"""What ranks exchange to sample together, against gathering all logits on rank 0.

    python -m benchmarks.parallel_sampling --ranks 2 --vocab-size 128256 --rows 1 8 32

Ranks are processes on this machine, with gloo between them and a thread each. Rounds take turns;
a time is the median of rank 0, from the scores of its part to ids that all ranks know. Bytes are
what one rank other than rank 0 gives away.
"""

import argparse
import multiprocessing
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass

import torch
from rich.console import Console
from rich.table import Table
from text_generation_shard.config import RankInfo
from text_generation_shard.distributed import RankGroup
from text_generation_shard.layers.partition import VocabularyPart
from text_generation_shard.ops.threads import use_threads
from text_generation_shard.sampling.parallel import ParallelSampler
from text_generation_shard.sampling.parameters import SamplingParameters
from text_generation_shard.sampling.rows import SamplingRows
from text_generation_shard.sampling.sampler import Sampler
from torch import Tensor

from benchmarks.processes import free_port
from tests.shard.sampling.rows import make_rows

KINDS = {
    "greedy": SamplingParameters(),
    "temperature": SamplingParameters(do_sample=True, temperature=0.8),
    "top-k 50": SamplingParameters(do_sample=True, top_k=50),
    "top-p 0.9": SamplingParameters(do_sample=True, temperature=0.8, top_p=0.9),
    "typical-p 0.9": SamplingParameters(do_sample=True, typical_p=0.9),
}
_CPU = torch.device("cpu")


@dataclass(frozen=True, slots=True)
class Shape:
    ranks: int
    vocab_size: int
    rows: tuple[int, ...]
    rounds: int


class CountingRanks(RankGroup):
    """Counts the bytes that this rank gives away."""

    sent = 0

    def gather(self, own: Tensor) -> Tensor | None:
        self.sent += own.nbytes
        return super().gather(own)

    def exchange_rows(self, part: Tensor) -> Tensor:
        own = self.row_share(len(part))
        self.sent += part.nbytes - part[own.start : own.stop].nbytes
        return super().exchange_rows(part)

    def gather_everywhere(self, own: Tensor) -> Tensor:
        self.sent += own.nbytes
        return super().gather_everywhere(own)

    def largest(self, values: Tensor) -> Tensor:
        self.sent += values.nbytes
        return super().largest(values)


@dataclass(frozen=True, slots=True)
class Measured:
    kind: str
    rows: int
    # Milliseconds and bytes: gathering first, then together.
    times: tuple[float, float]
    sent: tuple[int, int]


def _gathering(ranks: RankGroup, shape: Shape) -> Callable[[Tensor, SamplingRows], Tensor]:
    """All logits to rank 0, whose ids go to all."""
    sampler = Sampler(vocab_size=shape.vocab_size, watermark_gamma=0.5, watermark_delta=2)

    def sample(part: Tensor, rows: SamplingRows) -> Tensor:
        logits = ranks.gather_columns(part)
        token_ids = torch.empty(len(part), dtype=torch.int64)
        if logits is not None:
            token_ids = sampler(logits[:, : shape.vocab_size], rows).token_ids
        return ranks.broadcast(token_ids)

    return sample


def _together(ranks: RankGroup, shape: Shape) -> Callable[[Tensor, SamplingRows], Tensor]:
    sampler = Sampler(vocab_size=shape.vocab_size, watermark_gamma=0.5, watermark_delta=2)
    parallel = ParallelSampler(sampler, ranks, vocab_size=shape.vocab_size, device=_CPU)
    return lambda part, rows: parallel(part, rows).token_ids


def _measure(rank: int, port: int, shape: Shape) -> list[Measured]:
    use_threads(1, _CPU)
    info = RankInfo(rank=rank, world_size=shape.ranks, master_addr="127.0.0.1", master_port=port)
    RankGroup.join(info, _CPU)
    ranks = CountingRanks(rank=rank, world_size=shape.ranks)
    ways = (_gathering(ranks, shape), _together(ranks, shape))
    measured = []
    with torch.inference_mode():
        for kind, parameters in KINDS.items():
            for count in shape.rows:
                part, rows = _part(shape, rank, count), make_rows([parameters] * count)
                measured.append(_compare(ranks, ways, part, rows, (kind, shape.rounds)))
    ranks.leave()
    return measured


def _compare(
    ranks: CountingRanks,
    ways: tuple[Callable[[Tensor, SamplingRows], Tensor], ...],
    part: Tensor,
    rows: SamplingRows,
    case: tuple[str, int],
) -> Measured:
    """case: its name and its rounds. The first two of these warm up."""
    kind, rounds = case
    times: tuple[list[float], list[float]] = ([], [])
    sent = [0, 0]
    for _ in range(rounds + 2):
        ids = []
        for way, sample in enumerate(ways):
            scores = part.clone()
            ranks.minimum(0)
            ranks.sent = 0
            started = time.perf_counter()
            ids.append(sample(scores, rows))
            times[way].append((time.perf_counter() - started) * 1000)
            sent[way] = ranks.sent
        assert torch.equal(*ids)
    medians = (statistics.median(times[0][2:]), statistics.median(times[1][2:]))
    return Measured(kind, len(part), medians, (sent[0], sent[1]))


def _part(shape: Shape, rank: int, count: int) -> Tensor:
    """Scores by rank, as a language model's are: the probability falls with its power of 1.3."""
    generator = torch.Generator().manual_seed(count)
    ranks = torch.rand(count, shape.vocab_size, generator=generator).argsort(dim=1)
    logits = -1.3 * (ranks + 1.0).log()
    part = VocabularyPart.of_rank(rank, shape.ranks, shape.vocab_size)
    return part.cut(logits, -torch.inf)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--vocab-size", type=int, default=128_256)
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--rounds", type=int, default=15)
    options = parser.parse_args()
    shape = Shape(options.ranks, options.vocab_size, tuple(options.rows), options.rounds)
    port = free_port()
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(shape.ranks, mp_context=context) as pool:
        calls = [pool.submit(_measure, rank, port, shape) for rank in range(shape.ranks)]
        answers = [call.result() for call in calls]
    table = Table("row", "rows", "gather ms", "together ms", "gather bytes", "together bytes")
    for first, other in zip(answers[0], answers[-1], strict=True):
        times = (f"{value:.2f}" for value in first.times)
        table.add_row(first.kind, str(first.rows), *times, *map(str, other.sent))
    Console().print(table)


if __name__ == "__main__":
    main()
