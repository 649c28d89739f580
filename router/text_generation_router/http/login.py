"""How a browser opens a page that needs a key: it cannot send the key by itself.

The answer without a key is 401, and its body a form. The form asks for the same page again, with
the key, and shows what comes. The key stays in the tab (sessionStorage), where the pages find it.
"""

from aiohttp import web

from text_generation_router.http.pages import Page

PAGE_PATHS = frozenset({"/docs", "/docs/", "/playground"})

_FORM = Page("login.html")


def is_asked_by_browser(request: web.Request) -> bool:
    """Whether somebody opens a page, rather than a program a route."""
    wants_html = "text/html" in request.headers.get("accept", "")
    return request.method == "GET" and request.path in PAGE_PATHS and wants_html


def login_page() -> web.Response:
    """The form; it tells nothing of the server."""
    response = _FORM.response(status=401)
    response.headers["www-authenticate"] = "Bearer"
    return response
