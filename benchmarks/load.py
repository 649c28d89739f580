"""Load any OpenAI- or TGI-compatible server and report what its clients would feel.

    python -m benchmarks.load --url http://127.0.0.1:8080 --clients 16 --requests 200
    python -m benchmarks.load --url http://127.0.0.1:8080 --rate 5 --duration 60 --dialect chat

Closed loop (--clients): each of N clients sends its next request when the last one is answered.
Open loop (--rate): requests arrive as a Poisson process whatever the server does, and times count
from when a request was due. The same --seed gives the same requests and arrivals.
"""

import argparse
import asyncio
import contextlib
import json
import random
import sys
import time
from array import array
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import uvloop

from benchmarks.http_stream import Endpoint, StreamConnection, StreamError
from benchmarks.summary import ClientLoad, Completed, Summary, show, summarise
from benchmarks.workload import DIALECTS, PATHS, Lengths, Workload, token_counts

LAG_PROBE_S = 0.01
# A client whose request failed waits this long, so that a dead server is not asked in a tight loop.
FAILURE_PAUSE_S = 0.1


@dataclass(frozen=True, kw_only=True)
class LoadPlan:
    """How much, how fast and how long. Either `clients` or `rate` is set."""

    url: str
    workload: Workload
    clients: int | None = None
    rate: float | None = None
    # No request starts after this many were started, or after this many seconds.
    max_requests: int
    max_duration: float
    request_timeout: float = 120.0
    max_in_flight: int = 2048
    seed: int = 0
    api_key: str | None = None

    def __post_init__(self) -> None:
        if (self.clients is None) == (self.rate is None):
            raise ValueError("give either --clients (closed loop) or --rate (open loop)")

    def endpoint(self) -> Endpoint:
        """Where this plan's requests go."""
        return Endpoint(url=self.url, path=PATHS[self.workload.dialect], api_key=self.api_key)


class LoadRun:
    """Runs one plan; owns the connections and what was recorded."""

    def __init__(self, plan: LoadPlan) -> None:
        self._plan = plan
        self._endpoint = plan.endpoint()
        self._source = random.Random(plan.seed)
        self._idle: list[StreamConnection] = []
        self._num_started = 0
        self._in_flight = 0
        self._deadline = 0.0
        self.completed: list[Completed] = []
        self.failures: Counter[str] = Counter()

    async def run(self) -> Summary:
        """Send the plan's requests and wait for every answer."""
        lags: list[float] = []
        probe = asyncio.create_task(_probe_lag(lags))
        cpu_before, begin = time.process_time(), time.perf_counter()
        self._deadline = begin + self._plan.max_duration
        try:
            await (self._closed_loop() if self._plan.clients else self._open_loop())
        finally:
            duration, cpu = time.perf_counter() - begin, time.process_time() - cpu_before
            probe.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await probe
            for connection in self._idle:
                connection.close()
        client = ClientLoad(
            cpu_share=cpu / duration,
            lag_p99_ms=float(np.percentile(lags, 99)) * 1000 if lags else 0.0,
        )
        return summarise(self.completed, self.failures, duration, client)

    async def _closed_loop(self) -> None:
        async def client() -> None:
            while (message := self._next_message()) is not None:
                await self._exchange(message, time.perf_counter())

        async with asyncio.TaskGroup() as group:
            for _ in range(self._plan.clients or 0):
                group.create_task(client())

    async def _open_loop(self) -> None:
        assert self._plan.rate is not None
        due = time.perf_counter()
        async with asyncio.TaskGroup() as group:
            while True:
                due += self._source.expovariate(self._plan.rate)
                await asyncio.sleep(due - time.perf_counter())
                message = self._next_message()
                if message is None:
                    return
                if self._in_flight >= self._plan.max_in_flight:
                    self.failures[f"not sent: {self._in_flight} requests in flight"] += 1
                    continue
                group.create_task(self._exchange(message, due))

    def _next_message(self) -> bytes | None:
        if self._num_started >= self._plan.max_requests or time.perf_counter() > self._deadline:
            return None
        self._num_started += 1
        return self._endpoint.message(self._plan.workload.payload(self._source))

    async def _exchange(self, message: bytes, due: float) -> None:
        """One request, recorded; `due` is when it should have been sent."""
        self._in_flight += 1
        try:
            connection = self._take_idle() or await self._endpoint.connect()
            record = await connection.request(message, self._plan.request_timeout)
        except (OSError, StreamError) as error:
            self.failures[str(error)] += 1
            await asyncio.sleep(FAILURE_PAUSE_S)
            return
        finally:
            self._in_flight -= 1
        if connection.is_open:
            self._idle.append(connection)
        event = record.last_event
        if record.status != 200 or event is None or "error" in event:
            text = record.body[:200].decode(errors="replace") or json.dumps(event)[:200]
            self.failures[f"status {record.status}: {text}"] += 1
            return
        times = np.frombuffer(record.event_times or array("d", [record.finished_at]))
        counts = token_counts(record)
        self.completed.append(
            Completed(
                first_token=float(times[0]) - due,
                end_to_end=record.finished_at - due,
                # The event with the counts of the /v1 dialects comes with the last token's.
                gaps=np.diff(times[: max(1, min(len(times), counts.output))]),
                num_prompt_tokens=counts.prompt,
                num_output_tokens=counts.output,
            )
        )

    def _take_idle(self) -> StreamConnection | None:
        while self._idle:
            connection = self._idle.pop()
            if connection.is_open:
                return connection
        return None


async def _probe_lag(lags: list[float]) -> None:
    """How late a timer fires, again and again, in seconds."""
    while True:
        before = time.perf_counter()
        await asyncio.sleep(LAG_PROBE_S)
        lags.append(max(0.0, time.perf_counter() - before - LAG_PROBE_S))


def run_load(plan: LoadPlan) -> Summary:
    """Run a plan on an event loop of its own."""
    return uvloop.run(LoadRun(plan).run())


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.load",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--url", default="http://127.0.0.1:8080")
    parser.add_argument("--dialect", choices=DIALECTS, default="generate")
    parser.add_argument("--clients", type=int, help="closed loop with this many clients")
    parser.add_argument("--rate", type=float, help="open loop with this many requests a second")
    parser.add_argument("--requests", type=int, default=100_000, help="at most this many")
    parser.add_argument("--duration", type=float, default=30.0, help="start none after (seconds)")
    parser.add_argument("--prompt-tokens", default="128", help="N, uniform:A,B or normal:M,D")
    parser.add_argument("--output-tokens", default="64", help="likewise")
    parser.add_argument("--tokens-per-word", type=float, default=1.0, help="of the vocabulary")
    parser.add_argument("--shared-words", type=int, default=0, help="common to all prompts")
    parser.add_argument("--temperature", type=float, help="sample (default: greedy)")
    parser.add_argument("--model", default="tgi", help="name sent to the /v1 dialects")
    parser.add_argument("--api-key")
    parser.add_argument("--timeout", type=float, default=120.0, help="of one request (seconds)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the result there too")
    options = parser.parse_args()
    try:
        plan = _plan(options)
        plan.endpoint()
    except ValueError as error:
        parser.error(str(error))
    summary = run_load(plan)
    mode = f"{plan.clients} clients" if plan.clients else f"{plan.rate:g} requests/s"
    show(summary, f"{options.dialect} at {options.url}, {mode}")
    if options.json:
        options.json.write_text(json.dumps(summary.as_json(), indent=2) + "\n")
    sys.exit(1 if not summary.num_completed or summary.num_failed else 0)


def _plan(options: argparse.Namespace) -> LoadPlan:
    workload = Workload(
        dialect=options.dialect,
        prompt_tokens=Lengths.parse(options.prompt_tokens),
        output_tokens=Lengths.parse(options.output_tokens),
        tokens_per_word=options.tokens_per_word,
        shared_words=options.shared_words,
        temperature=options.temperature,
        model=options.model,
    )
    return LoadPlan(
        url=options.url,
        workload=workload,
        clients=options.clients,
        rate=options.rate,
        max_requests=options.requests,
        max_duration=options.duration,
        request_timeout=options.timeout,
        seed=options.seed,
        api_key=options.api_key,
    )


if __name__ == "__main__":
    main()
