"""Everything that only a GPU can show, in one unattended run of less than 9 minutes.

    python -m benchmarks.gpu_check --output results [--wheels FOLDER] [--only PART ...]

    tests         the kernels' tests, compiled for this GPU
    parity        greedy text of the whole engine, in float32 and bfloat16, judged by the CPU
    ceilings      bandwidth of reads and copies, bfloat16 matrix products
    kernels       every kernel against its bytes
    step-8b, -1b  decode steps of the whole engine, by rows and context, against their bytes; how
                  fast weights are loaded
    serve         the 8B shape through launcher, router and HTTP
    transformers  continuous batching of transformers on the same weights
      -flash      the same with flash attention
    families      small models of several families against transformers

Each part is a process of its own with a time limit, so that one that fails takes none with it. What
a part does not use of its time serves those after it; if the run is late all the same, all that are
left get less. Weights are random, made on the GPU, and lie in memory where there is room. Needs no
network; packages that are missing or too old are installed from --wheels. After every part
OUTPUT/gpu-check.json holds all that was measured, and gpu-check.log what the parts printed; the
table comes last, also when the run is ended by SIGTERM.

Written without a GPU at hand: what it measures has not been seen yet.
"""

import argparse
import contextlib
import importlib.metadata
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

from packaging.requirements import Requirement
from rich.console import Console
from rich.table import Table

from benchmarks.gpu_rows import DEADLINE, GpuRow, read_rows, with_aims

# Seconds that each part may take, if none is late; together they leave a part that does not heed
# SIGTERM, and the table, their time within 9 minutes.
PARTS = {
    "tests": 95,
    "parity": 35,
    "ceilings": 20,
    "kernels": 35,
    "step-8b": 85,
    "step-1b": 35,
    "serve": 95,
    "transformers": 40,
    "transformers-flash": 35,
    "families": 30,
}
TOTAL_S = 510.0
# Memory for the weights of the largest model, twice.
SCRATCH_BYTES = 36 << 30
MEMORY = Path("/dev/shm")
# Of what a part printed: as much as goes into the log of all.
LOG_BYTES = 200_000
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
    deadline = time.monotonic() + TOTAL_S
    # What ends this process ends the part that runs, and shows what the others measured.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    output: Path = options.output
    output.mkdir(parents=True, exist_ok=True)
    output = output.resolve()
    install_missing(options.wheels)
    device = device_facts()
    rows: list[GpuRow] = []
    parts = [part for part in PARTS if part in (options.only or PARTS)]
    try:
        with scratch_folder(output) as scratch:
            for index, part in enumerate(parts):
                limit = part_limit(parts[index:], deadline - time.monotonic())
                rows += run_part(part, scratch, limit, is_profiled=options.profile)
                keep(scratch, part, output)
                write_report(rows, device, output)
    finally:
        show(with_aims(rows), device)


def part_limit(parts: list[str], seconds_left: float) -> float:
    """Seconds for the first of the parts that are left: its own, with what those before it did not
    use; its share of what there is, if that is too little for all.
    """
    own, needed = PARTS[parts[0]], sum(PARTS[part] for part in parts)
    if seconds_left >= needed:
        return own + seconds_left - needed
    return max(0.0, own * seconds_left / needed)


@contextlib.contextmanager
def scratch_folder(output: Path) -> Iterator[Path]:
    """Where models and the parts' files lie: in memory, or in the output's folder, where models
    then stay for the next run.
    """
    if not MEMORY.is_dir() or shutil.disk_usage(MEMORY).free < SCRATCH_BYTES:
        folder = output / "parts"
        folder.mkdir(exist_ok=True)
        yield folder
        return
    with tempfile.TemporaryDirectory(prefix="gpu-check-", dir=MEMORY) as name:
        yield Path(name)


def keep(scratch: Path, part: str, output: Path) -> None:
    """Copy what is worth it: the end of a part's log behind those before it, and traces."""
    log = scratch / f"{part}.log"
    with (output / "gpu-check.log").open("ab") as file:
        file.write(f"\n===== {part}, {time.strftime('%H:%M:%S')} =====\n".encode())
        file.write(log.read_bytes()[-LOG_BYTES:] if log.exists() else b"")
    for trace in scratch.glob(f"trace-{part}-*"):
        shutil.copy(trace, output)


def write_report(rows: list[GpuRow], device: dict[str, str], output: Path) -> None:
    """All rows so far, in place of the last report."""
    report = {"device": device, "rows": [asdict(row) for row in with_aims(rows)]}
    new = output / "gpu-check.json.new"
    new.write_text(json.dumps(report, indent=2) + "\n")
    new.replace(output / "gpu-check.json")


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
    if wheels is None:
        return
    pip = [sys.executable, "-m", "pip", "install", "--no-index", "--find-links", str(wheels)]
    if subprocess.run([*pip, *missing], check=False).returncode:
        # One that is not in the folder keeps all from being installed.
        for requirement in missing:
            subprocess.run([*pip, requirement], check=False)


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


def run_part(part: str, folder: Path, limit: float, *, is_profiled: bool = False) -> list[GpuRow]:
    """The rows of a part; if it did not end well, one that says how."""
    started = time.monotonic()
    result, log = folder / f"{part}.json", folder / f"{part}.log"
    result.unlink(missing_ok=True)
    command = [sys.executable, "-m", "benchmarks.gpu_parts", part, str(result), str(folder)]
    command += ["--profile"] if is_profiled else []
    problem = run_limited(command, log, limit)
    rows = read_rows(result)
    print(f"{part}: {time.monotonic() - started:.0f} s, {len(rows)} rows {problem}", flush=True)
    return [*rows, GpuRow(part=part, name=problem, value=None)] if problem else rows


def run_limited(command: list[str], log: Path, limit: float) -> str:
    """Run a command with its output in a file; what went wrong, if anything.

    Nothing of it is left afterwards: what it started would share the GPU with the next part.
    """
    search = [*map(str, SOURCES), str(ROOT), os.environ.get("PYTHONPATH", "")]
    environment = {
        "TRITON_INTERPRET": "0",
        "PYTHONPATH": os.pathsep.join(filter(None, search)),
        DEADLINE: str(time.time() + limit),
    }
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
    """Asked in another process: this one keeps no memory of the GPU, and is not held up by it."""
    script = (
        "import json, torch; properties = torch.cuda.get_device_properties(0);"
        "print(json.dumps([properties.name, properties.multi_processor_count,"
        " properties.total_memory >> 30, torch.version.cuda]))"
    )
    facts: dict[str, str] = {}
    try:
        answer = subprocess.run(
            [sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True
        )
        names = ("name", "multiprocessors", "GiB", "cuda")
        facts = dict(zip(names, map(str, json.loads(answer.stdout)), strict=True))
    except (subprocess.SubprocessError, ValueError) as error:
        print("The GPU does not say what it is:", error, flush=True)
    for package in ("torch", "triton", "transformers"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            facts[package] = importlib.metadata.version(package)
    return {**facts, "date": time.strftime("%Y-%m-%d")}


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
