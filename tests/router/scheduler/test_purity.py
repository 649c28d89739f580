"""The scheduler is pure: no clock, no event loop, no messages, no text."""

import ast
from pathlib import Path

import pytest
import text_generation_router.scheduler

PACKAGE = Path(text_generation_router.scheduler.__file__).parent
ALLOWED = {
    "array",
    "collections",
    "dataclasses",
    "enum",
    "hashlib",
    "heapq",
    "itertools",
    "math",
}


@pytest.mark.parametrize("path", sorted(PACKAGE.glob("*.py")), ids=lambda path: path.stem)
def test_a_module_imports_nothing_that_acts_on_the_world(path):
    imported = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            imported |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            imported.add(node.module)
    inside = {name for name in imported if name.startswith("text_generation_router.scheduler")}
    assert {name.partition(".")[0] for name in imported - inside} <= ALLOWED
