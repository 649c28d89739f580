"""The documentation names only what exists: paths in backticks, and links between pages."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")), ROOT / "demo" / "README.md"]

# `router/…/loop.py`, `proto/shard.proto`, `tests/fakes/`: something with a slash that begins with a
# room of the house.
ROOMS = (
    "process|launcher|router|shard|benchmark|proto|demo|tests|integration-tests|benchmarks|tools|docs"
    "|.ci"
)
PATH = re.compile(rf"`((?:{ROOMS})/[\w./-]*)`")
LINK = re.compile(r"\]\((?!https?:|#)([^)#]+)")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_named_paths_exist(page: Path) -> None:
    missing = [path for path in PATH.findall(page.read_text()) if not (ROOT / path).exists()]
    assert not missing, f"{page.name} names paths that do not exist: {missing}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    missing = [link for link in LINK.findall(page.read_text()) if not (page.parent / link).exists()]
    assert not missing, f"{page.name} links to {missing}"
