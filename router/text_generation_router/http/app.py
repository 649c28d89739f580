"""The aiohttp application: routes, and what surrounds all of them.

From outside to inside: CORS headers on every response, preflight answers, the API key, errors.
"""

import logging
from collections.abc import Awaitable, Callable, Sequence

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from text_generation_router.http.api_keys import ApiKeys
from text_generation_router.http.chat_routes import ChatRoutes
from text_generation_router.http.cloud_routes import CloudRoutes
from text_generation_router.http.completion_routes import CompletionRoutes
from text_generation_router.http.docs_routes import DocsRoutes
from text_generation_router.http.errors import (
    MethodError,
    RouteError,
    UnauthorizedError,
    error_response,
    is_unexpected,
)
from text_generation_router.http.fact_routes import FactRoutes
from text_generation_router.http.login import is_asked_by_browser, login_page
from text_generation_router.http.malformed import MalformedRequestFilter
from text_generation_router.http.messages_routes import MessagesRoutes
from text_generation_router.http.native_routes import NativeRoutes
from text_generation_router.http.operations import HEALTH_PATHS
from text_generation_router.http.responses_routes import ResponsesRoutes
from text_generation_router.http.service import Service

logger = logging.getLogger("text_generation_router.http")


# For a preflight that names none. Clients in browsers bring headers of their own (`x-stainless-os`
# and a dozen others of openai's, `anthropic-dangerous-direct-browser-access`): what is asked for is
# allowed.
_ALLOWED_HEADERS = "content-type,authorization,x-api-key,anthropic-version"
_VARY = "origin, access-control-request-method, access-control-request-headers"


def build_app(service: Service) -> web.Application:
    """The application of one router; it serves when its runner does."""
    app = web.Application(
        middlewares=[_errors_middleware(), _keys_middleware(service.api_keys)],
        client_max_size=service.payload_limit,
        handler_args={"access_log": None, "logger": _server_logger()},
    )
    for routes in (
        NativeRoutes(service),
        ChatRoutes(service),
        CompletionRoutes(service),
        ResponsesRoutes(service),
        MessagesRoutes(service),
        CloudRoutes(service),
        FactRoutes(service),
        DocsRoutes(service),
    ):
        routes.add_to(app.router)
    app.on_response_prepare.append(_cors_signal(service.cors_allow_origin))
    return app


def _server_logger() -> logging.Logger:
    server_logger = logging.getLogger("text_generation_router.http.server")
    if not server_logger.filters:
        server_logger.addFilter(MalformedRequestFilter())
    return server_logger


def _errors_middleware() -> Middleware:
    @web.middleware
    async def errors(request: web.Request, handler: Handler) -> web.StreamResponse:
        """The last place that turns an error into an answer."""
        try:
            return await handler(request)
        except web.HTTPNotFound:
            return error_response(RouteError(), request.path)
        except web.HTTPMethodNotAllowed as error:
            return error_response(MethodError(error.allowed_methods), request.path)
        except (web.HTTPException, ConnectionError):
            raise
        except Exception as error:
            if is_unexpected(error):
                logger.exception("%s %s failed", request.method, request.path)
            return error_response(error, request.path)

    return errors


def _keys_middleware(api_keys: ApiKeys) -> Middleware:
    @web.middleware
    async def keys(request: web.Request, handler: Handler) -> web.StreamResponse:
        """Preflights pass without a key and reach no route; all but health need the key."""
        if request.method == "OPTIONS":
            return web.Response(
                headers={
                    "access-control-allow-methods": "GET,POST",
                    "access-control-allow-headers": request.headers.get(
                        "access-control-request-headers", _ALLOWED_HEADERS
                    ),
                }
            )
        if not api_keys.are_required or _is_health(request) or _has_key(request, api_keys):
            return await handler(request)
        if is_asked_by_browser(request):
            return login_page()
        raise UnauthorizedError("the API key is missing or wrong")

    return keys


def _is_health(request: web.Request) -> bool:
    return request.method in ("GET", "HEAD") and request.path in HEALTH_PATHS


def _has_key(request: web.Request, api_keys: ApiKeys) -> bool:
    """As a bearer token, or where Anthropic's clients have it."""
    scheme, _, given = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer":
        given = request.headers.get("x-api-key", "")
    return api_keys.open_with(given.strip())


def _cors_signal(
    allowed: Sequence[str],
) -> Callable[[web.Request, web.StreamResponse], Awaitable[None]]:
    """Any origin, or exactly the listed ones."""

    async def add_cors_headers(request: web.Request, response: web.StreamResponse) -> None:
        origin = request.headers.get("origin")
        if not allowed or "*" in allowed:
            response.headers["access-control-allow-origin"] = "*"
        elif origin is not None and origin in allowed:
            response.headers["access-control-allow-origin"] = origin
        response.headers["vary"] = _VARY
        response.headers["server"] = "text-generation-router"

    return add_cors_headers
