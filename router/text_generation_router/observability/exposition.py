"""Metrics as text, with the names that TGI's dashboards query: Prometheus' own format, or
OpenMetrics for whoever asks for it.

prometheus-client appends `_total` to every counter and adds a `_created` series; TGI's counters are
called `tgi_request_count`. So the samples are its own, the text is written here. OpenMetrics allows
no counter without `_total`; as Prometheus asks for OpenMetrics first, a counter is of type
`unknown` there, and the dashboards find the same series in both formats.
"""

import math
from collections.abc import Iterator
from enum import Enum

from prometheus_client import CollectorRegistry
from prometheus_client.metrics_core import Metric

_ESCAPES = str.maketrans({"\\": "\\\\", "\n": "\\n", '"': '\\"'})
_OPEN_METRICS_TYPE = "application/openmetrics-text"


class TextFormat(Enum):
    """A format, by its content type."""

    PROMETHEUS = "text/plain; charset=utf-8"
    OPEN_METRICS = f"{_OPEN_METRICS_TYPE}; version=1.0.0; charset=utf-8"

    @property
    def content_type(self) -> str:
        """What the answer's header says."""
        return self.value


def negotiate(accept: str) -> TextFormat:
    """The format for a request's Accept header: OpenMetrics where it is wanted at least as much as
    plain text.
    """
    wanted = {"text/plain": 0.0, _OPEN_METRICS_TYPE: 0.0}
    for entry in accept.split(","):
        media_type, *parameters = (part.strip().lower() for part in entry.split(";"))
        if media_type in wanted:
            wanted[media_type] = max(wanted[media_type], _quality(parameters))
    open_metrics = wanted[_OPEN_METRICS_TYPE]
    if open_metrics and open_metrics >= wanted["text/plain"]:
        return TextFormat.OPEN_METRICS
    return TextFormat.PROMETHEUS


def render(registry: CollectorRegistry, text_format: TextFormat = TextFormat.PROMETHEUS) -> bytes:
    """All families of a registry."""
    is_open_metrics = text_format is TextFormat.OPEN_METRICS
    lines: list[str] = []
    for family in registry.collect():
        is_untyped = is_open_metrics and family.type == "counter"
        lines.append(f"# HELP {family.name} {family.documentation}")
        lines.append(f"# TYPE {family.name} {'unknown' if is_untyped else family.type}")
        lines += _samples(family)
        if not is_open_metrics:
            lines.append("")
    if is_open_metrics:
        lines.append("# EOF\n")
    return "\n".join(lines).encode()


def _samples(family: Metric) -> Iterator[str]:
    for sample in family.samples:
        if sample.name.endswith("_created"):
            continue
        name = sample.name.removesuffix("_total") if family.type == "counter" else sample.name
        yield f"{name}{_labels(sample.labels)} {_number(sample.value)}"


def _quality(parameters: list[str]) -> float:
    """The weight `q` of an entry of an Accept header; 1 where there is none, 0 for nonsense."""
    for parameter in parameters:
        name, _, value = parameter.partition("=")
        if name.strip() == "q":
            try:
                return float(value)
            except ValueError:
                return 0.0
    return 1.0


def _labels(labels: dict[str, str]) -> str:
    if not labels:
        return ""
    pairs = (f'{name}="{value.translate(_ESCAPES)}"' for name, value in labels.items())
    return "{" + ",".join(pairs) + "}"


def _number(value: float) -> str:
    if math.isinf(value):
        return "+Inf" if value > 0 else "-Inf"
    if math.isnan(value):
        return "NaN"
    return str(int(value)) if value == int(value) else repr(float(value))
