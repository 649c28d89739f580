"""The API's own description is valid, and complete: every route of the application is in it."""

import re

from aiohttp import web
from openapi_spec_validator import OpenAPIV31SpecValidator
from text_generation_router.http.app import build_app
from text_generation_router.http.openapi import build_document

from tests.fakes.engine import FakeEngine
from tests.fakes.router_app import make_service, running_app


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


async def test_the_schemas_are_those_that_parse() -> None:
    schemas = build_document("4.0")["components"]["schemas"]
    assert schemas["ChatBody"]["required"] == ["messages"]
    assert schemas["GenerateParameters"]["properties"]["top_k"]["anyOf"][0]["type"] == "integer"


async def test_the_page_needs_nothing_from_elsewhere() -> None:
    async with running_app() as app, app.session.get("/docs") as response:
        assert response.content_type == "text/html"
        page = await response.text()
    assert re.findall(r"""(?:https?:)?//[\w.]+""", page) == []
    assert re.findall(r'(?:src|href)="([^"]*)"', page) == ["api-doc/openapi.json"]
