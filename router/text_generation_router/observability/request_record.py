"""One request from arrival to end: its metrics and its one log line."""

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from text_generation_router.engine.request import Finished, GenerationRequest
from text_generation_router.observability.metrics import RequestMetrics

logger = logging.getLogger("text_generation_router.requests")


@dataclass(frozen=True, kw_only=True)
class RequestTimes:
    """Where the time of a finished request went, in seconds."""

    total: float
    validation: float
    queue: float
    inference: float
    per_token: float


class RequestRecord:
    """Created when a request arrives; exactly one of `succeeded` and `failed` ends it, later calls
    change nothing.
    """

    def __init__(
        self, metrics: RequestMetrics, route: str, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._metrics = metrics
        self._route = route
        self._clock = clock
        self._start = clock()
        self._validation = 0.0
        self._requests: Sequence[GenerationRequest] = ()
        self._prompt_lengths: Sequence[int] = ()
        self._is_over = False
        metrics.count.inc()

    def validated(self, requests: Sequence[GenerationRequest]) -> None:
        """The request is about to be submitted."""
        self._validation = self._clock() - self._start
        self._requests = requests
        self._metrics.validation.observe(self._validation)
        # The choices of one prompt share its ids.
        prompts = {id(request.prompt_ids): request.prompt_ids for request in requests}
        self._prompt_lengths = [len(prompt_ids) for prompt_ids in prompts.values()]
        self._metrics.observe_prompts(self._prompt_lengths, requests[0].max_new_tokens)

    def succeeded(self, ends: Sequence[Finished]) -> RequestTimes:
        """All its generations ended; times and tokens are summed over them."""
        num_generated = sum(end.num_generated_tokens for end in ends)
        inference = sum(end.inference_time for end in ends)
        times = RequestTimes(
            total=self._clock() - self._start,
            validation=self._validation,
            queue=sum(end.queue_time for end in ends),
            inference=inference,
            per_token=inference / max(num_generated, 1),
        )
        if not self._is_over:
            self._is_over = True
            self._count(times, ends, num_generated)
            self._log(times, ends, num_generated)
        return times

    def failed(self, label: str, message: str) -> None:
        """It ends without an answer; `label` is the error's in tgi_request_failure."""
        if self._is_over:
            return
        self._is_over = True
        self._metrics.failure.labels(err=label).inc()
        level = logging.ERROR if label in ("generation", "internal") else logging.INFO
        logger.log(
            level,
            message,
            extra={"fields": {"route": self._route, "err": label, "total_time": self._total()}},
        )

    def _total(self) -> str:
        return _milliseconds(self._clock() - self._start)

    def _count(self, times: RequestTimes, ends: Sequence[Finished], num_generated: int) -> None:
        metrics = self._metrics
        metrics.success.inc()
        metrics.duration.observe(times.total)
        metrics.queue.observe(times.queue)
        metrics.inference.observe(times.inference)
        metrics.time_per_token.observe(times.per_token)
        metrics.time_to_first_token.observe(min(end.time_to_first_token for end in ends))
        metrics.generated_tokens.observe(num_generated)
        metrics.cached_tokens.observe(ends[0].num_cached_tokens)

    def _log(self, times: RequestTimes, ends: Sequence[Finished], num_generated: int) -> None:
        if not logger.isEnabledFor(logging.INFO):
            return
        sampling = self._requests[0].sampling if self._requests else None
        fields = {
            "route": self._route,
            "total_time": _milliseconds(times.total),
            "validation_time": _milliseconds(times.validation),
            "queue_time": _milliseconds(times.queue),
            "inference_time": _milliseconds(times.inference),
            "time_per_token": _milliseconds(times.per_token),
            "prompt_tokens": sum(self._prompt_lengths),
            "cached_tokens": ends[0].num_cached_tokens,
            "generated_tokens": num_generated,
            "finish_reason": ends[0].reason.value,
            "seed": sampling.seed if sampling is not None and sampling.do_sample else None,
        }
        logger.info("Success", extra={"fields": fields})


def _milliseconds(seconds: float) -> str:
    return f"{seconds * 1000:.3f}ms"
