"""Tables, JSON and plot of times that are made up."""

import io
import json
import xml.etree.ElementTree as ET

import pytest
from rich.console import Console
from text_generation_benchmark.axis import Axis
from text_generation_benchmark.config import BenchmarkConfig
from text_generation_benchmark.labels import Point, place_labels
from text_generation_benchmark.measure import Measurement
from text_generation_benchmark.plot import draw
from text_generation_benchmark.report import as_json, show
from text_generation_benchmark.timing import BatchTimes, RunTime

SVG = "{http://www.w3.org/2000/svg}"


def measurement(*, decoded_share: float = 1.0) -> Measurement:
    """Two runs each of batch sizes 1, 2 and 4; then it was stopped."""
    found = Measurement(BenchmarkConfig(runs=2))
    found.facts = {"Model": "<a & b>"}
    for size in (1, 2, 4, 8):
        batch = BatchTimes(size, 10, 7)
        tokens = round(size * 7 * decoded_share)
        for scale in (1.0, 1.5) if size < 8 else ():
            batch.runs.append(
                RunTime(
                    prefill_s=0.004 * size * scale,
                    decode_s=0.07 * scale,
                    num_decoded_tokens=tokens,
                )
            )
        found.batches.append(batch)
    return found


def tables(found: Measurement) -> str:
    output = io.StringIO()
    show(found, Console(file=output, width=160))
    return output.getvalue()


def test_tables_of_tgi() -> None:
    cells = [
        [cell.strip() for cell in line.split("|")[1:-1]]
        for line in tables(measurement()).splitlines()
    ]
    assert ["Model", "<a & b>"] in cells
    assert ["N Runs", "2"] in cells
    assert ["Step", "Batch Size", "Average", "Lowest", "Highest", "p50", "p90", "p99"] in cells
    row = ["Decode (token)", "2", "12.50 ms", "10.00 ms", *["15.00 ms"] * 4]
    assert row in cells
    assert [cell[0] for cell in cells if len(cell) == 8].count("Prefill") == 3, "8 was not run"
    throughput = ["Prefill", "1", "2083.33 tokens/secs", "1666.67 tokens/secs"]
    assert [*throughput, "2500.00 tokens/secs"] in cells


def test_decodes_that_are_not_counted_are_told() -> None:
    assert "Batch size" not in tables(measurement()).replace("| Batch Size", "")
    assert "Batch size 1, 2, 4: many tokens came before" in tables(measurement(decoded_share=0.5))


def test_json_holds_every_run() -> None:
    found = json.loads(as_json(measurement()))
    assert found["parameters"]["Sequence Length"] == "10"
    assert [batch["batch_size"] for batch in found["batches"]] == [1, 2, 4]
    assert found["batches"][2]["runs"][1]["prefill_s"] == pytest.approx(0.024)


def test_the_plot_has_a_point_for_each_batch_size_in_both_panels() -> None:
    root = ET.fromstring(draw(measurement()))
    panels = {group.get("class"): group for group in root.iter(f"{SVG}g")}
    assert panels.keys() == {"prefill", "decode"}
    for panel in panels.values():
        labels = [text.text for text in panel.iter(f"{SVG}text") if "label" in text.get("class")]
        assert labels == ["1", "2", "4"]
        assert len(list(panel.iter(f"{SVG}circle"))) == 3
    prefill = [float(circle.get("cx")) for circle in panels["prefill"].iter(f"{SVG}circle")]
    assert prefill == sorted(prefill), "latency grows to the right"
    decode = [float(circle.get("cy")) for circle in panels["decode"].iter(f"{SVG}circle")]
    assert decode == sorted(decode, reverse=True), "throughput grows upwards"


@pytest.mark.parametrize("greatest", [0.003, 0.99, 1.0, 7.3, 250.0, 12345.0])
def test_an_axis_holds_its_values(greatest) -> None:
    axis = Axis.covering([greatest, 0.0], first=100.0, last=0.0)
    assert axis.ticks[0] == 0 and 3 <= len(axis.ticks) <= 7
    assert axis.end >= greatest > axis.end - axis.step
    assert axis.at(0) == 100 and axis.at(axis.end) == 0
    assert len({Axis.text(value) for value in axis.ticks}) == len(axis.ticks)


def test_labels_of_crowded_points_do_not_meet() -> None:
    points = [Point(100.0, 200.0 - 9 * number) for number in range(4)]
    whiskers = [(point, Point(point.x + 60, point.y)) for point in points]
    places = place_labels(points, ["1", "2", "4", "8"], whiskers, 0.0)
    for index, place in enumerate(places):
        for other in places[:index]:
            assert abs(place.x - other.x) >= 7 or abs(place.y - other.y) >= 13
