"""TGI's dialect over the wire: bodies, headers and the bytes of streams."""

import asyncio
from typing import Any

import pytest
from text_generation_router.engine.request import (
    GenerationError,
    OverloadedError,
    ShuttingDownError,
)

from tests.fakes.engine import END, FakeEngine, Said
from tests.fakes.generations import make_top_token
from tests.fakes.router_app import RunningApp, running_app


async def post(app: RunningApp, path: str, body: Any) -> tuple[int, str]:
    async with app.session.post(path, json=body) as response:
        return response.status, await response.text()


async def test_generate() -> None:
    async with (
        running_app() as app,
        app.session.post("/generate", json={"inputs": "hé"}) as response,
    ):
        assert response.status == 200
        assert await response.read() == b'{"generated_text":"Hello world"}'
        headers = response.headers
    assert headers["content-type"] == "application/json"
    assert headers["x-compute-type"] == "cpu"
    assert headers["x-compute-characters"] == "2"
    assert float(headers["x-compute-time"]) > 0
    assert (headers["x-prompt-tokens"], headers["x-generated-tokens"]) == ("4", "3")
    for name in ("total-time", "validation-time", "queue-time", "inference-time"):
        assert headers[f"x-{name}"].isdigit()
    assert headers["x-time-per-token"] == "2"


async def test_details() -> None:
    engine = FakeEngine(
        [Said("a", logprob=-1.53515625, top_tokens=(make_top_token("b", -2.0),)), END]
    )
    body = {"inputs": "h", "parameters": {"details": True, "top_n_tokens": 1}}
    async with running_app(engine) as app:
        assert await post(app, "/generate", body) == (
            200,
            (
                '{"generated_text":"a","details":{"finish_reason":"eos_token","generated_tokens":2,'
                '"seed":null,"prefill":[],"tokens":['
                '{"id":100,"text":"a","logprob":-1.5351562,"special":false},'
                '{"id":2,"text":"</s>","logprob":-0.5,"special":true}],'
                '"top_tokens":[[{"id":7,"text":"b","logprob":-2.0,"special":false}],[]]}}'
            ),
        )


async def test_prefill_details() -> None:
    body = {"inputs": "hi", "parameters": {"decoder_input_details": True}}
    async with running_app(FakeEngine([END]), prefill_logprobs=True) as app:
        _, text = await post(app, "/generate", body)
    assert (
        '"prefill":[{"id":1,"text":"<s>","logprob":null},{"id":76,"text":"h","logprob":-1.0},'
        '{"id":77,"text":"i","logprob":-1.0}]' in text
    )


async def test_best_of_takes_the_highest_mean() -> None:
    engine = FakeEngine()
    engine.is_manual = True
    body = {"inputs": "h", "parameters": {"best_of": 2, "do_sample": True, "details": True}}
    async with running_app(engine) as app:
        answer = asyncio.create_task(app.session.post("/generate", json=body))
        await engine.submitted(2)
        for generation, logprob in zip(engine.generations, (-2.0, -1.0), strict=True):
            generation.say(Said("x", logprob=logprob))
            generation.say(END, engine.reason)
        async with await answer as response:
            details = (await response.json())["details"]
    seeds = [generation.request.sampling.seed for generation in engine.generations]
    assert details["seed"] == seeds[1]
    assert [other["seed"] for other in details["best_of_sequences"]] == [seeds[0]]


async def test_the_root_gives_an_array_and_the_whole_text() -> None:
    async with running_app() as app:
        assert await post(app, "/", {"inputs": "hi "}) == (
            200,
            '[{"generated_text":"hi Hello world"}]',
        )
        body = {"inputs": "hi ", "parameters": {"return_full_text": False}, "stream": False}
        assert await post(app, "/", body) == (200, '[{"generated_text":"Hello world"}]')


STREAM = (
    'data: {"index":1,"token":{"id":100,"text":"Hello","logprob":-0.5,"special":false},'
    '"generated_text":null,"details":null}\n\n'
    'data: {"index":2,"token":{"id":100,"text":" world","logprob":-0.5,"special":false},'
    '"generated_text":null,"details":null}\n\n'
    'data: {"index":3,"token":{"id":2,"text":"</s>","logprob":-0.5,"special":true},'
)


async def test_a_stream_in_bytes() -> None:
    async with running_app() as app:
        async with app.session.post("/generate_stream", json={"inputs": "hi"}) as response:
            assert (await response.read()).decode() == (
                STREAM + '"generated_text":"Hello world","details":null}\n\n'
            )
            headers = response.headers
        body = {"inputs": "hi", "parameters": {"details": True}, "stream": True}
        assert await post(app, "/", body) == (
            200,
            STREAM + '"generated_text":"hiHello world","details":{"finish_reason":"eos_token",'
            '"generated_tokens":3,"seed":null,"input_length":3}}\n\n',
        )
    assert headers["content-type"] == "text/event-stream"
    assert headers["cache-control"] == "no-cache"
    assert headers["x-accel-buffering"] == "no"
    assert (headers["x-compute-type"], headers["x-compute-characters"]) == ("cpu", "2")
    assert "x-prompt-tokens" not in headers


async def test_top_tokens_stand_behind_the_token() -> None:
    engine = FakeEngine([Said("a", top_tokens=(make_top_token("b", -2.0),)), END])
    body = {"inputs": "h", "parameters": {"top_n_tokens": 1}}
    async with running_app(engine) as app:
        _, text = await post(app, "/generate_stream", body)
    assert (
        '"special":false},"top_tokens":[{"id":7,"text":"b","logprob":-2.0,"special":false}],'
        '"generated_text":null' in text
    )


async def test_errors_of_a_stream_are_events() -> None:
    async with running_app() as app:
        for parameters in ({"best_of": 2, "do_sample": True}, {"top_p": 1.0}):
            body = {"inputs": "hi", "parameters": parameters}
            status, text = await post(app, "/generate_stream", body)
            assert status == 200
            assert text.startswith('data: {"error":"Input validation error: `')
            assert text.endswith('"error_type":"validation"}\n\n')
            assert text.count("data:") == 1


async def test_a_failure_in_the_middle_of_a_stream() -> None:
    engine = FakeEngine()
    engine.failure = GenerationError("shard 0 broke")
    async with running_app(engine) as app:
        _, text = await post(app, "/generate_stream", {"inputs": "hi"})
    assert text.count("data:") == 3
    assert text.endswith(
        'data: {"error":"Request failed during generation: shard 0 broke",'
        '"error_type":"generation"}\n\n'
    )


async def test_a_token_that_cannot_be_encoded_ends_the_stream_with_an_event() -> None:
    broken: Any = Said("b", token_id=object())  # type: ignore[arg-type]
    async with running_app(FakeEngine(["a", broken, "c"])) as app:
        _, text = await post(app, "/generate_stream", {"inputs": "hi"})
    assert text.count("data:") == 2
    assert text.endswith('data: {"error":"internal error","error_type":"internal"}\n\n')


@pytest.mark.parametrize(
    ("error", "status", "error_type", "retry_after"),
    [
        (OverloadedError("Model is overloaded", retry_after=3), 429, "overloaded", "3"),
        (ShuttingDownError("stopping"), 503, "shutting_down", None),
    ],
)
async def test_a_refusal(
    error: Exception, status: int, error_type: str, retry_after: str | None
) -> None:
    engine = FakeEngine()
    engine.refusal = error  # type: ignore[assignment]
    async with running_app(engine) as app:
        async with app.session.post("/generate", json={"inputs": "hi"}) as response:
            assert response.status == status
            assert await response.json() == {"error": str(error), "error_type": error_type}
            assert response.headers.get("retry-after") == retry_after
        streamed, text = await post(app, "/generate_stream", {"inputs": "hi"})
        assert streamed == 200
        assert f'"error_type":"{error_type}"' in text


async def test_a_failed_candidate_fails_the_request() -> None:
    engine = FakeEngine()
    engine.failure = GenerationError("broke")
    body = {"inputs": "h", "parameters": {"best_of": 2, "do_sample": True}}
    async with running_app(engine) as app:
        assert (await post(app, "/generate", body))[0] == 424
    assert all(generation.ended or generation.cancelled for generation in engine.generations)


async def test_tokenize() -> None:
    async with running_app() as app:
        assert await post(app, "/tokenize", {"inputs": "hi"}) == (
            200,
            (
                '[{"id":1,"text":"","start":0,"stop":0},{"id":76,"text":"h","start":0,"stop":1},'
                '{"id":77,"text":"i","start":1,"stop":2}]'
            ),
        )
        assert (await post(app, "/tokenize", {"inputs": "", "parameters": {"top_p": 9}}))[0] == 200


async def test_a_body_not_of_its_encoding_is_a_bad_request() -> None:
    headers = {"content-type": "application/json", "content-encoding": "gzip"}
    async with (
        running_app() as app,
        app.session.post("/generate", data=b"no gzip", headers=headers) as response,
    ):
        assert response.status == 400
        assert "Content-Encoding" in await response.text()
