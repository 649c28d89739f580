"""No input is an error of the server: every field of every route with every kind of nonsense, and
bytes that are hardly HTTP.
"""

import asyncio
import gzip
import json
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import pytest
from text_generation_router.engine.wire import _sampling
from text_generation_router.http.openapi import build_document

from tests.fakes.engine import FakeEngine
from tests.fakes.router_app import running_app

JSON = {"content-type": "application/json"}
MARK = "@@here@@"
NONSENSE = [
    *("null", "true", "-1", "0", "1", "1.5", "-0.0", "1e-320", "1e308", "1e400", "-1e400"),
    *(str(2**bits) for bits in (31, 32, 63, 64)),
    *("1" * 400, "NaN", "Infinity", '""', '"x"', '"\\u0000"', '"\\ud800"', '"\\u2028\\ufeff"'),
    *("[]", "{}", "[null]", '["a"]', "[[]]", "[{}]", '[1,"a",{}]', '{"a":1}'),
    *('{"type":"x"}', '{"type":"function"}', '{"type":null}', '{"type":{}}', '{"a":1,"a":2}'),
    "{,}",
    '"' + "x" * 3000 + '"',
    "[" * 500 + "]" * 500,
    '{"a":' * 500 + "1" + "}" * 500,
    "[" * 5000 + "]" * 5000,
    "[" + '"a",' * 5000 + '"a"]',
]
CHAT = {"messages": [{"role": "user", "content": "x"}]}
MESSAGES = {**CHAT, "model": "m", "max_tokens": 4}
INFER_PATH = "/v2/models/{model}/versions/{version}/infer"
ROUTES: dict[str, dict[str, Any]] = {
    "/": {"inputs": "a", "parameters": {}, "stream": True},
    "/generate": {"inputs": "a", "parameters": {}},
    "/tokenize": {"inputs": "a"},
    "/v1/chat/completions": CHAT,
    "/v1/completions": {"prompt": "x"},
    "/v1/responses": {"input": "x"},
    "/v1/messages": MESSAGES,
    "/vertex": {"instances": [{"inputs": "a"}]},
    INFER_PATH: {"inputs": [{"name": "a", "data": ["a"]}]},
}


def places(schema: dict[str, Any], components: dict[str, Any], depth: int = 3) -> Iterator[Any]:
    """The ways to all fields of a schema: names, and 0 for the first item of a list."""
    if "$ref" in schema:
        schema = components[schema["$ref"].rsplit("/", 1)[-1]]
    for choice in schema.get("anyOf", []):
        yield from places(choice, components, depth)
    for name, inner in schema.get("properties", {}).items():
        yield (name,)
        if depth:
            yield from ((name, *rest) for rest in places(inner, components, depth - 1))
    if schema.get("items") and depth:
        yield from ((0, *rest) for rest in places(schema["items"], components, depth - 1))


def body_with(base: dict[str, Any], place: tuple[Any, ...], value: str) -> bytes:
    """The body with this JSON at this place; what is on the way there is made."""
    body: Any = json.loads(json.dumps(base))
    parent = body
    for step, after in pairwise(place):
        empty: Any = [{}] if after == 0 else {}
        if step == 0:
            parent[0] = parent[0] if isinstance(parent[0], type(empty)) else empty
        elif not isinstance(parent.get(step), type(empty)) or not parent[step]:
            parent[step] = empty
        parent = parent[step]
    parent[place[-1]] = MARK
    return json.dumps(body).replace(f'"{MARK}"', value).encode()


@pytest.mark.parametrize("path", ROUTES)
async def test_nonsense_in_every_field(path: str) -> None:
    document = build_document("4.0")
    content = document["paths"][path]["post"]["requestBody"]["content"]
    schema = content["application/json"]["schema"]
    fields = sorted(set(places(schema, document["components"]["schemas"])), key=str)
    assert len(fields) > 3
    async with running_app(FakeEngine()) as app:
        for place in fields:
            for value in NONSENSE:
                sent = body_with(ROUTES[path], place, value)
                async with app.session.post(path, data=sent, headers=JSON) as response:
                    text = await response.text()
                assert response.status < 500, (place, value[:60], text)
                assert '"internal"' not in text, (place, value[:60], text)
        for generation in app.engine.generations:
            _sampling(generation.request.sampling)  # what was let in fits into the protocol


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (rb'{"inputs":"\ud800"}', r"\ud800 is half of a surrogate pair (byte 11)"),
        (rb'{"inputs":"a\\\udfffx"}', r"\udfff is half of a surrogate pair"),
        (rb'{"inputs":"\ud83d\ude00\ud83d"}', r"\ud83d is half of a surrogate pair (byte 23)"),
        (rb'{"inputs":"\\ud800"', "truncated"),
    ],
)
async def test_half_of_a_surrogate_pair_is_named(body: bytes, reason: str) -> None:
    async with (
        running_app() as app,
        app.session.post("/generate", data=body, headers=JSON) as response,
    ):
        assert response.status == 400
        assert reason in await response.text()


@pytest.mark.parametrize(
    ("path", "body", "field"),
    [
        ("/v1/chat/completions", {"messages": CHAT["messages"] * 4097}, "messages"),
        ("/v1/chat/completions", {**CHAT, "model": "m" * 257}, "model"),
        (
            "/v1/chat/completions",
            {**CHAT, "logit_bias": dict.fromkeys(map(str, range(1025)), 1)},
            "logit_bias",
        ),
        ("/v1/chat/completions", {**CHAT, "stop": "x" * 1025}, "stop"),
        ("/v1/responses", {"input": [{"role": "user", "content": "x"}] * 4097}, "input"),
        ("/vertex", {"instances": [{}] * 1025}, "instances"),
        ("/generate", {"inputs": "x", "parameters": {"stop": ["a"] * 5}}, "stop"),
    ],
)
async def test_lists_and_texts_are_bounded(path: str, body: dict[str, Any], field: str) -> None:
    async with (
        running_app(payload_limit=1_000_000) as app,
        app.session.post(path, json=body) as response,
    ):
        assert response.status == 422
        assert field in await response.text()
        assert not app.engine.generations


async def test_a_small_body_that_unpacks_to_a_large_one() -> None:
    bomb = gzip.compress(b'{"inputs":"' + b"x" * 50_000_000 + b'"}')
    headers = {**JSON, "content-encoding": "gzip"}
    async with running_app() as app:
        async with app.session.post("/generate", data=bomb, headers=headers) as response:
            assert response.status == 413
        async with app.session.post("/generate", data=b"no gzip", headers=headers) as response:
            assert response.status == 400


BODY = b'{"inputs":"a"}'
HEAD = b"POST /generate HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"GET /health HTTP/1.1\r\nHost: x\r\nA: " + b"x" * 20_000 + b"\r\n\r\n", b"400"),
        (b"GET /" + b"x" * 20_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n", b"400"),
        (b"\x00\xff\r\n\r\n", b"400"),
        (b"GET /health HTTP/9.9\r\n\r\n", b"400"),
        (HEAD + b"Content-Length: -1\r\n\r\n" + BODY, b"400"),
        (HEAD + b"Content-Length: x\r\n\r\n" + BODY, b"400"),
        (HEAD + b"Content-Length: 5\r\n\r\n" + BODY, b"400"),
        (HEAD + b"Content-Length: 5\r\nContent-Length: 14\r\n\r\n" + BODY, b"400"),
        (HEAD + b"Content-Length: 14\r\nTransfer-Encoding: chunked\r\n\r\n" + BODY, b"400"),
        (HEAD + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n" + BODY, b"400"),
        (HEAD + b"Transfer-Encoding: chunked\r\n\r\ne\r\n" + BODY + b"\r\n0\r\n\r\n", b"200"),
        (HEAD + b"Transfer-Encoding: chunked\r\n\r\n5\r\n" + BODY, b"400"),
    ],
)
async def test_bytes_that_are_hardly_http(sent: bytes, status: bytes) -> None:
    async with running_app() as app:
        reader, writer = await asyncio.open_connection("127.0.0.1", app.port)
        writer.write(sent)
        line = await asyncio.wait_for(reader.readline(), 30)
        writer.close()
        assert line.split()[1:2] == [status], line
        async with app.session.get("/health") as response:
            assert response.status == 200


async def test_a_body_that_breaks_off() -> None:
    async with running_app() as app:
        _, writer = await asyncio.open_connection("127.0.0.1", app.port)
        writer.write(HEAD + b"Content-Length: 100\r\n\r\n" + BODY)
        await writer.drain()
        writer.close()
        async with app.session.post("/generate", json={"inputs": "a"}) as response:
            assert response.status == 200
        assert len(app.engine.generations) == 1
