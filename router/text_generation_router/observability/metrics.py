"""What the router counts of requests. Names, buckets and labels are TGI's where it has them."""

from collections.abc import Iterable, Sequence

from prometheus_client import CollectorRegistry, Counter

from text_generation_router.observability.weighted_histogram import WeightedHistogram

# 0.15 ms to 146 s, as TGI has them for everything that is called a duration.
DURATION_BUCKETS = tuple(0.0001 * 1.5**k for k in range(1, 36))


def linear_buckets(highest: int) -> tuple[float, ...]:
    """A hundred equal steps up to a limit, which is how TGI counts tokens."""
    return tuple(highest / 100 * i for i in range(1, 101))


class RequestMetrics:
    """Counters and histograms of requests; a request is counted once, whatever its dialect and
    however many sequences it generates.
    """

    def __init__(
        self, registry: CollectorRegistry, *, max_input_tokens: int, max_total_tokens: int
    ) -> None:
        self._registry = registry
        self.count = Counter("tgi_request_count", "Requests that arrived", registry=registry)
        self.success = Counter("tgi_request_success", "Requests answered", registry=registry)
        self.failure = Counter(
            "tgi_request_failure", "Requests that failed, by kind", ["err"], registry=registry
        )
        self.duration = self._durations("tgi_request_duration", "Whole time of a request")
        self.validation = self._durations(
            "tgi_request_validation_duration", "Time for template, tokenization and checks"
        )
        self.queue = self._durations("tgi_request_queue_duration", "Time before the first step")
        self.inference = self._durations(
            "tgi_request_inference_duration", "Time from the first step to the last token"
        )
        self.time_per_token = self._durations(
            "tgi_request_mean_time_per_token_duration", "Inference time for each token"
        )
        self.time_to_first_token = self._durations(
            "tgi_time_to_first_token", "Time from submission to the first token"
        )
        self.generated_tokens = self._tokens(
            "tgi_request_generated_tokens", "Tokens generated for a request", max_total_tokens
        )
        self.max_new_tokens = self._tokens(
            "tgi_request_max_new_tokens", "Tokens that a request may generate", max_total_tokens
        )
        self.input_length = self._tokens(
            "tgi_request_input_length", "Tokens of a prompt", max_input_tokens
        )
        self.cached_tokens = self._tokens(
            "tgi_request_cached_tokens", "Prompt tokens found in the cache", max_input_tokens
        )

    def observe_prompts(self, prompt_lengths: Iterable[int], max_new_tokens: int) -> None:
        """A validated request."""
        for length in prompt_lengths:
            self.input_length.observe(length)
        self.max_new_tokens.observe(max_new_tokens)

    def _durations(self, name: str, text: str) -> WeightedHistogram:
        return self._histogram(name, f"{text}, in seconds", DURATION_BUCKETS)

    def _tokens(self, name: str, text: str, highest: int) -> WeightedHistogram:
        return self._histogram(name, text, linear_buckets(highest))

    def _histogram(self, name: str, text: str, buckets: Sequence[float]) -> WeightedHistogram:
        histogram = WeightedHistogram(name, text, buckets)
        self._registry.register(histogram)
        return histogram
