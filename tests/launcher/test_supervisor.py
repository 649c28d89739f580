"""Start, watch, stop: with small programs in the place of shards and router."""

import asyncio
import logging
import signal

import pytest
from text_generation_launcher import readiness
from text_generation_launcher import supervisor as supervisor_module
from text_generation_launcher.child import ChildCommand
from text_generation_launcher.errors import LaunchError
from text_generation_launcher.log_relay import LogRelay, Origin
from text_generation_launcher.restart_requests import RestartRequests
from text_generation_launcher.signals import StopSignals
from text_generation_launcher.supervisor import Deployment, State, Supervisor
from text_generation_process.socket_file import SocketFile

from tests.fakes.children import good_router, good_shard, script
from tests.fakes.ports import free_port


class Scene:
    """A deployment whose children note what happens to them in a file."""

    def __init__(self, folder):
        self.port = free_port()
        self.events_file = folder / "events"
        self.now = 0.0
        self.stop = StopSignals(clock=lambda: self.now)
        self.ready = asyncio.Event()
        self.shards = [good_shard(0, self.events_file), good_shard(1, self.events_file)]
        self.router = good_router(self.port, self.events_file)
        self.grace = 30.0
        self.sockets = ()
        self.restarts_shards = False

        self.requests = RestartRequests(())

    def supervisor(self):
        self.requests = RestartRequests(self.sockets)
        deployment = Deployment(
            shards=self.shards,
            router=self.router,
            hostname="0.0.0.0",
            port=self.port,
            grace_seconds=self.grace,
            sockets=self.sockets,
            restarts_shards=self.restarts_shards,
        )
        relay = LogRelay(self.requests.observe)
        return Supervisor(deployment, relay, self.stop, self.ready.set, self.requests)

    async def run(self):
        return await asyncio.wait_for(self.supervisor().run(), timeout=60)

    def events(self):
        return self.events_file.read_text().splitlines() if self.events_file.exists() else []

    async def until(self, *events):
        async with asyncio.timeout(30):
            while not set(events) <= set(self.events()):  # noqa: ASYNC110
                await asyncio.sleep(0.01)


@pytest.fixture
def scene(tmp_path):
    return Scene(tmp_path)


@pytest.fixture
def errors(caplog):
    return lambda: [r.getMessage() for r in caplog.records if r.levelno == logging.ERROR]


async def test_serves_until_a_signal_and_stops_the_router_first(scene, errors):
    supervisor = scene.supervisor()
    serving = asyncio.create_task(supervisor.run())
    await scene.until("shard 0 started", "shard 1 started", "router started")
    await asyncio.wait_for(scene.ready.wait(), 30)
    assert supervisor.state is State.SERVING
    scene.stop.receive(signal.SIGTERM)
    assert await serving == 0
    assert supervisor.state is State.STOPPED
    ends = scene.events()[3:]
    assert ends[0] == "router stopped"
    assert sorted(ends[1:]) == ["shard 0 stopped", "shard 1 stopped"]
    assert errors() == []


async def test_a_signal_before_ready_stops_as_well(scene):
    scene.router = good_router(0, scene.events_file)  # never opens its port
    serving = asyncio.create_task(scene.run())
    await scene.until("shard 0 started", "shard 1 started", "router started")
    scene.stop.receive(signal.SIGINT)
    assert await serving == 0
    assert not scene.ready.is_set()
    assert len(scene.events()) == 6


async def test_a_shard_that_dies_before_ready_ends_all(scene, errors):
    source = "import sys; print('tensor w is missing', file=sys.stderr); sys.exit(1)"
    scene.router = good_router(0, scene.events_file)
    scene.shards[1] = script(Origin("shard", 1), source)
    assert await scene.run() == 1
    assert errors() == [
        "shard 1 died before the server was ready: exited with code 1: tensor w is missing"
    ]


async def test_a_shard_that_crashes_while_serving_ends_all(scene, errors):
    source = """
import os, signal, sys, time
while not os.path.exists(sys.argv[1]):
    time.sleep(0.01)
os.kill(os.getpid(), signal.SIGSEGV)
"""
    now = scene.events_file.parent / "now"
    scene.shards[0] = script(Origin("shard", 0), source, str(now))
    serving = asyncio.create_task(scene.run())
    await asyncio.wait_for(scene.ready.wait(), 30)
    await scene.until("shard 1 started")
    now.touch()
    assert await serving == 1
    assert errors() == ["shard 0 died: was killed by SIGSEGV"]
    assert scene.events()[-2:] == ["router stopped", "shard 1 stopped"]


def killed_once(scene, now):
    """A shard that is killed when `now` appears; started again, it notes that and stays."""
    source = """
import os, signal, sys, time
now, events, starts = sys.argv[1:]
open(starts, "a").write("x")
if os.path.getsize(starts) == 1:
    while not os.path.exists(now):
        time.sleep(0.01)
    os.kill(os.getpid(), signal.SIGKILL)
open(events, "a").write("shard 0 again\\n")
while True:
    time.sleep(0.02)
"""
    starts = scene.events_file.parent / "starts"
    return script(Origin("shard", 0), source, str(now), str(scene.events_file), str(starts))


async def test_a_shard_that_dies_while_serving_restarts_its_group(scene, errors, monkeypatch):
    monkeypatch.setattr(supervisor_module, "LOST_SHARD_GRACE_SECONDS", 30.0)
    scene.restarts_shards = True
    now = scene.events_file.parent / "now"
    scene.shards[0] = killed_once(scene, now)
    supervisor = scene.supervisor()
    serving = asyncio.create_task(supervisor.run())
    await asyncio.wait_for(scene.ready.wait(), 30)
    await scene.until("shard 1 started", "router started")
    now.touch()
    await scene.until("shard 0 again")
    async with asyncio.timeout(30):
        while scene.events().count("shard 1 started") < 2:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    assert scene.events().count("router started") == 1
    assert "shard 1 stopped" in scene.events() and "router stopped" not in scene.events()
    scene.stop.receive(signal.SIGTERM)
    assert await serving == 0
    assert len(errors()) == 1 and errors()[0].startswith("shard 0 died: was killed by SIGKILL")


async def test_a_shard_that_dies_before_the_open_port_is_seen_is_restarted_too(
    scene, errors, monkeypatch
):
    monkeypatch.setattr(readiness, "_INTERVAL_SECONDS", 60.0)
    scene.restarts_shards = True
    now = scene.events_file.parent / "now"
    scene.shards[0] = killed_once(scene, now)
    serving = asyncio.create_task(scene.run())
    async with asyncio.timeout(30):
        while not await readiness.is_port_open("127.0.0.1", scene.port):  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    now.touch()
    await scene.until("shard 0 again")
    assert scene.ready.is_set()
    scene.stop.receive(signal.SIGTERM)
    assert await serving == 0
    assert len(errors()) == 1 and errors()[0].startswith("shard 0 died: was killed by SIGKILL")


def asked(lost):
    return {"lost_shards": [str(SocketFile.at(path)) for path in lost]}


async def test_a_restart_that_the_router_asks_for_happens_once(scene):
    scene.restarts_shards = True
    scene.sockets = tuple(scene.events_file.parent / f"shard-{rank}" for rank in range(2))
    for path in scene.sockets:
        path.touch()
    supervisor = scene.supervisor()
    serving = asyncio.create_task(supervisor.run())
    await asyncio.wait_for(scene.ready.wait(), 30)
    await scene.until("shard 0 started", "shard 1 started", "router started")
    request = asked(scene.sockets)
    for _ in range(2):
        scene.requests.observe(Origin("router"), request)
    async with asyncio.timeout(30):
        while scene.events().count("shard 0 started") + scene.events().count("shard 1 started") < 4:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    for path in scene.sockets:
        assert not path.exists()
        path.touch()
    scene.requests.observe(Origin("router"), request)
    assert not scene.requests.pending.is_set(), "this one was done"
    scene.requests.observe(Origin("router"), asked(scene.sockets))
    assert scene.requests.pending.is_set(), "these are others"
    scene.stop.receive(signal.SIGTERM)
    assert await serving == 0
    assert scene.events().count("router started") == 1


async def test_a_death_is_told_though_the_router_asked_for_the_restart_first(scene, errors):
    """Its last lines are waited for, and the router may be faster to miss it."""
    scene.restarts_shards = True
    scene.sockets = (scene.events_file.parent / "shard-0",)
    scene.sockets[0].touch()
    now = scene.events_file.parent / "now"
    source = """
import os, signal, subprocess, sys, time
open(sys.argv[2], "a").write("x")
if os.path.getsize(sys.argv[2]) == 1:
    while not os.path.exists(sys.argv[1]):
        time.sleep(0.01)
    subprocess.Popen([sys.executable, "-S", "-c", "import time; time.sleep(5)"])
    os.kill(os.getpid(), signal.SIGKILL)
time.sleep(600)
"""
    starts = scene.events_file.parent / "starts"
    scene.shards = [script(Origin("shard", 0), source, str(now), str(starts))]
    supervisor = scene.supervisor()
    serving = asyncio.create_task(supervisor.run())
    await asyncio.wait_for(scene.ready.wait(), 30)
    now.touch()
    async with asyncio.timeout(30):
        while supervisor._shards[0].is_running:  # noqa: ASYNC110
            await asyncio.sleep(0)
        scene.requests.observe(Origin("router"), asked(scene.sockets))
        while starts.read_text() != "xx":  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    assert errors() == ["shard 0 died: was killed by SIGKILL (was the machine out of memory?)"]
    scene.stop.receive(signal.SIGTERM)
    assert await serving == 0


# Counts its starts in a file. The first serves until it is told to die, the next ones die loading,
# the last makes its socket.
_DIES_LOADING = """
import os, sys, time
starts, socket, last = sys.argv[1], sys.argv[2], int(sys.argv[3])
open(starts, "a").write("x")
count = os.path.getsize(starts)
if count == 1:
    while not os.path.exists(starts + ".die"):
        time.sleep(0.01)
if count < last:
    sys.exit(7)
open(socket, "w")
while True:
    time.sleep(0.02)
"""


async def test_shards_that_die_loading_are_started_again(scene, errors, monkeypatch):
    monkeypatch.setattr(supervisor_module, "_RETRY_SECONDS", 0.01)
    folder = scene.events_file.parent
    starts, socket = folder / "starts", folder / "socket"
    scene.restarts_shards, scene.sockets = True, (socket,)
    scene.shards = [script(Origin("shard", 0), _DIES_LOADING, str(starts), str(socket), "4")]
    supervisor = scene.supervisor()
    serving = asyncio.create_task(supervisor.run())
    await asyncio.wait_for(scene.ready.wait(), 30)
    (folder / "starts.die").touch()
    async with asyncio.timeout(30):
        while not socket.exists() or supervisor.state is not State.SERVING:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    assert starts.read_text() == "xxxx"
    assert "shard 0 died: exited with code 7" in errors()
    assert "shard 0 died before it was ready again: exited with code 7" in errors()
    scene.stop.receive(signal.SIGTERM)
    assert await serving == 0


async def test_a_router_that_gives_up_ends_the_restarts(scene, errors, monkeypatch):
    monkeypatch.setattr(supervisor_module, "_RETRY_SECONDS", 0.01)
    folder = scene.events_file.parent
    starts, socket = folder / "starts", folder / "socket"
    scene.restarts_shards, scene.sockets = True, (socket,)
    scene.shards = [script(Origin("shard", 0), _DIES_LOADING, str(starts), str(socket), "1000")]
    router = """
import os, socket, sys, time
listener = socket.create_server(("127.0.0.1", int(sys.argv[1])))
while not os.path.exists(sys.argv[2]) or os.path.getsize(sys.argv[2]) < 3:
    time.sleep(0.01)
sys.exit(1)
"""
    scene.router = script(Origin("router"), router, str(scene.port), str(starts))
    serving = asyncio.create_task(scene.run())
    await asyncio.wait_for(scene.ready.wait(), 30)
    (folder / "starts.die").touch()
    assert await serving == 1
    assert any(text.startswith("router died") for text in errors())
    assert "shard 0 died before it was ready again: exited with code 7" in errors()


async def test_a_child_that_cannot_honour_an_option_ends_all_as_a_bad_option_does(scene, errors):
    """What only a shard or the router can judge ended with 1, a crash's code."""
    source = "import sys; print('--quantize int8: no', file=sys.stderr); sys.exit(2)"
    scene.router = good_router(0, scene.events_file)
    scene.shards[1] = script(Origin("shard", 1), source)
    assert await scene.run() == 2
    (error,) = errors()
    assert error == (
        "shard 1 died before the server was ready: exited with code 2: --quantize int8: no"
    )


async def test_a_router_that_ends_by_itself_is_a_failure(scene, errors):
    scene.router = script(Origin("router"), "")
    assert await scene.run() == 1
    assert errors() == ["router died before the server was ready: exited with code 0"]


async def test_the_cause_is_told_after_its_consequences(scene, errors, monkeypatch):
    """A dying shard ends the router; the router's end must not hide the shard's."""
    monkeypatch.setattr(supervisor_module, "_SETTLE_SECONDS", 30.0)
    scene.shards = [script(Origin("shard", 0), "import sys, time; time.sleep(0.1); sys.exit(9)")]
    scene.router = script(Origin("router"), "import sys; sys.exit(1)")
    assert await scene.run() == 1
    assert [error.split(" before")[0] for error in errors()] == ["router died", "shard 0 died"]


async def test_who_does_not_stop_in_time_is_killed(scene, caplog):
    scene.grace = 0.1
    scene.router = good_router(scene.port, scene.events_file, "stubborn")
    scene.shards[0] = good_shard(0, scene.events_file, "stubborn")
    serving = asyncio.create_task(scene.run())
    await asyncio.wait_for(scene.ready.wait(), 30)
    await scene.until("shard 0 started", "shard 1 started", "router started")
    scene.stop.receive(signal.SIGTERM)
    assert await serving == 0
    assert {"router has not stopped: killed", "shard 0 has not stopped: killed"} <= {
        record.getMessage() for record in caplog.records
    }


async def test_a_stop_right_after_a_loss_does_not_wait_for_what_cannot_be_finished(
    scene, monkeypatch
):
    monkeypatch.setattr(supervisor_module, "_SETTLE_SECONDS", 1.0)
    monkeypatch.setattr(supervisor_module, "FAILURE_GRACE_SECONDS", 1.0)
    scene.restarts_shards = True
    scene.grace = 3600.0
    now = scene.events_file.parent / "now"
    scene.shards[0] = killed_once(scene, now)
    scene.router = good_router(scene.port, scene.events_file, "stubborn")
    supervisor = scene.supervisor()
    serving = asyncio.create_task(supervisor.run())
    await scene.until("shard 1 started", "router started")
    await asyncio.wait_for(scene.ready.wait(), 30)
    now.touch()
    async with asyncio.timeout(30):
        while all(shard.is_running for shard in supervisor._shards):  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    scene.stop.receive(signal.SIGTERM)
    assert await asyncio.wait_for(serving, 30) == 0
    assert "shard 0 again" not in scene.events()


async def test_a_second_signal_ends_all_at_once(scene):
    scene.grace = 1000.0
    scene.router = good_router(scene.port, scene.events_file, "stubborn")
    serving = asyncio.create_task(scene.run())
    await asyncio.wait_for(scene.ready.wait(), 30)
    await scene.until("shard 0 started", "shard 1 started", "router started")
    scene.stop.receive(signal.SIGINT)
    await scene.until("router asked")
    scene.stop.receive(signal.SIGINT)  # an echo of the first
    assert not scene.stop.forced.is_set()
    scene.now = 1.0
    scene.stop.receive(signal.SIGINT)
    assert await serving == 1


async def test_a_program_that_is_missing_leaves_nothing_behind(scene):
    scene.router = ChildCommand(origin=Origin("router"), argv=("/no/such/program",), environment={})
    supervisor = scene.supervisor()
    with pytest.raises(LaunchError, match=r"cannot start router: .*/no/such/program"):
        await supervisor.run()
    assert supervisor.state is State.STOPPED
    assert not any(child.is_running for child in supervisor._children())


async def test_a_supervisor_that_is_cancelled_leaves_nothing_behind(scene):
    supervisor = scene.supervisor()
    serving = asyncio.create_task(supervisor.run())
    await asyncio.wait_for(scene.ready.wait(), 30)
    serving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await serving
    assert not any(child.is_running for child in supervisor._children())


async def test_states_move_by_the_table(scene):
    supervisor = scene.supervisor()
    with pytest.raises(RuntimeError, match="from new to serving"):
        supervisor._move(State.SERVING)
