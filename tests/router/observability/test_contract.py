"""The families of TGI's /metrics, one by one: each is there with its type."""

import pytest
from prometheus_client import CollectorRegistry, Counter
from prometheus_client.openmetrics.parser import text_string_to_metric_families
from text_generation_router.observability import exposition
from text_generation_router.observability.engine_metrics import EngineMetrics, SchedulerCollector
from text_generation_router.observability.exposition import TextFormat, negotiate
from text_generation_router.observability.metrics import RequestMetrics
from text_generation_router.scheduler.scheduler import SchedulerStats

TGI_FAMILIES = {
    "tgi_request_count": "counter",
    "tgi_request_success": "counter",
    "tgi_request_failure": "counter",
    "tgi_request_duration": "histogram",
    "tgi_request_validation_duration": "histogram",
    "tgi_request_queue_duration": "histogram",
    "tgi_request_inference_duration": "histogram",
    "tgi_request_mean_time_per_token_duration": "histogram",
    "tgi_request_generated_tokens": "histogram",
    "tgi_request_input_length": "histogram",
    "tgi_request_max_new_tokens": "histogram",
    "tgi_queue_size": "gauge",
    "tgi_batch_current_size": "gauge",
    "tgi_batch_current_max_tokens": "gauge",
    "tgi_batch_next_size": "histogram",
    "tgi_batch_inference_count": "counter",
    "tgi_batch_inference_success": "counter",
    "tgi_batch_inference_failure": "counter",
    "tgi_batch_inference_duration": "histogram",
    "tgi_batch_forward_duration": "histogram",
    "tgi_batch_decode_duration": "histogram",
    "tgi_batch_filter_duration": "histogram",
    "tgi_batch_concat": "counter",
    "tgi_batch_concat_duration": "histogram",
    "tgi_request_skipped_tokens": "summary",
}
OWN_FAMILIES = {
    "tgi_time_to_first_token": "histogram",
    "tgi_inter_token_latency": "histogram",
    "tgi_request_cached_tokens": "histogram",
    "tgi_cache_usage": "gauge",
    "tgi_cached_tokens": "counter",
    "tgi_preemptions": "counter",
    "tgi_graph_count": "gauge",
    "tgi_graph_steps": "counter",
}


def full_registry() -> CollectorRegistry:
    registry = CollectorRegistry()
    RequestMetrics(registry, max_input_tokens=100, max_total_tokens=200)
    EngineMetrics(registry)
    stats = SchedulerStats(**dict.fromkeys(SchedulerStats.__dataclass_fields__, 1))
    registry.register(SchedulerCollector(lambda: stats, 16))
    return registry


def test_every_family_of_the_contract_has_its_type() -> None:
    text = exposition.render(full_registry()).decode()
    types = dict(line.split()[2:] for line in text.splitlines() if line.startswith("# TYPE "))
    assert {**TGI_FAMILIES, **OWN_FAMILIES}.items() <= types.items()


def test_open_metrics_is_read_by_a_strict_parser_and_has_the_same_series() -> None:
    registry = full_registry()
    Counter("some_count", "Any", ["err"], registry=registry).labels('a"b\\c\n').inc()
    text = exposition.render(registry, TextFormat.OPEN_METRICS).decode()
    found = {
        (sample.name, *sample.labels.items()): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }
    assert found["some_count", ("err", 'a"b\\c\n')] == 1
    assert found["tgi_preemptions",] == 1
    plain = exposition.render(registry).decode()
    series = [line for line in plain.splitlines() if line and not line.startswith("#")]
    assert len(series) == len(found)


@pytest.mark.parametrize(
    ("accept", "expected"),
    [
        ("", TextFormat.PROMETHEUS),
        ("*/*", TextFormat.PROMETHEUS),
        ("text/plain", TextFormat.PROMETHEUS),
        ("application/openmetrics-text", TextFormat.OPEN_METRICS),
        (
            "application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.4",
            TextFormat.OPEN_METRICS,
        ),
        ("application/openmetrics-text;q=0.3, text/plain;q=0.4", TextFormat.PROMETHEUS),
        ("application/openmetrics-text;q=0", TextFormat.PROMETHEUS),
        ("application/openmetrics-text;q=x, ;;,", TextFormat.PROMETHEUS),
    ],
)
def test_negotiation(accept: str, expected: TextFormat) -> None:
    assert negotiate(accept) is expected
