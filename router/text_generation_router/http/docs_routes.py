"""The API's own description: the OpenAPI document, a page to read and to try it, and a page to try
the model.
"""

import msgspec
from aiohttp import web

from text_generation_router.http.openapi import build_document
from text_generation_router.http.pages import Page
from text_generation_router.http.service import Service


class DocsRoutes:
    """The document is made when it is first asked for, then kept: start-up does not wait."""

    def __init__(self, service: Service) -> None:
        self._version = service.model.version
        self._document: bytes | None = None
        self._docs = Page("docs.html")
        self._playground = Page("playground.html")

    def add_to(self, router: web.UrlDispatcher) -> None:
        """Register the routes."""
        router.add_get("/api-doc/openapi.json", self.document)
        router.add_get("/docs", self.docs)
        router.add_get("/playground", self.playground)

    async def document(self, request: web.Request) -> web.Response:  # noqa: ARG002
        """OpenAPI 3.1."""
        if self._document is None:
            self._document = msgspec.json.encode(build_document(self._version))
        return web.Response(body=self._document, content_type="application/json")

    async def docs(self, request: web.Request) -> web.Response:  # noqa: ARG002
        """Plain HTML; it reads the document."""
        return self._docs.response()

    async def playground(self, request: web.Request) -> web.Response:  # noqa: ARG002
        """Plain HTML; it chats with the model."""
        return self._playground.response()
