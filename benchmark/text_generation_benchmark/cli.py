"""`text-generation-benchmark`: options in, tables out.

Exit codes: 0 measured, 1 something failed, 2 options that cannot be used, 130 stopped by Ctrl-C.
"""

import asyncio
import sys
from pathlib import Path

from rich.console import Console
from text_generation_process.options import fail, parse
from text_generation_router.config import VERSION

from text_generation_benchmark.config import BenchmarkConfig
from text_generation_benchmark.errors import BenchmarkError

PROGRAM = "text-generation-benchmark"
_HELP = """Measure prefill and decode, latency and throughput, by batch size.

Asks a running server (--url) or a shard's socket, in turns of one batch size after the other, and
prints tables in Markdown. Ctrl-C prints what was measured so far."""
_INTERRUPTED = 130


def main() -> None:
    config = parse(BenchmarkConfig, program=PROGRAM, help=_HELP, version=VERSION)
    for name in ("json", "plot"):
        path = getattr(config, name)
        if path is not None and not Path(path).absolute().parent.is_dir():
            fail(PROGRAM, f"--{name} {path}: there is no such directory")
    sys.exit(run(config))


def run(config: BenchmarkConfig) -> int:
    """Measure and report; the exit code."""
    # Imported here: `--help` and a bad option answer at once.
    from text_generation_benchmark.measure import Measurement
    from text_generation_benchmark.plot import draw
    from text_generation_benchmark.report import as_json, show, stdout_console

    measurement, code = Measurement(config), 0
    errors = Console(stderr=True)
    try:
        asyncio.run(measurement.run(errors))
    except BenchmarkError as error:
        errors.print(f"{PROGRAM}: error: {error}", markup=False, highlight=False, soft_wrap=True)
        code = 1
    except KeyboardInterrupt:
        errors.print(f"{PROGRAM}: stopped", highlight=False)
        code = _INTERRUPTED
    if not measurement.measured:
        return code
    show(measurement, stdout_console())
    if config.json is not None:
        Path(config.json).write_text(as_json(measurement) + "\n")
    if config.plot is not None:
        Path(config.plot).write_text(draw(measurement))
    return code


if __name__ == "__main__":
    main()
