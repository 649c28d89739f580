"""What the OpenAPI document promises holds for requests made from it, the wrong ones too."""

import asyncio
import threading
from collections.abc import Iterator
from typing import Any

import pytest
import requests
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import Case, GenerationMode
from schemathesis.openapi import from_dict
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)
from text_generation_router.http.openapi import build_document
from text_generation_router.http.operations import OPERATIONS

from tests.fakes.router_app import running_app

MAX_EXAMPLES = 3
CHECKS: list[Any] = [
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
]


@pytest.fixture(scope="module")
def base_url() -> Iterator[str]:
    """The application in a thread of its own: schemathesis asks and waits."""
    ready: asyncio.Queue[int] = asyncio.Queue()
    loop = asyncio.new_event_loop()
    done = asyncio.Event()

    async def serve() -> None:
        async with running_app() as app:
            ready.put_nowait(app.port)
            await done.wait()

    thread = threading.Thread(target=loop.run_until_complete, args=(serve(),))
    thread.start()
    port = asyncio.run_coroutine_threadsafe(ready.get(), loop).result(10)
    yield f"http://127.0.0.1:{port}"
    loop.call_soon_threadsafe(done.set)
    thread.join(10)
    loop.close()


@pytest.fixture(scope="module")
def session() -> Iterator[requests.Session]:
    with requests.Session() as session:
        yield session


def operation(method: str, path: str) -> Any:
    """It takes the schema of a stream for that of an event's fields, not of the JSON in `data`."""
    document = build_document("4.0")
    for each in document["paths"].values():
        for shown in each.values():
            stream = shown["responses"]["200"].get("content", {}).get("text/event-stream")
            if stream is not None:
                stream["schema"] = {}
    return from_dict(document)[path][method]


@pytest.mark.parametrize(
    ("method", "path", "mode"),
    [
        (each.method.upper(), each.path, mode)
        for each in OPERATIONS
        for mode in GenerationMode
        # Without a body there is nothing to be wrong.
        if mode is GenerationMode.POSITIVE or each.body is not None
    ],
)
def test_the_document_is_kept(
    base_url: str, session: requests.Session, method: str, path: str, mode: GenerationMode
) -> None:
    tested = operation(method, path)

    @given(case=tested.as_strategy(generation_mode=mode))
    @settings(
        max_examples=MAX_EXAMPLES,
        database=None,
        derandomize=True,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    def conforms(case: Case) -> None:
        response = case.call(base_url=base_url, session=session)
        assert response.status_code < 500, (case.as_curl_command(), response.text)
        case.validate_response(response, checks=CHECKS)

    conforms()
