"""What one sequence asked of the sampler, and which processors the rows of a step need.

Both live on the host. They are known without asking the device, so a processor that nobody asked
for is not launched, and one that some rows asked for touches those rows only.
"""

import enum
import functools
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass


class Processor(enum.Enum):
    """The parts of the pipeline that a row can ask for, in the order in which they are applied."""

    WATERMARK = enum.auto()
    REPETITION = enum.auto()
    FREQUENCY = enum.auto()
    TEMPERATURE = enum.auto()
    TOP_K = enum.auto()
    TOP_P = enum.auto()
    TYPICAL_P = enum.auto()
    MIN_P = enum.auto()
    DRAW = enum.auto()


FILTERS = (Processor.TOP_K, Processor.TOP_P, Processor.TYPICAL_P, Processor.MIN_P)


class SamplingParameterError(ValueError):
    """A sampling parameter has a value without meaning; the text names it."""


@dataclass(frozen=True, kw_only=True)
class SamplingParameters:
    """How one sequence's tokens are chosen; the defaults are each processor's "off"."""

    do_sample: bool = False
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    typical_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    watermark: bool = False
    # Any 64 bits, read as unsigned.
    seed: int = 0
    # Pairs of a token id and what is added to its score.
    logit_bias: tuple[tuple[int, float], ...] = ()

    def __post_init__(self) -> None:
        self._require("temperature", self.temperature, "greater than 0", self.temperature > 0)
        self._require("top_k", self.top_k, "at least 0", self.top_k >= 0)
        self._require("top_p", self.top_p, "in (0, 1]", 0 < self.top_p <= 1)
        self._require("typical_p", self.typical_p, "in (0, 1]", 0 < self.typical_p <= 1)
        self._require("min_p", self.min_p, "in [0, 1]", 0 <= self.min_p <= 1)
        penalty = self.repetition_penalty
        self._require("repetition_penalty", penalty, "greater than 0", penalty > 0)
        for name in ("frequency_penalty", "presence_penalty"):
            self._require(name, getattr(self, name), "a number", True)
        self._require("seed", self.seed, "in [0, 2^64)", 0 <= self.seed < 1 << 64)
        for token_id, value in self.logit_bias:
            self._require(f"logit_bias[{token_id}]", value, "a number", True)

    @functools.cached_property
    def processors(self) -> tuple[Processor, ...]:
        """The processors that change something for this sequence."""
        wanted = (
            (Processor.WATERMARK, self.watermark),
            (Processor.REPETITION, self.repetition_penalty != 1),
            (Processor.FREQUENCY, self.frequency_penalty != 0 or self.presence_penalty != 0),
            (Processor.TEMPERATURE, self.temperature != 1),
            (Processor.TOP_K, self.top_k != 0),
            (Processor.TOP_P, self.top_p < 1),
            (Processor.TYPICAL_P, self.typical_p < 1),
            (Processor.MIN_P, self.min_p > 0),
            (Processor.DRAW, self.do_sample),
        )
        return tuple(processor for processor, is_wanted in wanted if is_wanted)

    @property
    def signed_seed(self) -> int:
        """The seed's 64 bits as a signed number, for an int64 tensor."""
        return self.seed - (1 << 64) if self.seed >= 1 << 63 else self.seed

    @staticmethod
    def _require(name: str, value: float, meaning: str, is_met: bool) -> None:
        if not is_met or not math.isfinite(value):
            raise SamplingParameterError(f"{name} must be {meaning}, got {value}")


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingFeatures:
    """For each processor the rows of one step that need it, ascending; and the largest top_k."""

    rows: Mapping[Processor, tuple[int, ...]]
    max_top_k: int = 0

    @classmethod
    def of(cls, parameters: Sequence[SamplingParameters]) -> "SamplingFeatures":
        """The features of a step whose row i samples with parameters[i].

        Costs one pass over the rows; a step with the same rows in the same order may reuse it.
        """
        if not any(row.processors for row in parameters):
            return NO_FEATURES
        rows: dict[Processor, list[int]] = {}
        for index, row in enumerate(parameters):
            for processor in row.processors:
                rows.setdefault(processor, []).append(index)
        return cls(
            rows={processor: tuple(found) for processor, found in rows.items()},
            max_top_k=max(row.top_k for row in parameters),
        )

    def among(self, rows: Collection[int]) -> "SamplingFeatures":
        """What some of the rows need."""
        kept = {
            processor: tuple(row for row in found if row in rows)
            for processor, found in self.rows.items()
        }
        kept = {processor: found for processor, found in kept.items() if found}
        return SamplingFeatures(rows=kept, max_top_k=self.max_top_k)

    def placed(self, places: Mapping[int, int]) -> "SamplingFeatures":
        """What the rows that have a place need, by their places; ascending, as the rows are."""
        kept = self.among(places.keys())
        rows = {
            processor: tuple(places[row] for row in found) for processor, found in kept.rows.items()
        }
        return SamplingFeatures(rows=rows, max_top_k=self.max_top_k)

    def without(self, processor: Processor) -> "SamplingFeatures":
        """As if no row needed it."""
        kept = {other: found for other, found in self.rows.items() if other is not processor}
        return SamplingFeatures(rows=kept, max_top_k=self.max_top_k)

    def needing(self, processor: Processor) -> tuple[int, ...]:
        """The rows that need a processor."""
        return self.rows.get(processor, ())


NO_FEATURES = SamplingFeatures(rows={})
