"""What gpu-check does around its measurements, which need a GPU."""

import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from tokenizers import Tokenizer

from benchmarks import gpu_check, gpu_parity, gpu_served
from benchmarks.checkpoint import SHAPES
from benchmarks.gpu_parts import parts
from benchmarks.gpu_rows import DEADLINE, GpuRow, attempt, read_rows, seconds_left, with_aims
from benchmarks.gpu_served import DecodeTime, outcome_rows
from benchmarks.vocabulary import write_tokenizer
from benchmarks.workload import Lengths, Workload

PARENT = """
import subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
print(child.pid, flush=True)
time.sleep(float(sys.argv[1]))
"""


def is_running(pid: int) -> bool:
    status = Path(f"/proc/{pid}/stat")
    return status.exists() and status.read_text().rpartition(")")[2].split()[0] != "Z"


def test_a_part_that_takes_too_long_leaves_no_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = tmp_path / "log"

    def wait(process: "subprocess.Popen[bytes]", timeout: float) -> int:
        """The time is over once the part has a child."""
        while not log.read_text().endswith("\n"):
            time.sleep(0.01)
        monkeypatch.undo()
        return process.wait(timeout)

    monkeypatch.setattr(subprocess.Popen, "wait", wait)
    problem = gpu_check.run_limited([sys.executable, "-c", PARENT, "60"], log, 0.1)
    assert problem == "not done within 0.1 s"
    assert not is_running(int(log.read_text()))


def test_a_part_that_ends_leaves_no_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = tmp_path / "log"
    monkeypatch.setattr(gpu_check, "GRACE_S", 600)  # not waited for
    assert gpu_check.run_limited([sys.executable, "-c", PARENT, "0"], log, 60) == ""
    assert not is_running(int(log.read_text()))
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
    assert sum(gpu_check.PARTS.values()) <= gpu_check.TOTAL_S < 9 * 60 - 2 * gpu_check.GRACE_S


def test_a_part_gets_what_others_left_and_less_if_the_run_is_late() -> None:
    names = list(gpu_check.PARTS)
    assert gpu_check.part_limit(names, gpu_check.TOTAL_S) >= gpu_check.PARTS["tests"]
    last = gpu_check.PARTS["transformers-flash"], gpu_check.PARTS["families"]
    assert gpu_check.part_limit(names[-2:], sum(last) + 7) == last[0] + 7
    assert gpu_check.part_limit(names[-2:], sum(last) / 2) == last[0] / 2
    assert gpu_check.part_limit(names[-1:], -3) == 0


RUN = """
import sys, time
from benchmarks import gpu_check
gpu_check.has_gpu = lambda: True
gpu_check.device_facts = lambda: {"name": "none"}
gpu_check.install_missing = lambda _: None
gpu_check.MEMORY = gpu_check.Path("nowhere")
def run(part, folder, limit, *, is_profiled):
    if part == "parity":
        print("now", flush=True)
        time.sleep(60)
    (folder / f"{part}.log").write_text(f"log of {part}")
    return [gpu_check.GpuRow(part=part, name="one", value=1.0)]
gpu_check.run_part = run
gpu_check.main()
"""


def test_a_run_that_is_ended_shows_what_it_has(tmp_path: Path) -> None:
    command = [sys.executable, "-c", RUN, "--output", str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as running:
        assert running.stdout is not None
        assert running.stdout.readline() == "now\n"
        running.terminate()
        table = running.stdout.read()
    assert running.returncode == 143
    assert "tests" in table and "parity" not in table
    report = json.loads((tmp_path / "gpu-check.json").read_text())
    assert [(row["part"], row["value"]) for row in report["rows"]] == [("tests", 1.0)]
    assert "log of tests" in (tmp_path / "gpu-check.log").read_text()


def test_what_fails_or_has_no_time_is_a_row_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    def measure() -> Iterator[GpuRow]:
        yield GpuRow(part="p", name="first", value=1.0)
        raise ValueError("no such thing\nat all")

    rows = list(attempt("p", "both", measure))
    assert [row.name for row in rows] == ["first", "both: ValueError: no such thing"]
    monkeypatch.setattr(time, "time", lambda: 1000.0)
    monkeypatch.setenv(DEADLINE, "1005")
    assert seconds_left() == 5
    (row,) = attempt("p", "long", measure, needs_s=10)
    assert row.name == "long: no time was left" and row.value is None


def test_a_part_that_fails_says_why(tmp_path: Path) -> None:
    """And keeps its rows; the ceilings need a GPU."""
    result = tmp_path / "ceilings.json"
    arguments = ["-m", "benchmarks.gpu_parts", "ceilings", str(result), str(tmp_path)]
    log = tmp_path / "log"
    assert gpu_check.run_limited([sys.executable, *arguments], log, 60) == ""
    assert [row.value for row in read_rows(result)] == [None] * 3
    arguments[2:4] = "transformers", str(tmp_path / "other.json")
    unknown = [sys.executable, *arguments[:2], "no-such-part", *arguments[3:]]
    assert gpu_check.run_limited(unknown, log, 60) == "exit code 1, see log"
    (row,) = read_rows(tmp_path / "other.json")
    assert row.name.startswith("ended: KeyError")


def test_clients_send_prompts_as_long_as_those_of_transformers(tmp_path: Path) -> None:
    """They were nearly twice as long: a word is two tokens of a vocabulary without a corpus."""
    write_tokenizer(tmp_path, SHAPES[gpu_served.MODEL].vocab_size, 8192)
    tokenizer = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    workload = Workload(
        dialect="generate",
        prompt_tokens=Lengths.parse(str(gpu_served.PROMPT_TOKENS)),
        output_tokens=Lengths.parse("1"),
        tokens_per_word=gpu_served.TOKENS_PER_WORD,
    )
    texts = [workload.payload(random.Random(seed))["inputs"] for seed in range(20)]
    counts = [len(tokenizer.encode(text).ids) for text in texts]
    assert sum(counts) / 20 == pytest.approx(gpu_served.PROMPT_TOKENS, rel=0.02)


def test_tests_are_counted_line_by_line() -> None:
    lines = [
        "tests/a/test_x.py::test_one[case] PASSED                [  1%]\n",
        "tests/a/test_x.py::test_two SKIPPED (no reason)         [  2%]\n",
        "[gw3] [ 10%] PASSED tests/a/test_x.py::test_three \n",
        "[gw0] [ 12%] FAILED tests/a/test_x.py::test_four[a b] \n",
        "FAILED tests/a/test_x.py::test_four[a b] - assert 0\n",
        "2 passed, 1 failed, 1 skipped\n",
    ]
    found = [(row.name, row.value) for row in outcome_rows("tests", lines)]
    assert found == [
        ("passed", 2),
        ("failed", 1),
        ("skipped", 1),
        ("test_x.py::test_four[a b]", None),
    ]


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
