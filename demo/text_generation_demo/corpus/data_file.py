"""Reading the data files of the corpus."""

import tomllib
from functools import cache
from pathlib import Path
from typing import Any

_DATA_DIR = Path(__file__).resolve().parent / "data"


@cache
def read_data(name: str) -> dict[str, Any]:
    """The content of `data/<name>.toml`; callers must not change it."""
    return tomllib.loads((_DATA_DIR / f"{name}.toml").read_text(encoding="utf-8"))


def phrasings(group: str, name: str) -> tuple[str, ...]:
    return tuple(read_data("phrasings")[group][name])
