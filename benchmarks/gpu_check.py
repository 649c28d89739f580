"""Everything that only a GPU can show, in one unattended run of less than 9 minutes.

    python -m benchmarks.gpu_check --output results [--wheels FOLDER] [--only PART ...]

    tests         the kernels' tests, compiled for this GPU
    parity        greedy text of the whole engine, in float32 and bfloat16, judged by the CPU
    ceilings      bandwidth of reads and copies, bfloat16 matrix products
    kernels       every kernel against its bytes
    step-8b, -1b  decode steps of the whole engine, by rows and context, against their bytes
    serve         the 8B shape through launcher, router and HTTP
    transformers  continuous batching of transformers on the same weights
      -flash      the same with flash attention
    families      small models of several families against transformers

Each part is a process of its own with a time limit, so that one that fails takes none with it.
Weights are random, made on the GPU. Needs no network; packages that are missing or too old are
installed from --wheels. The table comes last; OUTPUT/gpu-check.json holds the same.

Written without a GPU at hand: what it measures has not been seen yet.
"""

import argparse
import contextlib
import importlib.metadata
import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
import tomllib
from dataclasses import asdict
from pathlib import Path

from packaging.requirements import Requirement
from rich.console import Console
from rich.table import Table

from benchmarks.gpu_rows import GpuRow, read_rows, with_aims

# Seconds that each part may take; together less than 9 minutes.
PARTS = {
    "tests": 100,
    "parity": 40,
    "ceilings": 15,
    "kernels": 40,
    "step-8b": 80,
    "step-1b": 40,
    "serve": 100,
    "transformers": 45,
    "transformers-flash": 40,
    "families": 35,
}
# Of the packages that tests need.
TEST_PACKAGES = ("triton", "pytest", "pytest-asyncio", "pytest-timeout")
NO_GPU = 2
# Seconds that the processes of a part get to end by themselves.
GRACE_S = 10
ROOT = Path(__file__).parent.parent
# Where this repository's packages lie, whether or not they are installed.
SOURCES = [ROOT / name for name in ("proto", "process", "launcher", "router", "shard", "demo")]


def main() -> None:
    options = parse_options()
    if not has_gpu():
        print("No GPU is visible here: gpu-check measures one, and has nothing to say without it.")
        sys.exit(NO_GPU)
    install_missing(options.wheels)
    output: Path = options.output
    output.mkdir(parents=True, exist_ok=True)
    output = output.resolve()
    rows: list[GpuRow] = []
    for part in options.only or PARTS:
        rows += run_part(part, output, is_profiled=options.profile)
    rows = with_aims(rows)
    device = device_facts()
    report = {"device": device, "rows": [asdict(row) for row in rows]}
    (output / "gpu-check.json").write_text(json.dumps(report, indent=2) + "\n")
    show(rows, device)


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n", maxsplit=1)[0])
    parser.add_argument("--output", type=Path, required=True, help="folder for JSON and logs")
    parser.add_argument("--wheels", type=Path, help="folder with wheels of missing packages")
    parser.add_argument(
        "--profile", action="store_true", help="write traces of decode steps into OUTPUT, too"
    )
    parser.add_argument("--only", nargs="+", choices=PARTS, help="some parts only")
    return parser.parse_args()


def has_gpu() -> bool:
    import torch

    return torch.cuda.is_available()


def install_missing(wheels: Path | None) -> None:
    """From the folder alone; what is not there shows itself in the parts that need it."""
    missing = missing_packages()
    if not missing:
        return
    print("Missing or too old:", ", ".join(missing), flush=True)
    if wheels is not None:
        pip = [sys.executable, "-m", "pip", "install", "--no-index", "--find-links", str(wheels)]
        subprocess.run([*pip, *missing], check=False)


def missing_packages() -> list[str]:
    """What pyproject.toml asks for and this environment does not have."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for_tests = map(Requirement, project["optional-dependencies"]["test"])
    needed = [
        *map(Requirement, project["dependencies"]),
        *(requirement for requirement in for_tests if requirement.name in TEST_PACKAGES),
    ]
    return [str(requirement) for requirement in needed if not is_installed(requirement)]


def is_installed(requirement: Requirement) -> bool:
    try:
        version = importlib.metadata.version(requirement.name)
    except importlib.metadata.PackageNotFoundError:
        return False
    return requirement.specifier.contains(version, prereleases=True)


def run_part(part: str, output: Path, *, is_profiled: bool = False) -> list[GpuRow]:
    """The rows of a part; if it did not end well, one that says how."""
    started = time.monotonic()
    result, log = output / f"{part}.json", output / f"{part}.log"
    result.unlink(missing_ok=True)
    command = [sys.executable, "-m", "benchmarks.gpu_parts", part, str(result), str(output)]
    command += ["--profile"] if is_profiled else []
    problem = run_limited(command, log, PARTS[part])
    rows = read_rows(result)
    print(f"{part}: {time.monotonic() - started:.0f} s, {len(rows)} rows {problem}", flush=True)
    return [*rows, GpuRow(part=part, name=problem, value=None)] if problem else rows


def run_limited(command: list[str], log: Path, limit: float) -> str:
    """Run a command with its output in a file; what went wrong, if anything.

    Nothing of it is left afterwards: what it started would share the GPU with the next part.
    """
    search = [*map(str, SOURCES), str(ROOT), os.environ.get("PYTHONPATH", "")]
    environment = {"TRITON_INTERPRET": "0", "PYTHONPATH": os.pathsep.join(filter(None, search))}
    with log.open("wb") as file:
        process = subprocess.Popen(
            command,
            stdout=file,
            stderr=subprocess.STDOUT,
            env={**os.environ, **environment},
            cwd=ROOT,
            start_new_session=True,
        )
    try:
        code = process.wait(limit)
    except subprocess.TimeoutExpired:
        return f"not done within {limit:g} s"
    finally:
        end_group(process)
    return f"exit code {code}, see {log.name}" if code else ""


def end_group(leader: "subprocess.Popen[bytes]") -> None:
    """End what is left of a process's group: SIGTERM, and SIGKILL for what does not heed it."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(leader.pid, signal.SIGTERM)
        deadline = time.monotonic() + GRACE_S
        while time.monotonic() < deadline:
            leader.poll()
            os.killpg(leader.pid, 0)
            time.sleep(0.05)
        os.killpg(leader.pid, signal.SIGKILL)
    leader.wait()


def device_facts() -> dict[str, str]:
    import torch

    properties = torch.cuda.get_device_properties(0)
    triton = importlib.util.find_spec("triton")
    version = __import__("triton").__version__ if triton else "none"
    return {
        "name": properties.name,
        "multiprocessors": str(properties.multi_processor_count),
        "torch": torch.__version__,
        "cuda": str(torch.version.cuda),
        "triton": version,
        "date": time.strftime("%Y-%m-%d"),
    }


def show(rows: list[GpuRow], device: dict[str, str]) -> None:
    table = Table(title=", ".join(f"{name} {value}" for name, value in device.items()))
    table.add_column("part")
    table.add_column("what")
    table.add_column("measured", justify="right")
    table.add_column("of the ceiling", justify="right")
    table.add_column("aim", justify="right")
    table.add_column("")
    for row in rows:
        share = "" if row.share is None else f"{row.share:.0%}"
        value = "" if row.value is None else f"{row.value:,.4g} {row.unit}"
        met = {True: "met", False: "not met", None: ""}[row.is_met]
        table.add_row(row.part, row.name, value, share, row.aim, met)
    Console(width=130).print(table)


if __name__ == "__main__":
    main()
