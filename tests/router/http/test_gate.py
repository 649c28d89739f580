"""What surrounds all routes: bodies that are no requests, unknown routes, the API key, CORS."""

from typing import Any

import pytest
from text_generation_router.http.api_keys import ApiKeys

from tests.fakes.router_app import running_app

JSON = {"content-type": "application/json"}


@pytest.mark.parametrize(
    ("headers", "body", "status", "prefix"),
    [
        ({"content-type": "text/plain"}, b"{}", 415, "Expected request with `Content-Type"),
        ({"content-type": "application/octet-stream"}, b"{}", 415, "Expected request with"),
        (JSON, b"", 400, "Failed to parse the request body as JSON: "),
        (JSON, b"{", 400, "Failed to parse the request body as JSON: "),
        (JSON, b'{"inputs":"a"]', 400, "Failed to parse the request body as JSON: "),
        (
            JSON,
            b"{}",
            422,
            "Failed to deserialize the JSON body into the target type: Object missing",
        ),
        (
            JSON,
            b'{"inputs":"a","parameters":{"max_new_tokens":20.0}}',
            422,
            "Failed to deserialize the JSON body into the target type: parameters.max_new_tokens: ",
        ),
        (
            JSON,
            b'{"inputs":"a","parameters":null}',
            422,
            "Failed to deserialize the JSON body into the target type: parameters: ",
        ),
        (JSON, b"x" * 100_001, 413, "Failed to buffer the request body: "),
    ],
)
async def test_bodies_that_are_no_requests(
    headers: dict[str, str], body: bytes, status: int, prefix: str
) -> None:
    async with running_app() as app:
        async with app.session.post("/generate", data=body, headers=headers) as response:
            assert response.status == status
            assert response.headers["content-type"] == "text/plain; charset=utf-8"
            assert (await response.text()).startswith(prefix)
        async with app.session.post("/v1/chat/completions", data=body, headers=headers) as response:
            assert response.status == status
            error = await response.json()
            assert error["error_type"] == ("validation" if status == 422 else "invalid_request")
            assert error["error"]["message"]


async def test_broken_utf_8_is_no_json() -> None:
    async with running_app() as app:
        body = b'{"inputs":"\xff"}'
        async with app.session.post("/generate", data=body, headers=JSON) as response:
            assert response.status == 400


async def test_a_chunked_body_has_the_same_limit() -> None:
    async def pieces() -> Any:
        for _ in range(11):
            yield b"x" * 10_000

    async with (
        running_app() as app,
        app.session.post("/generate", data=pieces(), headers=JSON) as response,
    ):
        assert response.status == 413


@pytest.mark.parametrize(
    "content_type", ["application/json; charset=utf-8", "application/vnd.api+json"]
)
async def test_content_types_of_json(content_type: str) -> None:
    async with (
        running_app() as app,
        app.session.post(
            "/generate", data=b'{"inputs":"a"}', headers={"content-type": content_type}
        ) as response,
    ):
        assert response.status == 200


async def test_unknown_routes() -> None:
    async with running_app() as app:
        async with app.session.get("/nope") as response:
            assert (response.status, await response.read()) == (404, b"")
        async with app.session.get("/v1/nope") as response:
            assert response.status == 404
            assert (await response.json())["error"]["code"] == "not_found"
        async with app.session.get("/v1/completions") as response:
            assert (response.status, response.headers["allow"]) == (405, "POST")
            assert (await response.json())["error"]["code"] == "method_not_supported"
        async with app.session.get("/generate") as response:
            assert (response.status, await response.read()) == (405, b"")
            assert response.headers["allow"] == "POST"
        async with app.session.get("/v1/chat/completions") as response:
            assert (response.status, response.headers["allow"]) == (405, "POST")
            error = (await response.json())["error"]
            # OpenAI's word; it was not_found, which is said of a model or a path
            assert error["code"] == "method_not_supported"
            assert error["type"] == "invalid_request_error"
        async with app.session.post("/health") as response:
            assert response.status == 405
            assert response.headers["allow"] == "GET,HEAD"
        async with app.session.head("/info") as response:
            assert response.status == 200


async def test_the_api_key_closes_all_but_health() -> None:
    async with running_app(api_keys=ApiKeys(["Secret"])) as app:
        for method, path in [
            ("POST", "/"),
            ("POST", "/generate"),
            ("POST", "/v1/chat/completions"),
            ("POST", "/tokenize"),
            ("POST", "/chat_tokenize"),
            ("GET", "/info"),
            ("GET", "/metrics"),
            ("GET", "/v1/models"),
            ("GET", "/generate"),
            ("GET", "/nope"),
            ("POST", "/health"),
        ]:
            async with app.session.request(method, path) as response:
                assert response.status == 401, path
                assert response.headers["www-authenticate"] == "Bearer"
        for path in ("/", "/health", "/ping"):
            async with app.session.get(path) as response:
                assert response.status == 200


@pytest.mark.parametrize(
    ("value", "status"),
    [
        ("Bearer Secret", 200),
        ("bearer Secret", 200),
        ("Bearer secret", 401),
        ("Bearer Secret2", 401),
        ("Basic Secret", 401),
        ("Bearer", 401),
        ("Bearer \xe9", 401),
    ],
)
async def test_which_keys_open(value: str, status: int) -> None:
    async with (
        running_app(api_keys=ApiKeys(["Secret"])) as app,
        app.session.get("/info", headers={"authorization": value}) as response,
    ):
        assert response.status == status


async def test_without_an_api_key_any_authorization_is_ignored() -> None:
    async with (
        running_app() as app,
        app.session.get("/info", headers={"authorization": "x"}) as response,
    ):
        assert response.status == 200


async def test_cors_allows_any_origin_by_default() -> None:
    async with running_app() as app:
        for path in ("/info", "/nope", "/generate"):
            async with app.session.get(path) as response:
                assert response.headers["access-control-allow-origin"] == "*"
                assert response.headers["vary"] == (
                    "origin, access-control-request-method, access-control-request-headers"
                )
        async with app.session.post("/generate_stream", json={"inputs": "a"}) as response:
            assert response.headers["access-control-allow-origin"] == "*"


async def test_preflights_need_no_key_and_reach_no_route() -> None:
    async with running_app(api_keys=ApiKeys(["k"])) as app:
        for path in ("/generate", "/nope"):
            async with app.session.options(path) as response:
                assert (response.status, await response.read()) == (200, b"")
                assert response.headers["access-control-allow-methods"] == "GET,POST"
                assert "authorization" in response.headers["access-control-allow-headers"]


async def test_a_preflight_gets_the_headers_that_it_asks_for() -> None:
    """The bug: the openai package in a browser sends `x-stainless-…`, which were not allowed."""
    asked = "authorization,content-type,x-stainless-lang,x-stainless-os"
    headers = {"origin": "https://a", "access-control-request-headers": asked}
    async with (
        running_app() as app,
        app.session.options("/v1/chat/completions", headers=headers) as response,
    ):
        assert response.headers["access-control-allow-headers"] == asked


async def test_cors_with_a_list_of_origins() -> None:
    async with running_app(cors_allow_origin=("https://a", "https://b")) as app:
        for origin, allowed in [("https://b", "https://b"), ("https://c", None)]:
            async with app.session.get("/info", headers={"origin": origin}) as response:
                assert response.headers.get("access-control-allow-origin") == allowed
