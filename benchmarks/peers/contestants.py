"""The engines that are compared, and how each is started."""

import contextlib
import json
import os
import random
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import uvloop
from tokenizers import Tokenizer

from benchmarks.engine import ServerEngine, draw_prompts
from benchmarks.peers.contest import CONTEXT, PROMPT, Contestant, Entry
from benchmarks.peers.environment import ROOT, install, python
from benchmarks.processes import free_port, program, serve

PRECISIONS = ("bfloat16", "int8", "int4")
EXPORT_TIMEOUT_S = 1800
STOP_TIMEOUT_S = 30
# Steps from the first stream's begin to the last one's, beside one for every four streams. More
# would make contexts longer than the other engines'.
_STEPS_TO_BEGIN = 4


class PeerError(RuntimeError):
    """A peer cannot be measured; the message says why."""


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What all contestants are given."""

    model: Path
    precision: str
    # For converted checkpoints.
    scratch: Path
    # The peers' environment.
    environment: Path
    num_threads: int
    # Decode steps of one measurement.
    num_steps: int


def entries(setting: Setting) -> list[Entry]:
    """All engines that have this precision; nothing is started yet."""
    own = Path(sys.executable)
    storage = [str(setting.model), setting.precision, str(setting.num_threads)]
    found = [
        Entry("this server, engine", True, _worker(setting, own, "worker_ours", storage)),
        Entry("this server, HTTP", True, _http(setting)),
        Entry("llama.cpp", False, _converted(setting, "llama.cpp", "gguf", "llama_cpp")),
        Entry("OpenVINO", False, _converted(setting, "OpenVINO", "openvino", "openvino")),
    ]
    if setting.precision == "bfloat16":
        start = _worker(setting, own, "worker_transformers", storage)
        found.append(Entry("transformers", False, start))
    return found


class _Worker:
    """A process that speaks `protocol`."""

    def __init__(self, process: "subprocess.Popen[str]", num_steps: int) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        self._process = process
        self._jobs: IO[str] = process.stdin
        self._answers: IO[str] = process.stdout
        self._num_steps = num_steps

    def prefill(self) -> float:
        return self._ask(what="prefill", tokens=PROMPT)

    def decode(self, num_sequences: int) -> float:
        return self._ask(
            what="decode", tokens=CONTEXT, sequences=num_sequences, steps=self._num_steps
        )

    def wait_until_ready(self) -> None:
        self._read()

    def _ask(self, **job: Any) -> float:
        self._jobs.write(json.dumps(job) + "\n")
        self._jobs.flush()
        return float(self._read()["rate"])

    def _read(self) -> dict[str, Any]:
        line = self._answers.readline()
        if not line:
            raise PeerError(f"the process ended with {self._process.wait()}")
        answer: dict[str, Any] = json.loads(line)
        return answer


@contextlib.contextmanager
def _worker(
    setting: Setting, interpreter: Path, module: str, arguments: list[str]
) -> Iterator[Contestant]:
    log = setting.scratch / f"{module}-{setting.precision}.log"
    with log.open("w") as complaints:
        process = subprocess.Popen(
            [str(interpreter), "-m", f"benchmarks.peers.{module}", *arguments],
            cwd=ROOT,
            # As the launcher does for the shard: threads of torch that wait sleep.
            env=os.environ | {"OMP_WAIT_POLICY": "PASSIVE"} if "llama" not in module else None,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=complaints,
            text=True,
        )
    try:
        worker = _Worker(process, setting.num_steps)
        try:
            worker.wait_until_ready()
        except PeerError as error:
            last = (log.read_text().strip().splitlines() or [""])[-1]
            raise PeerError(f"{error}: {last}") from None
        yield worker
    finally:
        process.terminate()
        process.wait(STOP_TIMEOUT_S)


@contextlib.contextmanager
def _converted(setting: Setting, peer: str, kind: str, worker: str) -> Iterator[Contestant]:
    """Install the peer, convert the checkpoint for it, and start it."""
    reason = install(peer, setting.environment)
    if reason is not None:
        raise PeerError(reason)
    interpreter = python(setting.environment)
    target = setting.scratch / f"{setting.model.name}-{setting.precision}.{kind}"
    if not target.exists():
        export = [str(setting.model), setting.precision, str(target)]
        try:
            subprocess.run(
                [str(interpreter), "-m", f"benchmarks.peers.export_{kind}", *export],
                cwd=ROOT,
                check=True,
                capture_output=True,
                text=True,
                timeout=EXPORT_TIMEOUT_S,
            )
        except subprocess.CalledProcessError as error:
            raise PeerError((error.stderr.strip().splitlines() or ["no export"])[-1]) from None
    arguments = [str(target), str(setting.num_threads)]
    with _worker(setting, interpreter, f"worker_{worker}", arguments) as contestant:
        yield contestant


@contextlib.contextmanager
def _http(setting: Setting) -> Iterator[Contestant]:
    port = free_port()
    argv = [program("text-generation-launcher"), "--model-id", str(setting.model)]
    argv += ["--port", str(port), "--num-threads", str(setting.num_threads)]
    option = "--dtype" if setting.precision == "bfloat16" else "--quantize"
    argv += [option, setting.precision]
    with serve(argv, port=port, ready_timeout=600.0) as server:
        yield _HttpClient(server.url, setting)


class _HttpClient:
    """The whole server."""

    def __init__(self, url: str, setting: Setting) -> None:
        self._engine = ServerEngine(url)
        self._tokenizer = Tokenizer.from_file(str(setting.model / "tokenizer.json"))
        self._source = random.Random(0)
        # A token more than there are steps: the first one is not part of the time.
        self._num_tokens = setting.num_steps + 1

    def prefill(self) -> float:
        (prompt,) = draw_prompts(self._tokenizer, 1, PROMPT, self._source)
        return uvloop.run(self._engine.prefill(prompt))

    def decode(self, num_sequences: int) -> float:
        prompts = draw_prompts(self._tokenizer, num_sequences, CONTEXT, self._source)
        return uvloop.run(self._decode(prompts))

    async def _decode(self, prompts: list[str]) -> float:
        # Once to fill the prefix cache, so that all streams then begin together.
        for prompt in prompts:
            await self._engine.prefill(prompt)
        margin = _STEPS_TO_BEGIN + len(prompts) // 4
        return await self._engine.decode(prompts, self._num_tokens + margin)
