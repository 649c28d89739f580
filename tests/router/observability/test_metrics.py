"""Metrics by the names, buckets and numbers that TGI's dashboards know; the log line."""

import logging
from dataclasses import replace

import pytest
from prometheus_client import CollectorRegistry, Counter, Gauge
from text_generation_router.engine.observer import StepStats
from text_generation_router.engine.request import GenerationRequest, SamplingParameters
from text_generation_router.observability import exposition
from text_generation_router.observability.engine_metrics import EngineMetrics, SchedulerCollector
from text_generation_router.observability.metrics import RequestMetrics
from text_generation_router.observability.request_record import RequestRecord
from text_generation_router.scheduler.scheduler import SchedulerStats

from tests.fakes.generations import make_end

REQUEST = GenerationRequest(
    prompt_ids=(1, 2, 3),
    max_new_tokens=9,
    sampling=SamplingParameters(do_sample=True, seed=7),
)


def lines(registry: CollectorRegistry) -> list[str]:
    return exposition.render(registry).decode().splitlines()


def make_metrics(registry: CollectorRegistry) -> RequestMetrics:
    return RequestMetrics(registry, max_input_tokens=100, max_total_tokens=200)


def test_text_format() -> None:
    registry = CollectorRegistry()
    counter = Counter("a_count", "Some", ["err"], registry=registry)
    counter.labels('x"\\\n').inc()
    Gauge("b", "Half", registry=registry).set(0.5)
    assert lines(registry) == [
        "# HELP a_count Some",
        "# TYPE a_count counter",
        'a_count{err="x\\"\\\\\\n"} 1',
        "",
        "# HELP b Half",
        "# TYPE b gauge",
        "b 0.5",
    ]


def test_buckets_are_tgi_s() -> None:
    registry = CollectorRegistry()
    make_metrics(registry)
    found = lines(registry)
    duration = [line for line in found if line.startswith("tgi_request_duration_bucket")]
    assert len(duration) == 36
    assert duration[0] == 'tgi_request_duration_bucket{le="0.00015000000000000001"} 0'
    length = [line for line in found if line.startswith("tgi_request_input_length_bucket")]
    assert len(length) == 101
    assert length[99] == 'tgi_request_input_length_bucket{le="100.0"} 0'


def test_a_finished_request(caplog: pytest.LogCaptureFixture) -> None:
    registry = CollectorRegistry()
    clock = iter([10.0, 10.5, 12.0]).__next__
    record = RequestRecord(make_metrics(registry), "/generate", clock)
    record.validated([REQUEST])
    end = make_end(num_tokens=4, queue_time=0.25, inference_time=1.0, time_to_first_token=0.3)
    with caplog.at_level(logging.INFO):
        times = record.succeeded([end])
    record.failed("dropped", "too late to count")
    assert (times.total, times.validation, times.per_token) == (2.0, 0.5, 0.25)
    values = {
        "tgi_request_count_total": 1,
        "tgi_request_success_total": 1,
        "tgi_request_duration_sum": 2.0,
        "tgi_request_queue_duration_sum": 0.25,
        "tgi_request_input_length_sum": 3,
        "tgi_request_max_new_tokens_sum": 9,
        "tgi_request_generated_tokens_sum": 4,
        "tgi_time_to_first_token_sum": 0.3,
    }
    assert {name: registry.get_sample_value(name) for name in values} == values
    (logged,) = caplog.records
    assert logged.getMessage() == "Success"
    fields = logged.__dict__["fields"]
    assert (fields["total_time"], fields["seed"]) == ("2000.000ms", 7)


def test_every_prompt_counts_once(caplog: pytest.LogCaptureFixture) -> None:
    """The bug: of prompts that were equally long one counted, and the log knew the first only."""
    registry = CollectorRegistry()
    record = RequestRecord(make_metrics(registry), "/v1/completions")
    texts = [replace(REQUEST, prompt_ids=(4, 5, n)) for n in range(2)]
    record.validated([request for request in texts for _ in range(2)])
    with caplog.at_level(logging.INFO):
        record.succeeded([make_end() for _ in range(4)])
    assert registry.get_sample_value("tgi_request_input_length_count") == 2
    assert registry.get_sample_value("tgi_request_input_length_sum") == 6
    assert caplog.records[0].__dict__["fields"]["prompt_tokens"] == 6


def test_a_failed_request_counts_once() -> None:
    registry = CollectorRegistry()
    record = RequestRecord(make_metrics(registry), "/generate")
    record.failed("validation", "no")
    record.failed("dropped", "again")
    assert registry.get_sample_value("tgi_request_failure_total", {"err": "validation"}) == 1
    assert registry.get_sample_value("tgi_request_failure_total", {"err": "dropped"}) is None


def make_stats(**changes: object) -> StepStats:
    values: dict[str, object] = {
        "step": 1,
        "num_decodes": 0,
        "num_prefill_tokens": 0,
        "num_admitted": 0,
        "num_retired": 0,
        "plan_duration": 0.001,
        "num_tokens": 0,
        "duration": 0.01,
        "shard_duration": 0.008,
        "forward_duration": 0.005,
        "num_graphs": 0,
        "is_replayed": False,
        "is_failed": False,
        **changes,
    }
    return StepStats(**values)  # type: ignore[arg-type]


def test_steps() -> None:
    registry = CollectorRegistry()
    metrics = EngineMetrics(registry, iter([1.0, 1.5]).__next__)
    metrics.step_finished(make_stats(num_prefill_tokens=5, num_admitted=2, num_tokens=2))
    metrics.step_finished(make_stats(num_decodes=2, num_tokens=2))
    metrics.step_finished(make_stats(num_decodes=2, is_failed=True))
    found = lines(registry)
    for line in (
        'tgi_batch_inference_count{method="prefill"} 1',
        'tgi_batch_inference_count{method="decode"} 2',
        'tgi_batch_inference_success{method="decode"} 1',
        'tgi_batch_inference_failure{method="decode"} 1',
        'tgi_batch_forward_duration_sum{method="decode"} 0.005',
        "tgi_batch_next_size_sum 2",
        "tgi_inter_token_latency_count 2",
        "tgi_inter_token_latency_sum 1",
    ):
        assert line in found


def test_recorded_steps() -> None:
    """A step that was not computed says nothing."""
    registry = CollectorRegistry()
    metrics = EngineMetrics(registry)
    metrics.step_finished(make_stats(num_prefill_tokens=5, num_graphs=2))
    metrics.step_finished(make_stats(num_decodes=1, num_graphs=3, is_replayed=True))
    metrics.step_finished(make_stats(num_decodes=1, num_graphs=3, is_replayed=True))
    metrics.step_finished(make_stats(num_decodes=1, is_failed=True))
    found = lines(registry)
    for line in (
        "tgi_graph_count 3",
        'tgi_graph_steps{way="replayed"} 2',
        'tgi_graph_steps{way="eager"} 1',
    ):
        assert line in found


def test_steps_that_change_the_batch() -> None:
    registry = CollectorRegistry()
    metrics = EngineMetrics(registry, iter([1.0, 1.5, 2.0]).__next__)
    metrics.step_finished(make_stats(num_prefill_tokens=5, num_admitted=1, num_tokens=1))
    metrics.step_finished(
        make_stats(num_prefill_tokens=5, num_admitted=1, num_decodes=1, num_tokens=2)
    )
    metrics.step_finished(make_stats(num_decodes=2, num_retired=1, num_tokens=2))
    found = lines(registry)
    for line in (
        'tgi_batch_concat{reason="chunking"} 1',
        'tgi_batch_concat_duration_count{method="decode"} 1',
        'tgi_batch_concat_duration_sum{method="decode"} 0.001',
        'tgi_batch_filter_duration_count{method="decode"} 1',
        'tgi_request_skipped_tokens{quantile="0.5"} 0',
        "tgi_request_skipped_tokens_count 5",
        "tgi_request_skipped_tokens_sum 0",
    ):
        assert line in found, line


def test_the_scheduler_is_asked_on_demand() -> None:
    registry = CollectorRegistry()
    stats = SchedulerStats(
        num_waiting=1,
        num_running=2,
        num_blocks=10,
        num_used_blocks=5,
        num_cached_blocks=3,
        num_steps=9,
        num_preemptions=4,
        num_cached_tokens=7,
    )
    registry.register(SchedulerCollector(lambda: stats, 16))
    found = lines(registry)
    for line in (
        "tgi_queue_size 1",
        "tgi_batch_current_size 2",
        "tgi_batch_current_max_tokens 80",
        "tgi_batch_max_total_tokens 160",
        "tgi_cache_usage 0.5",
        "tgi_preemptions 4",
        "tgi_cached_tokens 7",
    ):
        assert line in found
