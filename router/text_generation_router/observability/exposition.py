"""Metrics as Prometheus text, with the names that TGI's dashboards query.

prometheus-client appends `_total` to every counter and adds a `_created` series; TGI's counters are
called `tgi_request_count`. So the samples are its own, the text is written here.
"""

import math

from prometheus_client import CollectorRegistry

CONTENT_TYPE = "text/plain; charset=utf-8"

_ESCAPES = str.maketrans({"\\": "\\\\", "\n": "\\n", '"': '\\"'})


def render(registry: CollectorRegistry) -> bytes:
    """All families of a registry."""
    lines: list[str] = []
    for family in registry.collect():
        lines.append(f"# HELP {family.name} {family.documentation}")
        lines.append(f"# TYPE {family.name} {family.type}")
        for sample in family.samples:
            if sample.name.endswith("_created"):
                continue
            name = sample.name.removesuffix("_total") if family.type == "counter" else sample.name
            lines.append(f"{name}{_labels(sample.labels)} {_number(sample.value)}")
        lines.append("")
    return "\n".join(lines).encode()


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
