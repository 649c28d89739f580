"""The times as tables, in Markdown as TGI's tool prints them, and as JSON."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from text_generation_benchmark.measure import Measurement
from text_generation_benchmark.timing import BatchTimes, Spread

# Where the output is no terminal it is as wide as its content.
_WIDTH = 160
# Share of the decodes that must be counted for nothing to be said about it.
_TOGETHER = 0.8
_LATENCY_COLUMNS = ("Average", "Lowest", "Highest", "p50", "p90", "p99")


def show(measurement: Measurement, console: Console) -> None:
    """Parameters, latencies, throughputs, and what is odd about them."""
    batches = measurement.measured
    for table in (_parameters(measurement), _latencies(batches), _throughputs(batches)):
        console.print(table)
    apart = [str(batch.batch_size) for batch in batches if batch.togetherness < _TOGETHER]
    if apart:
        console.print(
            f"Batch size {', '.join(apart)}: many tokens came before the last prompt was read, and "
            "are in no decode figure. A longer --decode-length counts more of them.",
            highlight=False,
        )


def stdout_console() -> Console:
    """Standard output; no table is cut where it is a file."""
    console = Console()
    return console if console.is_terminal else Console(width=_WIDTH)


def as_json(measurement: Measurement) -> str:
    """Everything: parameters, and each run's seconds with what follows from them."""
    return json.dumps(
        {
            "parameters": dict(_parameter_rows(measurement)),
            "batches": [_batch_json(batch) for batch in measurement.measured],
        },
        indent=2,
    )


def _batch_json(batch: BatchTimes) -> dict[str, Any]:
    return {
        "batch_size": batch.batch_size,
        "prefill_ms": asdict(batch.prefill_ms),
        "decode_token_ms": asdict(batch.decode_token_ms),
        "decode_total_ms": asdict(batch.decode_total_ms),
        "prefill_tokens_per_s": asdict(batch.prefill_rate),
        "decode_tokens_per_s": asdict(batch.decode_rate),
        "runs": [asdict(run) for run in batch.runs],
    }


def _parameter_rows(measurement: Measurement) -> list[tuple[str, str]]:
    config = measurement.config
    return [
        *measurement.facts.items(),
        ("Sequence Length", str(config.sequence_length)),
        ("Decode Length", str(config.decode_length)),
        ("Top N Tokens", str(config.top_n_tokens)),
        ("N Runs", str(config.runs)),
        ("Warmups", str(config.warmups)),
        ("Temperature", str(config.temperature)),
        ("Top K", str(config.top_k)),
        ("Top P", str(config.top_p)),
        ("Typical P", str(config.typical_p)),
        ("Repetition Penalty", str(config.repetition_penalty)),
        ("Frequency Penalty", str(config.frequency_penalty)),
        ("Watermark", str(config.watermark)),
        ("Do Sample", str(config.do_sample)),
    ]


def _parameters(measurement: Measurement) -> Table:
    table = _table("Parameter", "Value")
    for name, value in _parameter_rows(measurement):
        table.add_row(name, value)
    return table


def _latencies(batches: Sequence[BatchTimes]) -> Table:
    table = _table("Step", "Batch Size", *_LATENCY_COLUMNS)
    for step, name in (
        ("Prefill", "prefill_ms"),
        ("Decode (token)", "decode_token_ms"),
        ("Decode (total)", "decode_total_ms"),
    ):
        for batch in batches:
            spread: Spread = getattr(batch, name)
            values = (getattr(spread, column.lower()) for column in _LATENCY_COLUMNS)
            table.add_row(step, str(batch.batch_size), *(f"{value:.2f} ms" for value in values))
    return table


def _throughputs(batches: Sequence[BatchTimes]) -> Table:
    table = _table("Step", "Batch Size", "Average", "Lowest", "Highest")
    for step, name in (("Prefill", "prefill_rate"), ("Decode", "decode_rate")):
        for batch in batches:
            rate: Spread = getattr(batch, name)
            values = (rate.average, rate.lowest, rate.highest)
            table.add_row(
                step, str(batch.batch_size), *(f"{value:.2f} tokens/secs" for value in values)
            )
    return table


def _table(*columns: str) -> Table:
    table = Table(box=box.MARKDOWN, header_style="")
    for column in columns:
        table.add_column(column, no_wrap=True)
    return table
