"""What gpu-check does around its measurements, which need a GPU."""

import os
import sys
import time
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from benchmarks import gpu_check, gpu_parity
from benchmarks.gpu_parts import parts
from benchmarks.gpu_rows import GpuRow, with_aims
from benchmarks.gpu_served import DecodeTime

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


def test_every_part_has_a_limit_and_together_they_end_in_time() -> None:
    assert list(gpu_check.PARTS) == list(parts(is_profiled=False))
    assert sum(gpu_check.PARTS.values()) < 9 * 60


def test_aims_and_the_comparison() -> None:
    step = GpuRow(part="step-8b", name="1 rows, context 1024", value=4.2, unit="ms")
    served = GpuRow(part="serve", name="32 clients, output", value=600.0)
    shipped = GpuRow(part="transformers", name="as shipped", value=100.0)
    flash = GpuRow(part="transformers-flash", name="with flash", value=400.0)
    rows = with_aims([step, served, shipped, flash])
    assert [(row.part, row.value, row.aim, row.is_met) for row in rows] == [
        ("step-8b", 4.2, "<= 4.1", False),
        ("serve", 600.0, "", None),
        ("transformers", 100.0, "", None),
        ("transformers-flash", 400.0, "", None),
        ("compared", 6.0, ">= 5", True),
        ("compared", 1.5, ">= 2", False),
    ]
    # A part that ended early leaves nothing to compare.
    assert with_aims([shipped]) == [shipped]


def test_the_mean_decode_step_between_two_readings() -> None:
    text = """
# TYPE tgi_batch_inference_duration histogram
tgi_batch_inference_duration_bucket{method="decode",le="+Inf"} 10.0
tgi_batch_inference_duration_count{method="decode"} 10.0
tgi_batch_inference_duration_sum{method="decode"} 0.5
tgi_batch_inference_duration_count{method="prefill"} 3.0
tgi_batch_inference_duration_sum{method="prefill"} 9.0
"""
    after = DecodeTime.parse(text)
    assert after == DecodeTime(steps=10, seconds=0.5)
    assert after.mean_since(DecodeTime(steps=6, seconds=0.3)) == pytest.approx(0.05)
    assert after.mean_since(after) == 0
    assert DecodeTime.parse("") == DecodeTime()


def test_texts_of_the_engine_are_judged_token_by_token(monkeypatch: pytest.MonkeyPatch) -> None:
    """On the CPU the writer is its own judge; a token that it would not write shows."""
    monkeypatch.setattr(gpu_parity, "NEW_TOKENS", 6)
    prompts = gpu_parity.sample_prompts()[:2]
    texts = gpu_parity.continued(prompts, "float32")
    assert gpu_parity.margins_of(texts) == [[0.0] * 6] * 2
    texts[1][gpu_parity.PROMPT_TOKENS + 2] = texts[1][0] + 1
    good, bad = gpu_parity.margins_of(texts)
    assert good == [0.0] * 6
    assert bad[:2] == [0.0] * 2
    assert bad[2] > 0.5
    rows = list(gpu_parity.parity_rows("float32", 0.1, good + bad[:3]))
    assert (rows[0].value, rows[1].is_met) == (8, False)


def test_flash_attention_under_the_name_of_its_package(tmp_path: Path) -> None:
    script = (
        "import importlib.metadata, sys; from pathlib import Path;"
        "from benchmarks.gpu_transformers import provide_flash_attention;"
        f"provide_flash_attention(Path({os.fspath(tmp_path)!r}));"
        "from transformers.utils.import_utils import _is_package_available as find;"
        "import flash_attn;"
        "print(find('flash_attn', return_version=True), importlib.metadata.version('flash-attn'))"
    )
    log = tmp_path / "log"
    assert gpu_check.run_limited([sys.executable, "-c", script], log, 60) == ""
    assert log.read_text().splitlines()[-1] == "(True, '2.8.3') 2.8.3"
