"""A histogram that is cheap to fill."""

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from itertools import accumulate

from prometheus_client.core import HistogramMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString


class WeightedHistogram(Collector):
    """Counts a value any number of times at once: a step has one duration and hundreds of tokens.
    Used from the event loop only. It finds a value's bucket by bisection and takes no lock, which
    is a tenth of the time that the library's own histogram needs.
    """

    def __init__(self, name: str, documentation: str, buckets: Sequence[float]) -> None:
        self._name = name
        self._documentation = documentation
        self._bounds = tuple(buckets)
        # One more for what lies above all bounds.
        self._counts = [0] * (len(self._bounds) + 1)
        self._sum = 0.0

    def observe(self, value: float, count: int = 1) -> None:
        """The same value, `count` times."""
        self._counts[bisect_left(self._bounds, value)] += count
        self._sum += value * count

    def collect(self) -> Iterator[Metric]:
        """The family, with cumulative buckets."""
        names = [*(floatToGoString(bound) for bound in self._bounds), "+Inf"]  # type: ignore[no-untyped-call]
        yield HistogramMetricFamily(
            self._name,
            self._documentation,
            buckets=list(zip(names, accumulate(self._counts), strict=True)),
            sum_value=self._sum,
        )
