"""The API's own description: the OpenAPI document, Swagger UI to read and to try it, and a page to
try the model.
"""

from importlib.metadata import distribution
from pathlib import Path

import msgspec
from aiohttp import web
from aiohttp.typedefs import Handler

from text_generation_router.http.openapi import build_document
from text_generation_router.http.pages import Page
from text_generation_router.http.service import Service

# Swagger UI's files, as a Python package carries them, and their content types.
_SWAGGER_UI = "swagger-ui-py"
_FILES = {"swagger-ui.css": "text/css", "swagger-ui-bundle.js": "text/javascript"}


class DocsRoutes:
    """The document is made when it is first asked for, then kept: start-up does not wait."""

    def __init__(self, service: Service) -> None:
        self._version = service.model.version
        self._document: bytes | None = None

    def add_to(self, router: web.UrlDispatcher) -> None:
        """Register the routes."""
        router.add_get("/api-doc/openapi.json", self.document)
        docs, playground = _page("docs.html"), _page("playground.html")
        router.add_get("/docs", docs)
        # Where TGI has it.
        router.add_get("/docs/", docs)
        for name, content_type in _FILES.items():
            router.add_get(f"/docs/{name}", _file(name, content_type))
        router.add_get("/playground", playground)

    async def document(self, request: web.Request) -> web.Response:  # noqa: ARG002
        """OpenAPI 3.1."""
        if self._document is None:
            self._document = msgspec.json.encode(build_document(self._version))
        return web.Response(body=self._document, content_type="application/json")


def _page(name: str) -> Handler:
    page = Page(name)

    async def show(request: web.Request) -> web.Response:  # noqa: ARG001
        return page.response()

    return show


def _file(name: str, content_type: str) -> Handler:
    """A file of Swagger UI, which browsers may keep: it changes with the server's version only."""
    headers = {
        "content-type": f"{content_type}; charset=utf-8",
        "cache-control": "private, max-age=3600",
        "x-content-type-options": "nosniff",
    }

    async def send(request: web.Request) -> web.FileResponse:  # noqa: ARG001
        return web.FileResponse(_swagger_ui() / name, headers=headers)

    return send


def _swagger_ui() -> Path:
    """The directory of its files; the package's code is not imported."""
    return Path(str(distribution(_SWAGGER_UI).locate_file("swagger_ui/static")))
