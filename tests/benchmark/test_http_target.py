"""Against a server: a fake one that streams as TGI does."""

import asyncio
import json
from contextlib import asynccontextmanager

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer, unused_port
from text_generation_benchmark.config import BenchmarkConfig
from text_generation_benchmark.errors import BenchmarkError
from text_generation_benchmark.http_target import HttpTarget

INFO = {
    "model_id": "fake",
    "max_input_tokens": 100,
    "max_total_tokens": 120,
    "max_concurrent_requests": 8,
}


class FakeServer:
    """Keeps what it was asked; `tokens_missing` and `error` are what it does wrong."""

    def __init__(self) -> None:
        self.bodies: list[dict] = []
        self.keys: set[str | None] = set()
        self.prompt_tokens_missing = 0
        self.error: str | None = None

    async def info(self, request: web.Request) -> web.Response:
        if request.headers.get("authorization") != "Bearer key":
            return web.json_response({"error": "the API key is missing"}, status=401)
        return web.json_response(INFO)

    async def generate_stream(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        self.bodies.append(body)
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(request)
        parameters = body["parameters"]
        count = parameters["max_new_tokens"]
        for number in range(count):
            event: dict = {"token": {"id": number}, "details": None}
            if number == count - 1:
                prompt = parameters["truncate"] - self.prompt_tokens_missing
                event["details"] = {"input_length": prompt, "generated_tokens": count}
            if self.error and number == 1:
                event = {"error": self.error}
            await response.write(b"data:" + json.dumps(event).encode() + b"\n\n")
            if "error" in event:
                break
            await asyncio.sleep(0.001)
        return response


@asynccontextmanager
async def serve(fake: FakeServer):
    app = web.Application()
    app.router.add_get("/info", fake.info)
    app.router.add_post("/generate_stream", fake.generate_stream)
    async with TestServer(app) as server:
        yield str(server.make_url("/"))


async def measure(url: str, batch_size: int, **options):
    options = {"api_key": "key"} | options
    target = HttpTarget(BenchmarkConfig(url=url, batch_size=(str(batch_size),), **options))
    try:
        facts = await target.describe()
        return facts, await target.run(batch_size)
    finally:
        await target.close()


async def test_a_batch_has_exact_lengths_and_new_prompts() -> None:
    fake = FakeServer()
    async with serve(fake) as url:
        facts, time = await measure(url, 4, sequence_length=12, decode_length=6, top_k=3)
    assert facts["Model"] == "fake"
    assert 0 < time.num_decoded_tokens <= 4 * 5
    assert time.prefill_s > 0 and time.decode_s > 0
    assert len({body["inputs"] for body in fake.bodies}) == 4
    for body in fake.bodies:
        assert len(body["inputs"].split()) == 12
        assert body["parameters"] == {
            "max_new_tokens": 6,
            "truncate": 12,
            "ignore_eos": True,
            "details": True,
            "top_k": 3,
            "do_sample": False,
            "watermark": False,
        }


@pytest.mark.parametrize(
    ("batch_size", "options", "message"),
    [
        (1, {"sequence_length": 101}, "--sequence-length 101: .* max_input_tokens 100"),
        (1, {"sequence_length": 99, "decode_length": 30}, "max_total_tokens 120"),
        (9, {}, "--batch-size 9: .* max_concurrent_requests 8"),
        (1, {"api_key": "other"}, r"answers 401 \(--api-key\): .*missing"),
    ],
)
async def test_what_the_server_would_refuse_is_told_at_once(batch_size, options, message) -> None:
    fake = FakeServer()
    async with serve(fake) as url:
        with pytest.raises(BenchmarkError, match=message):
            await measure(url, batch_size, **options)
    assert not fake.bodies


async def test_a_server_that_counts_otherwise_is_not_measured() -> None:
    fake = FakeServer()
    fake.prompt_tokens_missing = 1
    async with serve(fake) as url:
        with pytest.raises(BenchmarkError, match="9 prompt tokens where 10 were asked"):
            await measure(url, 2)


async def test_an_error_event_ends_the_run() -> None:
    fake = FakeServer()
    fake.error = "the shard is gone"
    async with serve(fake) as url:
        with pytest.raises(BenchmarkError, match="the shard is gone"):
            await measure(url, 2)


async def test_no_server() -> None:
    with pytest.raises(BenchmarkError, match=r"no server answers at http://127\.0\.0\.1:"):
        await measure(f"http://127.0.0.1:{unused_port()}", 1)
