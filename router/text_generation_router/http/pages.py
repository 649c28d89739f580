"""Pages for people: one file of HTML each, which talks to this server only."""

from importlib import resources

from aiohttp import web

_POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; "
    "connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'"
)


class Page:
    """Read when it is first asked for, then kept: start-up does not wait."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._text: bytes | None = None

    def response(self, status: int = 200) -> web.Response:
        """The page."""
        if self._text is None:
            self._text = resources.files(__package__).joinpath(self._name).read_bytes()
        return web.Response(
            status=status,
            body=self._text,
            content_type="text/html",
            charset="utf-8",
            headers={
                "content-security-policy": _POLICY,
                "x-content-type-options": "nosniff",
                "referrer-policy": "no-referrer",
                # The same address shows the login form to who has no key.
                "cache-control": "no-store",
            },
        )
