"""The gRPC server over a real unix socket."""

import json
import os
import queue
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import pytest
from text_generation_proto import shard_pb2 as pb
from text_generation_proto import shard_pb2_grpc as pb_grpc
from text_generation_shard.compute_thread import ComputeThread
from text_generation_shard.config import ShardConfig
from text_generation_shard.errors import (
    CapacityError,
    ProtocolError,
    SocketError,
    StepRejectedError,
)
from text_generation_shard.server import ShardServicer, serve, start_server

from tests.shard.checkpoints import VOCAB_SIZE, Checkpoint
from tests.shard.engines import ALONE, warmup_request
from tests.shard.step_script import StepScript

PROMPT = [(13 * index + 2) % VOCAB_SIZE for index in range(10)]


class ScriptedShard:
    """Computes nothing; a step does what the test put into `steps`, its answer what it put into
    `answers`.
    """

    def __init__(self) -> None:
        self.is_warm = True
        self.computes_ahead = False
        self.num_resets = 0
        self.steps: dict[int, Callable[[], None]] = {}
        self.answers: dict[int, Callable[[], None]] = {}
        self.last_step = 0

    def info(self) -> pb.InfoResponse:
        return pb.InfoResponse(model_type="scripted")

    def warm_up(self, request: pb.WarmupRequest) -> pb.WarmupResponse:
        raise CapacityError(f"--max-total-tokens ({request.max_total_tokens}) is too much")

    def reset(self) -> None:
        self.num_resets += 1

    def begin(self, request: pb.StepRequest) -> Callable[[], pb.StepResult]:
        self.steps.get(request.step, lambda: None)()
        self.last_step = request.step

        def answer() -> pb.StepResult:
            self.answers.get(request.step, lambda: None)()
            return pb.StepResult(step=request.step)

        return answer


class Client:
    """A router's end of one shard."""

    def __init__(self, path: Path) -> None:
        self.channel = grpc.insecure_channel(f"unix:{path}")
        self.stub = pb_grpc.ShardStub(self.channel)

    def run(self) -> "Stream":
        return Stream(self.stub)


class Stream:
    def __init__(self, stub: pb_grpc.ShardStub) -> None:
        self._requests: queue.SimpleQueue[pb.StepRequest | None] = queue.SimpleQueue()
        self.results = stub.Run(iter(self._requests.get, None))

    def send(self, *requests: pb.StepRequest) -> None:
        for request in requests:
            self._requests.put(request)

    def end(self) -> None:
        self._requests.put(None)


@pytest.fixture
def folder() -> Iterator[Path]:
    """Short enough for a socket."""
    path = Path(tempfile.mkdtemp(dir="/tmp"))
    yield path
    shutil.rmtree(path)


class Scripted:
    """A server around a ScriptedShard, and a client."""

    def __init__(self, path: Path) -> None:
        self.shard = ScriptedShard()
        self.events: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self.compute = ComputeThread()
        self.compute.start()
        self.server = start_server(
            ShardServicer(self.shard, self.compute, self.events),  # type: ignore[arg-type]
            path,
        )
        self.client = Client(path)

    def close(self) -> None:
        self.client.channel.close()
        self.server.stop(1).wait()
        assert self.compute.stop(5)


@pytest.fixture
def scripted(folder: Path) -> Iterator[Scripted]:
    server = Scripted(folder / "s-0")
    yield server
    server.close()


def steps(*numbers: int) -> list[pb.StepRequest]:
    return [pb.StepRequest(step=number, work_slots=[4, 2]) for number in numbers]


def test_health_answers_in_the_middle_of_a_step(scripted: Scripted) -> None:
    go_on, began = threading.Event(), threading.Event()

    def wait() -> None:
        began.set()
        assert go_on.wait(10)

    scripted.shard.steps[2] = wait
    assert not scripted.client.stub.Health(pb.HealthRequest()).has_step_stream
    stream = scripted.client.run()
    stream.send(*steps(1, 2))
    assert began.wait(10)
    health = scripted.client.stub.Health(pb.HealthRequest())
    assert (health.last_step, health.step_in_flight) == (1, 2)
    assert health.has_step_stream
    later = scripted.client.stub.Health(pb.HealthRequest())
    assert later.step_in_flight_age_ms > health.step_in_flight_age_ms > 0
    assert later.last_step_age_ms > health.last_step_age_ms > 0
    go_on.set()
    assert [next(stream.results).step for _ in range(2)] == [1, 2]
    health = scripted.client.stub.Health(pb.HealthRequest())
    assert (health.last_step, health.step_in_flight) == (2, 0)
    assert health.step_in_flight_age_ms == 0
    stream.end()
    while scripted.client.stub.Health(pb.HealthRequest()).has_step_stream:
        time.sleep(0.01)


def test_steps_sent_ahead_are_answered_in_order_and_to_the_end(scripted: Scripted) -> None:
    stream = scripted.client.run()
    stream.send(*steps(*range(1, 51)))
    stream.end()
    assert [result.step for result in stream.results] == list(range(1, 51))


def test_a_new_stream_starts_from_nothing_and_ends_the_old_one(scripted: Scripted) -> None:
    old = scripted.client.run()
    old.send(*steps(1))
    assert next(old.results).step == 1
    new = scripted.client.run()
    new.send(*steps(1))
    assert next(new.results).step == 1
    assert list(old.results) == []
    assert scripted.shard.num_resets == 2
    new.end()
    old.end()


def test_a_client_that_vanishes_leaves_the_shard_serving(scripted: Scripted) -> None:
    stream = scripted.client.run()
    stream.send(*steps(1))
    next(stream.results)
    stream.results.cancel()
    stream.end()
    again = scripted.client.run()
    again.send(*steps(1, 2))
    assert [next(again.results).step for _ in range(2)] == [1, 2]
    again.end()


def test_a_rejected_step_does_not_end_the_stream(scripted: Scripted) -> None:
    def reject() -> None:
        raise StepRejectedError("sequence 3: too odd", slots=(2,))

    scripted.shard.steps[1] = reject
    stream = scripted.client.run()
    stream.send(*steps(1, 2))
    failed = next(stream.results)
    assert failed.error.kind == pb.StepError.KIND_RECOVERABLE
    assert (failed.error.message, list(failed.error.slots)) == ("sequence 3: too odd", [2])
    assert not next(stream.results).HasField("error")
    assert scripted.events.empty()
    stream.end()


def test_any_other_error_is_the_last_answer(scripted: Scripted) -> None:
    def fail() -> None:
        raise RuntimeError("the cable\nis loose")

    scripted.shard.steps[2] = fail
    stream = scripted.client.run()
    stream.send(*steps(1, 2, 3))
    results = list(stream.results)
    assert [result.step for result in results] == [1, 2]
    assert results[1].error.kind == pb.StepError.KIND_FATAL
    assert results[1].error.message == "RuntimeError: the cable is loose"
    assert isinstance(scripted.events.get(timeout=5).error, RuntimeError)
    stream.end()


@pytest.fixture
def ahead(scripted: Scripted) -> Scripted:
    """Its steps are launched, and answered when their device is done."""
    scripted.shard.computes_ahead = True
    return scripted


def test_a_step_is_launched_before_the_last_one_is_done(ahead: Scripted) -> None:
    second_began, is_done = threading.Event(), threading.Event()

    def wait() -> None:
        assert is_done.wait(10)

    ahead.shard.answers[1] = wait
    ahead.shard.steps[2] = second_began.set
    stream = ahead.client.run()
    stream.send(*steps(1, 2))
    assert second_began.wait(10)
    health = ahead.client.stub.Health(pb.HealthRequest())
    assert (health.last_step, health.step_in_flight) == (0, 1)
    is_done.set()
    assert [next(stream.results).step for _ in range(2)] == [1, 2]
    health = ahead.client.stub.Health(pb.HealthRequest())
    assert (health.last_step, health.step_in_flight) == (2, 0)
    stream.end()


def test_launched_steps_are_answered_in_order_and_to_the_end(ahead: Scripted) -> None:
    def reject() -> None:
        raise StepRejectedError("sequence 3: too odd", slots=(2,))

    ahead.shard.steps[7] = reject
    ahead.shard.answers[6] = partial(time.sleep, 0.05)
    stream = ahead.client.run()
    stream.send(*steps(*range(1, 31)))
    stream.end()
    results = list(stream.results)
    assert [result.step for result in results] == list(range(1, 31))
    assert [result.step for result in results if result.HasField("error")] == [7]


@pytest.mark.parametrize("at", ["steps", "answers"])
def test_an_error_of_the_device_is_the_last_answer(ahead: Scripted, at: str) -> None:
    """Whether it shows when a step is launched or when it is waited for."""

    def fail() -> None:
        raise RuntimeError("an illegal memory access")

    getattr(ahead.shard, at)[2] = fail
    stream = ahead.client.run()
    stream.send(*steps(1, 2, 3))
    results = list(stream.results)
    assert [result.step for result in results] == [1, 2]
    assert results[1].error.kind == pb.StepError.KIND_FATAL
    assert isinstance(ahead.events.get(timeout=5).error, RuntimeError)
    stream.end()


def test_what_can_wait_is_done_in_pauses_only(scripted: Scripted) -> None:
    calls: list[int] = []
    enough = threading.Event()

    def work() -> bool:
        calls.append(scripted.shard.last_step)
        if len(calls) == 3:
            enough.set()
        return len(calls) < 3

    all_are_queued = threading.Event()
    scripted.compute.submit(all_are_queued.wait)
    scripted.compute.work_while_idle(work)
    stream = scripted.client.run()
    stream.send(*steps(*range(1, 101)))
    stream.end()
    jobs = scripted.compute._jobs
    while jobs.qsize() < 102:  # the steps, between the stream's beginning and end
        time.sleep(0.01)
    all_are_queued.set()
    assert len(list(stream.results)) == 100
    assert enough.wait(60)
    assert calls == [100] * 3


def test_a_gap_in_the_numbering_is_fatal(scripted: Scripted) -> None:
    stream = scripted.client.run()
    stream.send(*steps(1, 3))
    results = list(stream.results)
    assert results[1].error.message == "step 3 follows step 1"
    assert isinstance(scripted.events.get(timeout=5).error, ProtocolError)
    stream.end()


def test_warmup_that_does_not_fit_names_the_flag(scripted: Scripted) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        scripted.client.stub.Warmup(pb.WarmupRequest(max_total_tokens=9))
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "--max-total-tokens (9)" in caught.value.details()


def test_run_needs_warmup(scripted: Scripted) -> None:
    scripted.shard.is_warm = False
    stream = scripted.client.run()
    with pytest.raises(grpc.RpcError, match="Run before Warmup"):
        next(stream.results)
    stream.end()


def test_messages_may_be_large(scripted: Scripted) -> None:
    request = pb.StepRequest(step=1)
    request.admissions.add(token_ids=[1 << 28] * 2_000_000)
    stream = scripted.client.run()
    stream.send(request)
    assert next(stream.results).step == 1
    stream.end()


def test_a_stale_socket_is_replaced(folder: Path) -> None:
    path = folder / "s-0"
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(path))
    server = Scripted(path)
    assert server.client.stub.Info(pb.InfoRequest()).model_type == "scripted"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    server.close()


def test_a_socket_in_use_is_left_alone(folder: Path) -> None:
    server = Scripted(folder / "s-0")
    with pytest.raises(SocketError, match="another process listens"):
        start_server(pb_grpc.ShardServicer(), folder / "s-0")  # type: ignore[arg-type]
    assert server.client.stub.Info(pb.InfoRequest()).model_type == "scripted"
    server.close()


@pytest.mark.parametrize("name", ["file", "missing/s-0", "x" * 120])
def test_impossible_sockets(folder: Path, name: str) -> None:
    (folder / "file").write_text("")
    with pytest.raises(SocketError, match="--uds-path"):
        start_server(pb_grpc.ShardServicer(), folder / name)  # type: ignore[arg-type]


@pytest.fixture
def keep_signals() -> Iterator[None]:
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    yield
    for number, handler in handlers.items():
        signal.signal(number, handler)


def when_ready(path: Path, action: Callable[[], None]) -> "Future[None]":
    """Do something in another thread once the socket is there; then stop the server."""
    done: Future[None] = Future()
    deadline = time.monotonic() + 60

    def act() -> None:
        try:
            while not path.exists():
                assert time.monotonic() < deadline, f"there is no {path}"
                time.sleep(0.01)
            action()
        except Exception as error:  # noqa: BLE001  raised in the test
            problem = error
        else:
            problem = None
        # Before the test can end, and with it what the server does at this signal.
        os.kill(os.getpid(), signal.SIGTERM)
        if problem is None:
            done.set_result(None)
        else:
            done.set_exception(problem)

    threading.Thread(target=act).start()
    return done


@pytest.mark.usefixtures("keep_signals")
def test_a_fatal_error_ends_the_process_with_its_text_as_last_log_line(
    checkpoint: Checkpoint, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def break_the_rules() -> None:
        client = Client(folder / "s-0")
        client.stub.Warmup(warmup_request())
        stream = client.run()
        stream.send(pb.StepRequest(step=1, work_slots=[3], work_num_tokens=[1]))
        assert next(stream.results).error.kind == pb.StepError.KIND_FATAL
        assert list(stream.results) == []
        stream.end()
        client.channel.close()

    done = when_ready(folder / "s-0", break_the_rules)
    config = ShardConfig(model_path=str(checkpoint.path), uds_path=str(folder / "s"))
    assert serve(config, ALONE) == 1
    done.result(10)
    assert caplog.records[-1].levelname == "ERROR"
    assert "holds no sequence" in caplog.records[-1].getMessage()
    assert not (folder / "s-0").exists()


@pytest.mark.usefixtures("keep_signals")
def test_weights_that_cannot_be_read_end_the_process(
    checkpoint: Checkpoint, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shutil.copytree(checkpoint.path, folder / "model")
    weights = folder / "model" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    config = ShardConfig(model_path=str(folder / "model"), uds_path=str(folder / "s"))
    assert serve(config, ALONE) == 1
    assert str(weights) in caplog.records[-1].getMessage()
    assert caplog.records[-1].exc_info is None
    assert not (folder / "s-0").exists()


def test_the_command_serves_a_model_and_ends_on_sigterm(
    checkpoint: Checkpoint, folder: Path
) -> None:
    command = [sys.executable, "-m", "text_generation_shard.cli", "serve", "--json-output"]
    options = ["--model-path", str(checkpoint.path), "--uds-path", str(folder / "s")]
    process = subprocess.Popen(
        command + options, stdout=subprocess.PIPE, text=True, env={"PATH": os.environ["PATH"]}
    )
    try:
        while not (folder / "s-0").exists():
            assert process.poll() is None
            time.sleep(0.02)
        assert stat.S_IMODE((folder / "s-0").stat().st_mode) == 0o600
        client = Client(folder / "s-0")
        assert client.stub.Info(pb.InfoRequest()).vocab_size == VOCAB_SIZE
        warmup = client.stub.Warmup(warmup_request())
        assert warmup.num_blocks > 1 and warmup.cache_bytes > 0
        assert min(warmup.measured_ms) > 0
        script = StepScript()
        script.admit(0, PROMPT)
        script.prefill(0, 4)
        script.decode([0], 5)
        stream = client.run()
        stream.send(*script.requests)
        stream.end()
        assert script.tokens(stream.results)[0] == checkpoint.greedy(PROMPT, 6)
        client.channel.close()
        process.terminate()
        output, _ = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 0
    records = [json.loads(line) for line in output.splitlines()]
    loaded = next(record for record in records if "bytes_done" in record)
    assert loaded["bytes_done"] == loaded["bytes_total"] > 0
    assert not (folder / "s-0").exists()
