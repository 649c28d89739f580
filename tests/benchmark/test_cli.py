"""The command itself, as a process."""

import asyncio
import os
import signal
import subprocess
import sys

import pytest

from tests.fakes.shard import FakeShards
from tests.fakes.shard_model import FakeShardConfig

COMMAND = (sys.executable, "-m", "text_generation_benchmark.cli")


async def benchmark(*flags: str, interrupt_after: str | None = None):
    """Exit code, standard output and standard error; Ctrl-C when a line with that text is there."""
    environment = {name: value for name, value in os.environ.items() if name != "RUNS"}
    # As in a terminal, also where these tests run in the background: there SIGINT is ignored.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        process = await asyncio.create_subprocess_exec(
            *COMMAND, *flags, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment
        )
    finally:
        signal.signal(signal.SIGINT, before)
    errors = b""
    while line := await process.stderr.readline():
        errors += line
        if interrupt_after and interrupt_after.encode() in line:
            process.send_signal(signal.SIGINT)
    output = await process.stdout.read()
    return await process.wait(), output.decode(), errors.decode()


async def test_measures_a_shard_and_writes_files(tmp_path) -> None:
    async with FakeShards() as shards:
        code, output, errors = await benchmark(
            *("-m", shards.uds_paths[0], "-b", "1", "-b", "2", "-r", "2"),
            *("--json", str(tmp_path / "times.json"), "--plot", str(tmp_path / "plot.svg")),
        )
    assert code == 0, errors
    assert output.count("| Decode (token) ") == 2
    assert errors.splitlines()[0].startswith("batch size 1: prefill "), "progress without a tty"
    assert (tmp_path / "times.json").read_text().startswith("{")
    assert (tmp_path / "plot.svg").read_text().startswith("<svg ")


async def test_ctrl_c_shows_what_was_measured() -> None:
    async with FakeShards(FakeShardConfig(step_seconds=0.02)) as shards:
        code, output, errors = await benchmark(
            *("-m", shards.uds_paths[0], "-b", "1", "-b", "2", "-r", "5", "-d", "3"),
            *("-b", "3", "-b", "4", "-b", "5", "-b", "6"),
            interrupt_after="batch size 1:",
        )
    assert code == 130
    assert "| Prefill        | 1 " in output and "| Prefill        | 6 " not in output
    assert "Traceback" not in errors


async def test_an_error_is_one_line() -> None:
    code, output, errors = await benchmark("-m", "/tmp/there-is-nothing-0")
    assert (code, output) == (1, "")
    assert errors.startswith("text-generation-benchmark: error: no socket at /tmp/there-is")
    assert errors.count("\n") == 1


@pytest.mark.parametrize("flag", ["--json", "--plot"])
async def test_a_file_that_cannot_be_written_is_told_before(flag) -> None:
    code, _, errors = await benchmark(flag, "/no-such-directory/x.svg")
    assert code == 2 and "there is no such directory" in errors
