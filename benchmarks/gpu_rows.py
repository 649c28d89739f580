"""Rows of the table that `gpu_check` prints, and how its parts hand them over."""

import json
import math
import os
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class GpuRow:
    """One measurement; share: of what this GPU's ceilings allow, None where none was compared.

    at_most, at_least: the aim, where there is one.
    """

    part: str
    name: str
    value: float | None
    unit: str = ""
    share: float | None = None
    at_most: float | None = None
    at_least: float | None = None

    @property
    def aim(self) -> str:
        """The aim in words."""
        if self.at_most is not None:
            return f"<= {self.at_most:,.4g}"
        return "" if self.at_least is None else f">= {self.at_least:,.4g}"

    @property
    def is_met(self) -> bool | None:
        """Whether the aim is reached; None without an aim or a value."""
        if self.value is None or not self.aim:
            return None
        if self.at_most is not None:
            return self.value <= self.at_most
        return self.at_least is not None and self.value >= self.at_least


# In the environment of a part: when its time is up, in seconds since 1970.
DEADLINE = "GPU_CHECK_DEADLINE"

# Of one H200 with the shape of Llama 3.1 8B in bfloat16, by part and name: at most so much.
H200_AIMS: Mapping[tuple[str, str], float] = {
    ("step-8b", "1 rows, context 1024"): 4.1,
    ("step-8b", "32 rows, context 1024"): 5.5,
    ("step-8b", "128 rows, context 1024"): 9.2,
    ("step-8b", "256 rows, context 512"): 11,
    ("step-8b", "prefill of 2047 tokens"): 46,
    ("kernels", "sample, 256 rows, top-k and top-p"): 200,
}
SERVED = "32 clients, output"
# How many times as many tokens as transformers' continuous batching.
TRANSFORMERS_AIMS = {"transformers": 5.0, "transformers-flash": 2.0}


def with_aims(rows: Iterable[GpuRow]) -> list[GpuRow]:
    """The rows with the aims of an H200, and how they compare with transformers."""
    aimed = [
        replace(row, at_most=H200_AIMS[row.part, row.name])
        if (row.part, row.name) in H200_AIMS
        else row
        for row in rows
    ]
    return [*aimed, *_compared(aimed)]


def _compared(rows: list[GpuRow]) -> list[GpuRow]:
    """This server's tokens per second through HTTP over those of transformers' engine."""
    ours = [row.value for row in rows if row.part == "serve" and row.name == SERVED and row.value]
    return [
        GpuRow(
            part="compared",
            name=f"{SERVED}, over {row.part}",
            value=ours[0] / row.value,
            unit="times",
            at_least=TRANSFORMERS_AIMS[row.part],
        )
        for row in rows
        if ours and row.part in TRANSFORMERS_AIMS and row.value
    ]


def seconds_left() -> float:
    """Until the part whose process this is would be ended."""
    return float(os.environ.get(DEADLINE, math.inf)) - time.time()


def attempt(
    part: str, name: str, measure: Callable[[], Iterable[GpuRow]], *, needs_s: float = 0
) -> Iterator[GpuRow]:
    """The rows of a measurement; where it fails, or less than needs_s is left, one that says so."""
    if seconds_left() < needs_s:
        yield GpuRow(part=part, name=f"{name}: no time was left", value=None)
        return
    try:
        yield from measure()
    except Exception as error:  # noqa: BLE001  whatever it is, the others are measured
        traceback.print_exc()
        yield failed(part, name, error)


def failed(part: str, name: str, error: BaseException) -> GpuRow:
    """What stands in the table in place of a value."""
    reason = next(iter(str(error).splitlines()), "")
    return GpuRow(part=part, name=f"{name}: {type(error).__name__}: {reason}"[:200], value=None)


def write_rows(path: Path, rows: list[GpuRow]) -> None:
    """All rows so far: a part that is ended leaves what it has, whenever that is."""
    new = path.with_suffix(".new")
    new.write_text(json.dumps([asdict(row) for row in rows]))
    new.replace(path)


def read_rows(path: Path) -> list[GpuRow]:
    """None where the part wrote none."""
    if not path.exists():
        return []
    return [GpuRow(**row) for row in json.loads(path.read_text())]
