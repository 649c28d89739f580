"""Latency against throughput by batch size, as one standalone SVG that follows the reader's light
or dark scheme.

Each batch size is a point: across, its median latency with a whisker from the lowest to the 99th
percentile; upwards, its average throughput.
"""

import xml.etree.ElementTree as ET
from collections.abc import Sequence
from dataclasses import dataclass

from text_generation_benchmark.axis import Axis
from text_generation_benchmark.labels import Point, place_labels
from text_generation_benchmark.measure import Measurement
from text_generation_benchmark.timing import Spread

_WIDTH, _HEIGHT = 960, 440
_PANEL_TOP, _PANEL_BOTTOM = 112, 376
_PANEL_WIDTH = 380
_PANELS_LEFT = (72, 556)
_RADIUS = 4.5

_STYLE = """
  svg { --ground: #ffffff; --text: #1f2328; --faint: #59636e; --grid: #e4e7eb; --axis: #9aa3ad;
        --prefill: #0969da; --decode: #bc4c00;
        font: 12px system-ui, -apple-system, "Segoe UI", Helvetica, Arial, sans-serif; }
  @media (prefers-color-scheme: dark) {
    svg { --ground: #15191f; --text: #e6edf3; --faint: #9aa4af; --grid: #2a313a; --axis: #59636e;
          --prefill: #58a6ff; --decode: #f0883e; } }
  .ground { fill: var(--ground); }
  text { fill: var(--text); }
  .title { font-size: 17px; font-weight: 600; }
  .panel { font-size: 14px; font-weight: 600; }
  .faint { fill: var(--faint); }
  .number { font-variant-numeric: tabular-nums; }
  .grid { stroke: var(--grid); }
  .axis { stroke: var(--axis); }
  .label { font-weight: 600; stroke: var(--ground); stroke-width: 3px; paint-order: stroke; }
  .line { fill: none; stroke-width: 2; stroke-linejoin: round; }
  .whisker { stroke-width: 1.5; opacity: 0.45; }
  .point { stroke: var(--ground); stroke-width: 1.5; }
  .prefill .line, .prefill .whisker { stroke: var(--prefill); }
  .prefill .point { fill: var(--prefill); }
  .decode .line, .decode .whisker { stroke: var(--decode); }
  .decode .point { fill: var(--decode); }
"""


@dataclass(frozen=True, slots=True)
class _Mark:
    """What one batch size shows."""

    batch_size: int
    latency_ms: Spread
    tokens_per_s: float


def draw(measurement: Measurement) -> str:
    """The document."""
    batches = measurement.measured
    root = ET.Element(
        "svg",
        {
            "xmlns": "http://www.w3.org/2000/svg",
            "viewBox": f"0 0 {_WIDTH} {_HEIGHT}",
            "width": str(_WIDTH),
            "height": str(_HEIGHT),
            "role": "img",
        },
    )
    ET.SubElement(root, "title").text = "Latency against throughput by batch size"
    ET.SubElement(root, "style").text = _STYLE
    ET.SubElement(root, "rect", {"class": "ground", "width": "100%", "height": "100%"})
    _heading(root, measurement)
    prefill = [_Mark(b.batch_size, b.prefill_ms, b.prefill_rate.average) for b in batches]
    decode = [_Mark(b.batch_size, b.decode_token_ms, b.decode_rate.average) for b in batches]
    _panel(root, "prefill", "Prefill", "latency of the batch, ms", prefill, _PANELS_LEFT[0])
    _panel(root, "decode", "Decode", "latency of a token, ms", decode, _PANELS_LEFT[1])
    ET.indent(root)
    return ET.tostring(root, encoding="unicode") + "\n"


def _heading(root: ET.Element, measurement: Measurement) -> None:
    config = measurement.config
    model = measurement.facts.get("Model", "")
    _text(root, model, _PANELS_LEFT[0], 34, "title", anchor="start")
    runs = max(len(batch.runs) for batch in measurement.measured)
    _text(
        root,
        f"Prompts of {config.sequence_length} tokens, {config.decode_length} new tokens, "
        f"{runs} runs. Each point is a batch size at its median latency, the bar behind it goes "
        "from the lowest to p99.",
        _PANELS_LEFT[0],
        56,
        "faint",
        anchor="start",
    )


def _panel(
    root: ET.Element, kind: str, title: str, across: str, marks: Sequence[_Mark], left: float
) -> None:
    group = ET.SubElement(root, "g", {"class": kind})
    right = left + _PANEL_WIDTH
    latencies = [max(mark.latency_ms.p50, mark.latency_ms.p99) for mark in marks]
    x = Axis.covering(latencies, first=left, last=right)
    y = Axis.covering([mark.tokens_per_s for mark in marks], first=_PANEL_BOTTOM, last=_PANEL_TOP)
    _text(group, title, left, _PANEL_TOP - 24, "panel", anchor="start")
    _text(group, "tokens/s", left, _PANEL_TOP - 8, "faint", anchor="start")
    _grid(group, x, y)
    _text(group, across, (left + right) / 2, _PANEL_BOTTOM + 42, "faint")
    _marks(group, marks, x, y)


def _grid(group: ET.Element, x: Axis, y: Axis) -> None:
    for value in y.ticks:
        pixel = y.at(value)
        _line(group, x.first, pixel, x.last, pixel, "grid" if value else "axis")
        _text(group, Axis.text(value), x.first - 8, pixel + 4, "faint number", anchor="end")
    for value in x.ticks:
        pixel = x.at(value)
        _line(group, pixel, y.first, pixel, y.first + 5, "axis")
        _text(group, Axis.text(value), pixel, y.first + 20, "faint number")


def _marks(group: ET.Element, marks: Sequence[_Mark], x: Axis, y: Axis) -> None:
    points = [Point(x.at(mark.latency_ms.p50), y.at(mark.tokens_per_s)) for mark in marks]
    whiskers = [
        (Point(x.at(mark.latency_ms.lowest), point.y), Point(x.at(mark.latency_ms.p99), point.y))
        for mark, point in zip(marks, points, strict=True)
    ]
    for start, end in whiskers:
        _line(group, start.x, start.y, end.x, end.y, "whisker")
    path = " ".join(f"{point.x:.1f},{point.y:.1f}" for point in points)
    ET.SubElement(group, "polyline", {"class": "line", "points": path})
    texts = [str(mark.batch_size) for mark in marks]
    for mark, point in zip(marks, points, strict=True):
        circle = ET.SubElement(
            group,
            "circle",
            {"class": "point", "cx": f"{point.x:.1f}", "cy": f"{point.y:.1f}", "r": f"{_RADIUS}"},
        )
        ET.SubElement(circle, "title").text = (
            f"batch size {mark.batch_size}: p50 {mark.latency_ms.p50:.2f} ms, "
            f"{mark.tokens_per_s:.1f} tokens/s"
        )
    places = place_labels(points, texts, whiskers, x.first)
    for text, place in zip(texts, places, strict=True):
        _text(group, text, place.x, place.y, "label number")


def _line(group: ET.Element, x1: float, y1: float, x2: float, y2: float, kind: str) -> None:
    ends = {"x1": x1, "y1": y1, "x2": x2, "y2": y2}
    ET.SubElement(
        group, "line", {"class": kind} | {name: f"{value:.1f}" for name, value in ends.items()}
    )


def _text(
    group: ET.Element, text: str, x: float, y: float, kind: str, *, anchor: str = "middle"
) -> None:
    place = {"x": f"{x:.1f}", "y": f"{y:.1f}", "class": kind, "text-anchor": anchor}
    ET.SubElement(group, "text", place).text = text
