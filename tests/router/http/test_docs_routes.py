"""The API's own description is valid, and complete: every route of the application is in it."""

import re

import pytest
from aiohttp import web
from openapi_spec_validator import OpenAPIV31SpecValidator
from text_generation_router.http.api_keys import ApiKeys
from text_generation_router.http.app import build_app
from text_generation_router.http.examples import EXAMPLES
from text_generation_router.http.openapi import build_document
from text_generation_router.http.operations import OPERATIONS
from yarl import URL

from tests.fakes.engine import FakeEngine
from tests.fakes.router_app import MODEL_ID, make_service, running_app


def routes(app: web.Application) -> set[tuple[str, str]]:
    return {
        (route.method.lower(), route.resource.canonical)
        for route in app.router.routes()
        if route.resource is not None and route.method != "HEAD"
    }


async def test_the_document_is_valid() -> None:
    async with running_app() as app, app.session.get("/api-doc/openapi.json") as response:
        document = await response.json()
    OpenAPIV31SpecValidator(document).validate()
    assert document["info"]["version"] == "4.0"


async def test_the_document_has_every_route() -> None:
    service = make_service(FakeEngine())
    documented = {
        (method, path)
        for path, methods in build_document("4.0")["paths"].items()
        for method in methods
    }
    assert documented == routes(build_app(service))
    service.tokenizer.close()
    service.templates.close()


async def test_the_schemas_are_those_that_parse() -> None:
    schemas = build_document("4.0")["components"]["schemas"]
    assert schemas["ChatBody"]["required"] == ["messages"]
    assert schemas["GenerateParameters"]["properties"]["top_k"]["anyOf"][0]["type"] == "integer"


@pytest.mark.parametrize(
    ("path", "links"),
    [
        ("/docs", ["api-doc/openapi.json", "playground"]),
        ("/docs/", ["api-doc/openapi.json", "playground"]),
        ("/playground", []),
    ],
)
async def test_a_page_needs_nothing_from_elsewhere(path: str, links: list[str]) -> None:
    async with running_app() as app, app.session.get(path) as response:
        assert response.content_type == "text/html"
        assert "default-src 'none'" in response.headers["content-security-policy"]
        page = await response.text()
    assert re.findall(r"""(?:https?:)?//[\w.]+""", page) == []
    assert re.findall(r'(?:src|href)="([^"]*)"', page) == links


async def test_the_files_of_swagger_ui_are_here() -> None:
    async with running_app() as app:
        async with app.session.get("/docs/swagger-ui-bundle.js") as response:
            assert (response.status, response.content_type) == (200, "text/javascript")
            assert "SwaggerUIBundle" in await response.text()
        async with app.session.get("/docs/swagger-ui.css") as response:
            assert (response.status, response.content_type) == (200, "text/css")
            assert ".swagger-ui" in await response.text()
        for other in ("/docs/swagger-ui.js", "/docs/../pyproject.toml", "/docs/%2e%2e/x"):
            async with app.session.get(URL(other, encoded=True)) as response:
                assert response.status == 404


def test_every_route_with_a_body_has_an_example() -> None:
    paths = {operation.path for operation in OPERATIONS if operation.body is not None}
    assert set(EXAMPLES) == paths - {"/v1/embeddings"}


@pytest.mark.parametrize("path", EXAMPLES)
async def test_an_example_is_answered(path: str) -> None:
    address = path.replace("{model}", "m").replace("{version}", "1")
    async with running_app() as app, app.session.post(address, json=EXAMPLES[path]) as response:
        body = await response.text()
        assert response.status == 200, body
        assert '"error_type"' not in body


@pytest.mark.parametrize("path", ["/docs", "/docs/", "/playground"])
async def test_without_a_key_a_browser_gets_a_form_and_no_page(path: str) -> None:
    browser = {"accept": "text/html,application/xhtml+xml,*/*;q=0.8"}
    async with running_app(api_keys=ApiKeys(["k"])) as app:
        async with app.session.get(path, headers=browser) as response:
            form = await response.text()
            assert (response.status, response.content_type) == (401, "text/html")
            assert "needs an API key" in form
            assert MODEL_ID not in form
        async with app.session.get(path) as response:
            assert (response.status, response.content_type) == (401, "application/json")
        async with app.session.get("/info", headers=browser) as response:
            assert (response.status, response.content_type) == (401, "application/json")
        key = {**browser, "authorization": "Bearer k"}
        async with app.session.get(path, headers=key) as response:
            assert response.status == 200
            assert await response.text() != form
