"""The API's own description: the OpenAPI document, and a page to read and to try it."""

from importlib import resources

import msgspec
from aiohttp import web

from text_generation_router.http.openapi import build_document
from text_generation_router.http.service import Service

_PAGE = "docs.html"
# The page is one file and talks to this server only.
_POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'"
)


class DocsRoutes:
    """Both texts are made when they are first asked for, then kept: start-up does not wait."""

    def __init__(self, service: Service) -> None:
        self._version = service.model.version
        self._document: bytes | None = None
        self._page: bytes | None = None

    def add_to(self, router: web.UrlDispatcher) -> None:
        """Register the routes."""
        router.add_get("/api-doc/openapi.json", self.document)
        router.add_get("/docs", self.page)

    async def document(self, request: web.Request) -> web.Response:  # noqa: ARG002
        """OpenAPI 3.1."""
        if self._document is None:
            self._document = msgspec.json.encode(build_document(self._version))
        return web.Response(body=self._document, content_type="application/json")

    async def page(self, request: web.Request) -> web.Response:  # noqa: ARG002
        """Plain HTML; it reads the document."""
        if self._page is None:
            self._page = resources.files(__package__).joinpath(_PAGE).read_bytes()
        return web.Response(
            body=self._page,
            content_type="text/html",
            charset="utf-8",
            headers={"content-security-policy": _POLICY},
        )
