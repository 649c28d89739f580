"""What gpu-check does around its measurements, which need a GPU."""

import os
import sys
import time
from pathlib import Path

from packaging.requirements import Requirement

from benchmarks import gpu_check

PARENT = """
import subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
print(child.pid, flush=True)
time.sleep(float(sys.argv[1]))
"""


def is_running(pid: int) -> bool:
    status = Path(f"/proc/{pid}/stat")
    return status.exists() and status.read_text().rpartition(")")[2].split()[0] != "Z"


def test_a_part_that_takes_too_long_leaves_no_process(tmp_path: Path) -> None:
    log = tmp_path / "log"
    problem = gpu_check.run_limited([sys.executable, "-c", PARENT, "60"], log, 1)
    assert problem == "not done within 1 s"
    assert not is_running(int(log.read_text()))


def test_a_part_that_ends_leaves_no_process(tmp_path: Path) -> None:
    log = tmp_path / "log"
    started = time.monotonic()
    assert gpu_check.run_limited([sys.executable, "-c", PARENT, "0"], log, 60) == ""
    assert not is_running(int(log.read_text()))
    assert time.monotonic() - started < gpu_check.GRACE_S
    failing = [sys.executable, "-c", "raise SystemExit(3)"]
    assert gpu_check.run_limited(failing, log, 60) == "exit code 3, see log"


def test_parts_find_the_packages_of_this_tree(tmp_path: Path) -> None:
    log = tmp_path / "log"
    script = "import text_generation_shard, os; print(text_generation_shard.__file__, os.getcwd())"
    gpu_check.run_limited([sys.executable, "-c", script], log, 60)
    package, folder = log.read_text().split()
    assert Path(package).is_relative_to(gpu_check.ROOT / "shard")
    assert folder == os.fspath(gpu_check.ROOT)


def test_packages_that_are_not_here_or_too_old() -> None:
    assert gpu_check.missing_packages() == []
    assert gpu_check.is_installed(Requirement("pytest>=8"))
    assert not gpu_check.is_installed(Requirement("pytest>=1000"))
    assert not gpu_check.is_installed(Requirement("no-such-package-anywhere"))
