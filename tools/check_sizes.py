"""Keep files and functions small: over 500 lines (60 in a function) fails, over 300 (40) is listed.

Lines are counted as they stand. Generated code is left out; tests and benchmarks may have longer
functions (a scenario reads best in one piece) but not longer files.
"""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent
ROOMS = (
    "process",
    "launcher",
    "router",
    "shard",
    "benchmark",
    "demo",
    "benchmarks",
    "tools",
    "tests",
    "integration-tests",
)
FILE_HABIT, FILE_LIMIT = 300, 500
FUNCTION_HABIT, FUNCTION_LIMIT = 40, 60
SCENARIOS = ("tests", "integration-tests", "benchmarks")


def measure() -> Iterator[tuple[str, int, int, int]]:
    """(place, lines, habit, limit) of every file and function."""
    for room in ROOMS:
        for path in sorted((ROOT / room).rglob("*.py")):
            source = path.read_text()
            place = str(path.relative_to(ROOT))
            yield place, source.count("\n"), FILE_HABIT, FILE_LIMIT
            if room in SCENARIOS:
                continue
            for node in ast.walk(ast.parse(source)):
                if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                    lines = (node.end_lineno or node.lineno) - node.lineno + 1
                    yield (
                        f"{place}:{node.lineno} {node.name}",
                        lines,
                        FUNCTION_HABIT,
                        FUNCTION_LIMIT,
                    )


def main() -> None:
    over = [(place, lines, limit) for place, lines, habit, limit in measure() if lines > habit]
    for place, lines, limit in over:
        print(f"{'FAIL' if lines > limit else 'long'}  {lines:4d} lines (limit {limit})  {place}")
    if any(lines > limit for _, lines, limit in over):
        sys.exit(1)


if __name__ == "__main__":
    main()
