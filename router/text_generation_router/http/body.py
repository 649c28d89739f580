"""From the bytes of a body to a dialect's wire type, with the errors of TGI's framework."""

import asyncio
import re
from typing import Generic, TypeVar

import msgspec
from aiohttp import web

from text_generation_router.http.errors import BodyError

BodyT = TypeVar("BodyT")

# How long a client may take to send a body. A proxy in front has its own limit, mostly shorter.
BODY_SECONDS = 60.0

_JSON_TYPE = re.compile(r"application/([a-z0-9!#$&^_.-]+\+)?json")
# An escape in JSON: a whole surrogate pair, half of one (the group), or any other.
_ESCAPE = re.compile(
    rb"\\(?:u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|u([dD][89a-fA-F][0-9a-fA-F]{2})|.)",
    re.DOTALL,
)
# msgspec ends its messages with the place: "... - at `$.parameters.top_k`".
_PLACE = re.compile(r"^(?P<detail>.*) - at `\$\.?(?P<path>.*)`$", re.DOTALL)
_MISSING = re.compile(r"Object missing required field `(?P<field>.*)`", re.DOTALL)


class BodyDecoder(Generic[BodyT]):
    """Reads one route's requests."""

    def __init__(self, body_type: type[BodyT]) -> None:
        self._decoder = msgspec.json.Decoder(body_type)

    async def read(self, request: web.Request) -> BodyT:
        """The request's body; `BodyError` says what is wrong with it."""
        if not _JSON_TYPE.fullmatch(request.content_type):
            raise BodyError(415, "Expected request with `Content-Type: application/json`")
        try:
            async with asyncio.timeout(BODY_SECONDS):
                body = await request.read()
        except TimeoutError as error:
            raise BodyError(
                408,
                f"Failed to buffer the request body: it did not arrive within {BODY_SECONDS:g} s",
            ) from error
        except web.HTTPRequestEntityTooLarge as error:
            raise BodyError(
                413,
                "Failed to buffer the request body: length limit exceeded "
                f"({request.client_max_size} bytes)",
            ) from error
        except web.RequestPayloadError as error:
            raise BodyError(
                400,
                "Failed to buffer the request body: not of its Content-Encoding, or broken off",
            ) from error
        return self.decode(body)

    def decode(self, body: bytes) -> BodyT:
        """Parse and check the shape."""
        try:
            return self._decoder.decode(body)
        except msgspec.ValidationError as error:
            raise _wrong_shape(error) from error
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            reason = _lone_surrogate(body) or str(error) or "too deep"
            raise BodyError(400, f"Failed to parse the request body as JSON: {reason}") from error


def _lone_surrogate(body: bytes) -> str | None:
    """The fault of text that is JSON but no Unicode, which the parser would call truncated."""
    for match in _ESCAPE.finditer(body):
        if match[1]:
            return f"\\u{match[1].decode()} is half of a surrogate pair (byte {match.start()})"
    return None


def _wrong_shape(error: msgspec.ValidationError) -> BodyError:
    """`path: detail`, or the detail alone for the body as a whole."""
    match = _PLACE.match(str(error))
    detail, path = (match["detail"], match["path"]) if match else (str(error), "")
    placed = f"{path}: {detail}" if path else detail
    missing = _MISSING.fullmatch(detail)
    names = [path, missing["field"] if missing else ""]
    return BodyError(
        422,
        f"Failed to deserialize the JSON body into the target type: {placed}",
        param=".".join(filter(None, names)) or None,
    )
