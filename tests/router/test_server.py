"""The router's process over fake shards: start, failures to start, drain and death."""

import asyncio
import json
import os
import resource
import signal
import socket
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientConnectionError, ClientSession
from text_generation_process.options import parse
from text_generation_router.config import RouterConfig
from text_generation_router.server import Server

from tests.fakes.byte_tokenizer import SPECIAL_TOKENS, save_byte_tokenizer
from tests.fakes.ports import free_port
from tests.fakes.router_app import CHATML
from tests.fakes.shard import FakeShards
from tests.fakes.shard_model import FakeShardConfig

VOCAB_SIZE = 256 + len(SPECIAL_TOKENS)
LONG = {"inputs": "a", "parameters": {"max_new_tokens": 300, "ignore_eos": True}}


@pytest.fixture
def model_path(tmp_path: Path) -> Path:
    save_byte_tokenizer(tmp_path)
    config = {"chat_template": CHATML, "eos_token": "</s>", "bos_token": "<s>"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    return tmp_path


@dataclass(frozen=True)
class RunningRouter:
    """A router process and a client of it."""

    process: asyncio.subprocess.Process
    session: ClientSession
    port: int

    def signal(self, number: signal.Signals) -> None:
        os.kill(self.process.pid, number)

    async def end(self) -> tuple[int, str]:
        """Wait for its end: exit code and log."""
        output, _ = await self.process.communicate()
        assert self.process.returncode is not None
        return self.process.returncode, output.decode()


def scheduling_policies(pid: int) -> set[int]:
    """Of all threads."""
    threads = Path(f"/proc/{pid}/task").iterdir()
    return {os.sched_getscheduler(int(thread.name)) for thread in threads}


async def spawn(*flags: str) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "text_generation_router.cli",
        *flags,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )


@contextmanager
def few_open_files(count: int) -> Iterator[None]:
    """What is spawned inside begins with this limit, and may raise it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (count, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def catches_sigterm(pid: int) -> bool:
    """Whether the process has a handler for it by now."""
    status = Path(f"/proc/{pid}/status").read_text()
    caught = next(line for line in status.splitlines() if line.startswith("SigCgt:"))
    return bool(int(caught.split()[1], 16) & 1 << (signal.SIGTERM - 1))


@asynccontextmanager
async def running_router(
    model_path: Path, *flags: str, step_seconds: float = 0.005, break_at_step: int | None = None
) -> AsyncIterator[RunningRouter]:
    """A router that serves, over one fake shard."""
    config = FakeShardConfig(
        vocab_size=VOCAB_SIZE,
        step_seconds=step_seconds,
        **({} if break_at_step is None else {"break_at_step": break_at_step}),
    )
    async with AsyncExitStack() as stack:
        shards = await stack.enter_async_context(FakeShards(config))
        port = free_port()
        uds_path = shards.uds_paths[0].removesuffix("-0")
        base = ("--model-path", str(model_path), "--shard-uds-path", uds_path)
        process = await spawn(*base, "--port", str(port), "--hostname", "127.0.0.1", *flags)
        stack.push_async_callback(_reap, process)
        session = await stack.enter_async_context(ClientSession(f"http://127.0.0.1:{port}"))
        await _until_ready(session, process)
        yield RunningRouter(process, session, port)


async def _until_ready(session: ClientSession, process: asyncio.subprocess.Process) -> None:
    """The port opens when the model is ready: before, connections are refused."""
    async with asyncio.timeout(60):
        while process.returncode is None:
            try:
                async with session.get("/health") as response:
                    assert response.status == 200
                    return
            except ClientConnectionError:
                await asyncio.sleep(0.05)
    raise AssertionError((await process.communicate())[0].decode())


async def _reap(process: asyncio.subprocess.Process) -> None:
    if process.returncode is None:
        process.kill()
        await process.communicate()


async def test_the_demo_of_everything(model_path: Path) -> None:
    """The real engine behind every dialect."""
    async with running_router(model_path, step_seconds=0.0) as router:
        body = {"inputs": "a", "parameters": {"max_new_tokens": 5, "details": True}}
        async with router.session.post("/generate", json=body) as response:
            whole = await response.json()
            assert response.headers["x-prompt-tokens"] == "2"
        async with router.session.post("/generate_stream", json=body) as response:
            events = (await response.read()).decode().split("\n\n")[:-1]
        tokens = [json.loads(event.removeprefix("data: "))["token"] for event in events]
        assert tokens == whole["details"]["tokens"]
        last = json.loads(events[-1].removeprefix("data: "))
        assert last["generated_text"] == whole["generated_text"]
        chat = {"messages": [{"role": "user", "content": "a"}], "max_tokens": 5, "seed": 1}
        async with router.session.post("/v1/chat/completions", json=chat) as response:
            message = (await response.json())["choices"][0]["message"]
        streamed = ""
        body = {**chat, "stream": True}
        async with router.session.post("/v1/chat/completions", json=body) as response:
            for event in (await response.read()).decode().split("\n\n")[:-2]:
                chunk = json.loads(event.removeprefix("data: "))
                streamed += chunk["choices"][0]["delta"]["content"]
        assert streamed == message["content"]
        async with router.session.get("/metrics") as response:
            assert "tgi_request_success 4" in (await response.text()).splitlines()
        router.signal(signal.SIGTERM)
        code, log = await router.end()
    assert code == 0
    assert log.count("Success") == 4


async def test_connections_beyond_the_shell_s_limit_of_open_files(model_path: Path) -> None:
    """They were reset without an answer or a line in the log."""
    async with AsyncExitStack() as stack:
        with few_open_files(100):
            router = await stack.enter_async_context(running_router(model_path))
        for _ in range(150):
            reader, writer = await asyncio.open_connection("127.0.0.1", router.port)
            stack.callback(writer.close)
            writer.write(b"GET /info HTTP/1.1\r\nHost: a\r\n\r\n")
            assert await reader.readline() == b"HTTP/1.1 200 OK\r\n"


async def test_sigterm_finishes_streams_and_refuses_new_work(model_path: Path) -> None:
    async with running_router(model_path) as router:
        assert scheduling_policies(router.process.pid) == {os.SCHED_BATCH}
        async with router.session.post("/generate_stream", json=LONG) as stream:
            await stream.content.readline()
            router.signal(signal.SIGTERM)
            while True:
                async with router.session.get("/health") as health:
                    if health.status == 503:
                        break
            async with router.session.post("/generate", json=LONG) as refused:
                assert refused.status == 503
                assert (await refused.json())["error_type"] == "shutting_down"
            rest = await stream.read()
        assert b'"index":300,' in rest
        code, _ = await router.end()
    assert code == 0


async def test_the_grace_time_ends_what_still_runs(model_path: Path) -> None:
    async with running_router(model_path, "--graceful-termination-timeout", "0.2") as router:
        async with router.session.post("/generate_stream", json=LONG) as stream:
            await stream.content.readline()
            router.signal(signal.SIGTERM)
            assert b'"error_type":"shutting_down"}\n\n' in await stream.read()
        code, _ = await router.end()
    assert code == 0


async def test_a_second_signal_does_not_wait(model_path: Path) -> None:
    async with running_router(model_path) as router:
        async with router.session.post("/generate_stream", json=LONG) as stream:
            await stream.content.readline()
            router.signal(signal.SIGTERM)
            router.signal(signal.SIGINT)
            assert b'"error_type":"shutting_down"}\n\n' in await stream.read()
        code, _ = await router.end()
    assert code == 0


async def test_a_dead_shard_is_told_to_clients_and_ends_the_process(model_path: Path) -> None:
    async with running_router(model_path, break_at_step=20) as router:
        async with router.session.post("/generate_stream", json=LONG) as stream:
            told = await stream.read()
        code, log = await router.end()
    assert b'"error_type":"generation"}\n\n' in told
    assert b"/tmp" not in told  # it named the shard's socket
    assert code == 1
    assert "the engine failed: the shard at /" in log


async def test_a_port_in_use_is_one_line(model_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        flags = ("--hostname", "127.0.0.1", "--port", port, "--model-path", str(model_path))
        process = await spawn(*flags, "--shard-uds-path", "/tmp/no-such-shard")
        output, _ = await process.communicate()
    assert process.returncode == 1
    lines = output.decode().splitlines()
    assert len(lines) == 1
    assert lines[0].endswith(f"cannot listen on 127.0.0.1:{port}: Address already in use")


async def test_a_signal_while_waiting_for_shards_ends_it(model_path: Path) -> None:
    flags = ("--hostname", "127.0.0.1", "--port", "0", "--model-path", str(model_path))
    process = await spawn(*flags, "--shard-uds-path", "/tmp/no-such-shard")
    async with asyncio.timeout(60):
        while not catches_sigterm(process.pid):  # noqa: ASYNC110  another process's state
            await asyncio.sleep(0.02)
    assert process.returncode is None
    process.terminate()
    await process.communicate()
    assert process.returncode == 0


def test_a_log_level_that_there_is_not_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    """It ended in a traceback."""
    with pytest.raises(SystemExit) as ending:
        parse(RouterConfig, program="r", argv=["--model-path", "/", "--logger-level", "loud"])
    assert ending.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "--logger-level" in line and "warning" in line


async def test_a_signal_at_the_moment_of_readiness_is_not_lost() -> None:
    """It was taken out of the queue and forgotten, and the router served on."""

    class ReadyEngine:
        async def start(self) -> None:
            pass

    server = Server(RouterConfig(model_path="/"))
    server._stop_requests.put_nowait(signal.SIGTERM)
    assert not await server._start_engine(ReadyEngine())


@pytest.mark.parametrize(
    ("flags", "text"),
    [
        (["--model-path", "/no/such/model"], "/no/such/model"),
        (["--model-path", "/tmp", "--tokenizer-config-path", "/no.json"], "/no.json"),
    ],
)
async def test_an_option_that_names_nothing_is_told(flags: list[str], text: str) -> None:
    """With a bad option's exit code, not with a crash's."""
    process = await spawn("--hostname", "127.0.0.1", "--port", "0", *flags)
    output, _ = await process.communicate()
    assert process.returncode == 2
    assert len(output.decode().splitlines()) == 1
    assert text in output.decode()


@pytest.mark.parametrize(
    ("flags", "config", "text"),
    [
        (["--max-total-tokens", "100000"], {}, "--max-total-tokens (100000) is more than the"),
        ([], {"warmup_refusal": "--attention flash is not possible"}, "--attention flash is not"),
    ],
)
async def test_what_only_shards_can_judge_ends_as_a_bad_option_does(
    model_path: Path, flags: list[str], config: dict[str, Any], text: str
) -> None:
    async with FakeShards(FakeShardConfig(**config)) as shards:
        uds_path = shards.uds_paths[0].removesuffix("-0")
        base = ("--model-path", str(model_path), "--shard-uds-path", uds_path)
        process = await spawn(*base, "--hostname", "127.0.0.1", "--port", "0", *flags)
        output, _ = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode == 2
    (line,) = output.decode().splitlines()
    assert text in line
