"""Real processes: their lines, their ends."""

import asyncio
import json
import logging
import os
import signal
import sys
import time
from contextlib import suppress

import pytest
from text_generation_launcher.child import Child, ChildExit
from text_generation_launcher.log_relay import LogRelay, Origin

from tests.fakes.children import is_alive, script

ORIGIN = Origin("shard", 0)


@pytest.fixture
def lines(caplog):
    """The messages of all lines that children wrote, in order."""
    caplog.set_level(logging.DEBUG)
    return lambda: [record.getMessage() for record in caplog.records if record.name == "shard"]


async def run(source, *arguments):
    child = await Child.start(script(ORIGIN, source, *arguments), LogRelay())
    return await child.exited()


async def test_lines_of_both_streams_arrive_whole(lines):
    source = """
import sys, time
sys.stdout.write("half a "); sys.stdout.flush(); time.sleep(0.05)
print("line", flush=True); print("an error", file=sys.stderr)
sys.stdout.buffer.write(b"caf\\xe9\\n"); sys.stdout.buffer.flush()
print("no end", end="")
"""
    exit_ = await run(source)
    assert sorted(lines()) == ["an error", "caf\\xe9", "half a line", "no end"]
    assert exit_ == ChildExit(ORIGIN, 0, "an error")


async def test_who_died_before_being_asked_to_stop_keeps_the_exit_code(monkeypatch):
    """Asked through Popen, it was reaped there, and its code was lost to the event loop."""
    if sys.version_info < (3, 12):  # as later versions wait for children, if the system can
        watcher = asyncio.PidfdChildWatcher()
        watcher.attach_loop(asyncio.get_running_loop())
        monkeypatch.setattr(asyncio.get_event_loop_policy(), "_watcher", watcher)
    child = await Child.start(script(ORIGIN, "import sys; sys.exit(9)"), LogRelay())
    while is_alive(child._transport.get_pid()):
        time.sleep(0.01)  # noqa: ASYNC251  the event loop shall not see it
    assert child.is_running
    child.terminate()
    assert (await child.exited()).code == 9


async def test_a_huge_line_and_many_lines_arrive(lines):
    size, count = 3_000_000, 3000
    await run(f"print('x' * {size}); [print(i) for i in range({count})]")
    assert [len(line) for line in lines()[:1]] == [size]
    assert lines()[1:] == [str(i) for i in range(count)]


async def test_a_huge_record_is_still_a_record(caplog, tmp_path):
    caplog.set_level(logging.DEBUG)
    path = tmp_path / "line"
    path.write_text(json.dumps({"level": "INFO", "target": "t", "message": "x" * 500_000}))
    await run("import sys; print(open(sys.argv[1]).read())", str(path))
    assert [len(r.getMessage()) for r in caplog.records if r.name == "t"] == [500_000]


async def test_exit_codes_and_signals_are_told():
    assert (await run("import sys; sys.exit(7)")).how == "exited with code 7"
    killed = await run("import os, signal; os.kill(os.getpid(), signal.SIGKILL)")
    assert killed.how == "was killed by SIGKILL (was the machine out of memory?)"
    crashed = await run("import sys; sys.stderr.write('cannot\\n'); sys.exit(1)")
    assert crashed.how == "exited with code 1: cannot"


async def test_terminate_and_kill():
    sleep = "import time; print('up', flush=True); time.sleep(60)"
    for end, code in ((Child.terminate, -signal.SIGTERM), (Child.kill, -signal.SIGKILL)):
        child = await Child.start(script(ORIGIN, sleep), LogRelay())
        assert child.is_running
        end(child)
        assert (await child.exited()).code == code
        assert not child.is_running
        end(child)  # once more does not hurt


async def test_waiting_may_be_cancelled_and_repeated():
    child = await Child.start(script(ORIGIN, "import time; time.sleep(60)"), LogRelay())
    with pytest.raises(asyncio.TimeoutError):
        await asyncio.wait_for(child.exited(), timeout=0.05)
    child.kill()
    assert await child.exited() == await child.exited()


async def test_a_grandchild_that_holds_the_pipe_delays_nothing_for_long():
    source = f"""
import subprocess
print(subprocess.Popen([{sys.executable!r}, "-S", "-c", "import time; time.sleep(60)"]).pid)
"""
    pids = []

    class Relay(LogRelay):
        def line(self, origin, text, **others):
            pids.append(int(text))

    child = await Child.start(script(ORIGIN, source), Relay())
    try:
        exit_ = await asyncio.wait_for(child.exited(), timeout=20)
        assert exit_.code == 0
    finally:
        with suppress(ProcessLookupError):
            os.kill(pids[0], signal.SIGKILL)


async def test_killing_takes_the_childs_children_along():
    source = f"""
import subprocess, time
print(subprocess.Popen([{sys.executable!r}, "-S", "-c", "import time; time.sleep(60)"]).pid,
      flush=True)
time.sleep(60)
"""
    pids = []

    class Relay(LogRelay):
        def line(self, origin, text, **others):
            pids.append(int(text))

    child = await Child.start(script(ORIGIN, source), Relay())
    while not pids:  # noqa: ASYNC110
        await asyncio.sleep(0.01)
    child.kill()
    await child.exited()
    deadline = time.monotonic() + 20
    while is_alive(pids[0]) and time.monotonic() < deadline:  # noqa: ASYNC110
        await asyncio.sleep(0.01)
    assert not is_alive(pids[0])
