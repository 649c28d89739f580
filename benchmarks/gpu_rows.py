"""Rows of the table that `gpu_check` prints, and how its parts hand them over."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class GpuRow:
    """One measurement; share: of what this GPU's ceilings allow, None where none was compared."""

    part: str
    name: str
    value: float | None
    unit: str = ""
    share: float | None = None


def write_rows(path: Path, rows: list[GpuRow]) -> None:
    """All rows so far: a part that is ended leaves what it has."""
    path.write_text(json.dumps([asdict(row) for row in rows]))


def read_rows(path: Path) -> list[GpuRow]:
    """None where the part wrote none."""
    if not path.exists():
        return []
    return [GpuRow(**row) for row in json.loads(path.read_text())]
