"""What the router counts of steps, queue and cache; it listens to the engine (`EngineObserver`).

TGI's batch metrics keep their names; its two methods are told apart by what a step did: one that
read prompts is a `prefill`, any other a `decode`.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    SummaryMetricFamily,
)
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from text_generation_router.engine.observer import StepStats
from text_generation_router.engine.request import EngineError, Finished
from text_generation_router.observability.metrics import DURATION_BUCKETS
from text_generation_router.observability.weighted_histogram import WeightedHistogram

_QUANTILES = ("0", "0.5", "0.9", "0.95", "0.99", "0.999", "1")
_BATCH_SIZE_BUCKETS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)


@dataclass(frozen=True, slots=True)
class _StepFamilies:
    """What is counted of one method's steps; found once, not at every step."""

    count: Counter
    success: Counter
    failure: Counter
    duration: Histogram
    forward: Histogram
    decode: Histogram
    retiring: Histogram


def _step_families(registry: CollectorRegistry) -> tuple[_StepFamilies, _StepFamilies]:
    """Those of TGI's methods `prefill` and `decode`."""

    def by_method(name: str, text: str) -> Counter:
        return Counter(name, text, ["method"], registry=registry)

    def seconds(name: str, text: str) -> Histogram:
        buckets = DURATION_BUCKETS
        return Histogram(
            name, f"{text}, in seconds", ["method"], buckets=buckets, registry=registry
        )

    count = by_method("tgi_batch_inference_count", "Steps")
    success = by_method("tgi_batch_inference_success", "Steps that were computed")
    failure = by_method("tgi_batch_inference_failure", "Steps that failed")
    duration = seconds("tgi_batch_inference_duration", "Time from a step's turn to its result")
    forward = seconds("tgi_batch_forward_duration", "Time of the model's forward pass")
    decode = seconds(
        "tgi_batch_decode_duration",
        "Time of a step in the shard around the forward pass (inputs, sampling)",
    )
    retiring = seconds(
        "tgi_batch_filter_duration", "Time to plan a step with which requests left the batch"
    )

    def families(method: str) -> _StepFamilies:
        return _StepFamilies(
            count.labels(method),
            success.labels(method),
            failure.labels(method),
            duration.labels(method),
            forward.labels(method),
            decode.labels(method),
            retiring.labels(method),
        )

    return families("prefill"), families("decode")


class _GraphMetrics:
    """Of decode steps that a shard recorded, and of the steps that were such or were not."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._count = Gauge(
            "tgi_graph_count", "Decode steps that a shard has recorded", registry=registry
        )
        steps = Counter(
            "tgi_graph_steps",
            "Steps whose layers a recording computed (replayed), or single calls (eager)",
            ["way"],
            registry=registry,
        )
        self._replayed, self._eager = steps.labels("replayed"), steps.labels("eager")

    def step_finished(self, stats: StepStats) -> None:
        """Count one that was computed."""
        self._count.set(stats.num_graphs)
        (self._replayed if stats.is_replayed else self._eager).inc()


class EngineMetrics:
    """Registers its families and is called in the step loop: one call per step, none per token."""

    def __init__(
        self, registry: CollectorRegistry, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._clock = clock
        # When the last step that brought tokens ended.
        self._last_tokens_at: float | None = None
        self._prefill_steps, self._decode_steps = _step_families(registry)
        concat_duration = Histogram(
            "tgi_batch_concat_duration",
            "Time to plan a step that joined new requests to running ones, in seconds",
            ["method"],
            buckets=DURATION_BUCKETS,
            registry=registry,
        )
        self._concat_duration = concat_duration.labels("decode")
        self._concat = Counter(
            "tgi_batch_concat",
            "Steps that joined new requests to running ones",
            ["reason"],
            registry=registry,
        )
        self._skipped = SkippedTokens()
        registry.register(self._skipped)
        self._graphs = _GraphMetrics(registry)
        self._next_size = Histogram(
            "tgi_batch_next_size",
            "Requests that a step admitted",
            buckets=_BATCH_SIZE_BUCKETS,
            registry=registry,
        )
        self._restarts = Counter(
            "tgi_shard_restarts", "Times that lost shards came back", registry=registry
        )
        self._inter_token = WeightedHistogram(
            "tgi_inter_token_latency",
            "Time between two tokens of a request, in seconds",
            DURATION_BUCKETS,
        )
        registry.register(self._inter_token)

    def step_finished(self, stats: StepStats) -> None:
        """Count one step."""
        steps = self._prefill_steps if stats.num_prefill_tokens else self._decode_steps
        steps.count.inc()
        if stats.is_failed:
            steps.failure.inc()
            return
        steps.success.inc()
        steps.duration.observe(stats.duration)
        steps.forward.observe(stats.forward_duration)
        steps.decode.observe(stats.shard_duration - stats.forward_duration)
        self._graphs.step_finished(stats)
        if stats.num_retired:
            steps.retiring.observe(stats.plan_duration)
        if stats.num_admitted:
            if stats.num_decodes:
                self._concat.labels("chunking").inc()
                self._concat_duration.observe(stats.plan_duration)
            self._next_size.observe(stats.num_admitted)
        now = self._clock()
        if stats.num_decodes and self._last_tokens_at is not None:
            # Sequences that decode got their token before this one with the last step.
            self._inter_token.observe(now - self._last_tokens_at, stats.num_decodes)
        if stats.num_tokens:
            self._skipped.num_tokens += stats.num_tokens
            self._last_tokens_at = now

    def sequence_finished(self, finished: Finished) -> None:
        """Requests are counted where they are answered."""

    def sequence_failed(self, error: EngineError) -> None:
        """Requests are counted where they are answered."""

    def sequence_cancelled(self) -> None:
        """Requests are counted where they are answered."""

    def sequence_refused(self, error: EngineError) -> None:
        """Requests are counted where they are answered."""

    def shards_restarted(self) -> None:
        """Count it; the pause is nobody's inter-token latency."""
        self._restarts.inc()
        self._last_tokens_at = None


class SkippedTokens(Collector):
    """TGI's summary of the tokens that speculation gave a request in a step beyond the first one:
    none, as long as nothing speculates, once for every token.
    """

    def __init__(self) -> None:
        self.num_tokens = 0

    def collect(self) -> Iterator[Metric]:
        """The family, with TGI's quantiles."""
        family = SummaryMetricFamily(
            "tgi_request_skipped_tokens",
            "Speculated tokens that a step gave a request",
            count_value=self.num_tokens,
            sum_value=0,
        )
        for quantile in _QUANTILES:
            family.add_sample("tgi_request_skipped_tokens", {"quantile": quantile}, 0)
        yield family


class SchedulerSnapshot(Protocol):
    """The scheduler's own count of itself."""

    @property
    def num_waiting(self) -> int: ...
    @property
    def num_running(self) -> int: ...
    @property
    def num_blocks(self) -> int: ...
    @property
    def num_used_blocks(self) -> int: ...
    @property
    def num_cached_blocks(self) -> int: ...
    @property
    def num_preemptions(self) -> int: ...
    @property
    def num_cached_tokens(self) -> int: ...


class SchedulerCollector(Collector):
    """Asks the scheduler when somebody asks for metrics, not before."""

    def __init__(self, snapshot: Callable[[], SchedulerSnapshot], block_size: int) -> None:
        self._snapshot = snapshot
        self._block_size = block_size

    def collect(self) -> Iterator[Metric]:
        """One family for each number."""
        stats = self._snapshot()
        used_tokens = stats.num_used_blocks * self._block_size
        capacity = max(stats.num_blocks, 1)
        gauges = {
            "tgi_queue_size": ("Requests that wait", stats.num_waiting),
            "tgi_batch_current_size": ("Requests that run", stats.num_running),
            "tgi_batch_current_max_tokens": ("Cache tokens of what runs", used_tokens),
            "tgi_batch_max_total_tokens": ("Tokens the cache holds", capacity * self._block_size),
            "tgi_cache_usage": (
                "Share of the cache that running requests hold",
                stats.num_used_blocks / capacity,
            ),
            "tgi_cache_reusable_blocks": (
                "Blocks that only the prefix cache holds",
                stats.num_cached_blocks,
            ),
        }
        for name, (text, value) in gauges.items():
            yield GaugeMetricFamily(name, text, value=value)
        yield CounterMetricFamily(
            "tgi_preemptions", "Requests pushed back for lack of cache", stats.num_preemptions
        )
        yield CounterMetricFamily(
            "tgi_cached_tokens", "Prompt tokens found in the cache", stats.num_cached_tokens
        )
