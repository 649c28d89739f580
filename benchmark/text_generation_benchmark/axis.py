"""A linear axis from zero: where a value lies, and which values are written beside it."""

import math
from collections.abc import Iterable
from dataclasses import dataclass

_STEPS = (1.0, 2.0, 2.5, 5.0, 10.0)
_MOST_TICKS = 6


@dataclass(frozen=True, slots=True)
class Axis:
    """Values [0, end] on pixels [first, last], either of which may be the greater."""

    end: float
    step: float
    first: float
    last: float

    @classmethod
    def covering(cls, values: Iterable[float], *, first: float, last: float) -> "Axis":
        """Up to the first tick above the greatest value; none of them is negative."""
        greatest = max(values) or 1.0
        magnitude = 10.0 ** math.floor(math.log10(greatest / _MOST_TICKS))
        step = next(
            size * magnitude for size in _STEPS if greatest / (size * magnitude) <= _MOST_TICKS
        )
        return cls(math.ceil(greatest / step * (1 - 1e-9)) * step, step, first, last)

    @property
    def ticks(self) -> list[float]:
        """Values to write, 0 and the end among them."""
        return [number * self.step for number in range(round(self.end / self.step) + 1)]

    def at(self, value: float) -> float:
        """Its pixel."""
        return self.first + (self.last - self.first) * value / self.end

    @staticmethod
    def text(value: float) -> str:
        """Without zeros that say nothing."""
        return f"{value:,.4f}".rstrip("0").rstrip(".")
