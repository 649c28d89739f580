"""What a load run found: percentiles, rates, and whether the client itself was the limit."""

from collections import Counter
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

SATURATED_CPU_SHARE = 0.8
SATURATED_LAG_MS = 20.0


@dataclass(frozen=True, kw_only=True)
class Completed:
    """One successful request; times in seconds since it was due."""

    first_token: float
    end_to_end: float
    # Seconds between consecutive events.
    gaps: NDArray[np.float64]
    num_prompt_tokens: int | None
    num_output_tokens: int


@dataclass(frozen=True, kw_only=True)
class ClientLoad:
    """What the load generator itself used."""

    # CPU seconds per second of the one thread that everything runs on.
    cpu_share: float
    # How late the event loop's timers fired, 99th percentile.
    lag_p99_ms: float

    @property
    def is_saturated(self) -> bool:
        """Whether the figures say more about the client than about the server."""
        return self.cpu_share > SATURATED_CPU_SHARE or self.lag_p99_ms > SATURATED_LAG_MS


@dataclass(frozen=True, kw_only=True)
class Percentiles:
    """Of one quantity, in milliseconds; None when nothing was measured."""

    mean: float | None
    p50: float | None
    p90: float | None
    p99: float | None

    @classmethod
    def of(cls, seconds: NDArray[np.float64]) -> "Percentiles":
        if not seconds.size:
            return cls(mean=None, p50=None, p90=None, p99=None)
        p50, p90, p99 = (float(value) for value in np.percentile(seconds, (50, 90, 99)) * 1000)
        return cls(mean=float(seconds.mean() * 1000), p50=p50, p90=p90, p99=p99)


@dataclass(frozen=True, kw_only=True)
class Summary:
    """One load run."""

    duration_s: float
    num_completed: int
    num_failed: int
    failures: dict[str, int]
    num_output_tokens: int
    num_prompt_tokens: int | None
    output_tokens_per_s: float
    requests_per_s: float
    time_to_first_token: Percentiles
    inter_token: Percentiles
    time_per_output_token: Percentiles
    end_to_end: Percentiles
    client: ClientLoad

    def as_json(self) -> dict[str, Any]:
        """Plain values, with the judgement on the client."""
        return asdict(self) | {"client_saturated": self.client.is_saturated}


def summarise(
    completed: list[Completed], failures: Counter[str], duration: float, client: ClientLoad
) -> Summary:
    """Rates are over `duration` (seconds): from the first request sent to the last answer."""
    num_output = sum(item.num_output_tokens for item in completed)
    prompts = [item.num_prompt_tokens for item in completed]
    known = [count for count in prompts if count is not None]
    gaps = [item.gaps for item in completed]
    per_token = [
        (item.end_to_end - item.first_token) / (item.num_output_tokens - 1)
        for item in completed
        if item.num_output_tokens > 1
    ]
    return Summary(
        duration_s=duration,
        num_completed=len(completed),
        num_failed=failures.total(),
        failures=dict(failures.most_common()),
        num_output_tokens=num_output,
        num_prompt_tokens=sum(known) if known and len(known) == len(prompts) else None,
        output_tokens_per_s=num_output / duration,
        requests_per_s=len(completed) / duration,
        time_to_first_token=Percentiles.of(np.array([item.first_token for item in completed])),
        inter_token=Percentiles.of(np.concatenate(gaps) if gaps else np.zeros(0)),
        time_per_output_token=Percentiles.of(np.array(per_token)),
        end_to_end=Percentiles.of(np.array([item.end_to_end for item in completed])),
        client=client,
    )


def show(summary: Summary, title: str, console: Console | None = None) -> None:
    """Print the table, and a warning when the client was the limit."""
    console = console or Console()
    table = Table(title=title, title_justify="left")
    table.add_column("milliseconds")
    for name in ("mean", "p50", "p90", "p99"):
        table.add_column(name, justify="right")
    for label, found in (
        ("time to first token", summary.time_to_first_token),
        ("inter-token latency", summary.inter_token),
        ("time per output token", summary.time_per_output_token),
        ("end to end", summary.end_to_end),
    ):
        values = (found.mean, found.p50, found.p90, found.p99)
        table.add_row(label, *("-" if value is None else f"{value:.2f}" for value in values))
    console.print(table)
    prompt = summary.num_prompt_tokens
    console.print(
        f"{summary.num_completed} requests ({summary.requests_per_s:.2f}/s), "
        f"{summary.num_failed} failed, {summary.num_output_tokens} output tokens "
        f"({summary.output_tokens_per_s:.1f}/s), prompt tokens "
        f"{'not reported' if prompt is None else prompt}, {summary.duration_s:.2f} s; "
        f"client CPU {summary.client.cpu_share:.0%}, timer lag p99 "
        f"{summary.client.lag_p99_ms:.1f} ms"
    )
    for reason, count in summary.failures.items():
        console.print(f"failed {count} times: {reason}", style="red", markup=False)
    if summary.client.is_saturated:
        console.print(
            "WARNING: the load generator lacked CPU: the server may be faster than this.",
            style="bold yellow",
        )
