"""Around every generating route: one record per request, ended whatever happens."""

import asyncio
from collections.abc import Awaitable, Callable

from aiohttp import web

from text_generation_router.http.errors import describe
from text_generation_router.observability.metrics import RequestMetrics
from text_generation_router.observability.request_record import RequestRecord

RecordedHandler = Callable[[web.Request, RequestRecord], Awaitable[web.StreamResponse]]


def recorded(
    metrics: RequestMetrics, handler: RecordedHandler
) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    """The handler with a record; errors pass through."""

    async def handle(request: web.Request) -> web.StreamResponse:
        record = RequestRecord(metrics, request.path)
        try:
            return await handler(request, record)
        except (asyncio.CancelledError, ConnectionError):
            record.failed("dropped", "The client disconnected")
            raise
        except Exception as error:
            answer = describe(error)
            record.failed(answer.label, answer.message)
            raise

    return handle
