"""What one run took, and what many runs say."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Protocol


@dataclass(frozen=True, slots=True, kw_only=True)
class RunTime:
    """One batch from prompts to last tokens; seconds."""

    # From the prompts' sending until every sequence has its first token.
    prefill_s: float
    # From there to the last token of all.
    decode_s: float
    # Tokens that arrived within `decode_s`.
    num_decoded_tokens: int


class Target(Protocol):
    """Something that runs batches."""

    async def describe(self) -> dict[str, str]:
        """Connect, and say what is measured. Raises `BenchmarkError` if what the options ask for
        cannot be run there.
        """

    async def run(self, batch_size: int) -> RunTime:
        """One batch of new prompts. Raises `BenchmarkError`."""

    async def close(self) -> None:
        """Give back connections; safe at any time."""


@dataclass(slots=True)
class BatchTimes:
    """The measured runs of one batch size."""

    batch_size: int
    sequence_length: int
    # Decode steps of each run.
    num_decodes: int
    runs: list[RunTime] = field(default_factory=list)

    @property
    def prefill_ms(self) -> "Spread":
        return Spread.of(run.prefill_s * 1e3 for run in self.runs)

    @property
    def decode_token_ms(self) -> "Spread":
        return Spread.of(run.decode_s * 1e3 / self.num_decodes for run in self.runs)

    @property
    def decode_total_ms(self) -> "Spread":
        return Spread.of(run.decode_s * 1e3 for run in self.runs)

    @property
    def prefill_rate(self) -> "Spread":
        """Prompt tokens per second."""
        tokens = self.batch_size * self.sequence_length
        return Spread.of(tokens / run.prefill_s for run in self.runs)

    @property
    def decode_rate(self) -> "Spread":
        """Generated tokens per second, all sequences together."""
        return Spread.of(run.num_decoded_tokens / run.decode_s for run in self.runs)

    @property
    def togetherness(self) -> float:
        """Share of the decodes that happened after all sequences had begun: a server that reads the
        prompts in several steps lets the first ones decode meanwhile.
        """
        decoded = sum(run.num_decoded_tokens for run in self.runs)
        return decoded / (len(self.runs) * self.batch_size * self.num_decodes)


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """Of one quantity over the runs; a percentile p of n values is the value at index n * p / 100
    in their order, as TGI's tool takes it.
    """

    average: float
    lowest: float
    highest: float
    p50: float
    p90: float
    p99: float

    @classmethod
    def of(cls, values: Iterable[float]) -> "Spread":
        ordered = sorted(values)
        return cls(
            average=sum(ordered) / len(ordered),
            lowest=ordered[0],
            highest=ordered[-1],
            p50=_percentile(ordered, 50),
            p90=_percentile(ordered, 90),
            p99=_percentile(ordered, 99),
        )


def _percentile(ordered: Sequence[float], percent: int) -> float:
    return ordered[percent * len(ordered) // 100]
