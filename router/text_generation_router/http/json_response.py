"""Answers in one piece."""

from collections.abc import Mapping
from typing import Any

import msgspec
from aiohttp import web


def json_response(
    answer: Any, *, status: int = 200, headers: Mapping[str, str] | None = None
) -> web.Response:
    """A wire type, or a list of them, as JSON."""
    return web.Response(
        body=msgspec.json.encode(answer),
        status=status,
        headers=headers,
        content_type="application/json",
    )
