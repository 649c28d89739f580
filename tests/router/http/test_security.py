"""With keys set every route but health is closed, however its path is written; which keys open."""

import hmac
from pathlib import Path

import pytest
from aiohttp import ClientSession
from text_generation_router.http.api_keys import ApiKeyError, ApiKeys, read_api_keys
from text_generation_router.http.app import build_app
from yarl import URL

from tests.fakes.engine import FakeEngine
from tests.fakes.router_app import make_service, running_app

HEALTH = {"/", "/health", "/ping", "/v2/health/live", "/v2/health/ready"}
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE")


def paths_of_all_routes() -> set[str]:
    service = make_service(FakeEngine())
    app = build_app(service)
    service.tokenizer.close()
    service.templates.close()
    resources = app.router.resources()
    return {
        resource.canonical.replace("{model}", "m").replace("{version}", "1")
        for resource in resources
    }


def spellings(path: str) -> set[str]:
    """The path, and others by which a router or a proxy might take one for it."""
    return {
        path,
        path + "/",
        path + "//",
        "/" + path,
        path.replace("/", "//"),
        path + "/.",
        path + "/..",
        "/health/.." + path,
        "/health/%2e%2e" + path,
        path.upper(),
        path + "%00",
        path + ";/health",
        path + "?/health",
    }


async def test_the_route_table_is_closed() -> None:
    paths = paths_of_all_routes()
    assert len(paths) > 20
    async with running_app(api_keys=ApiKeys(["k"])) as app:
        for path in paths | {"/nope", "/metrics/x"}:
            for spelling in spellings(path):
                for method in METHODS:
                    await _expect_closed(app.session, app.port, method, spelling)
        assert not app.engine.generations


async def _expect_closed(session: ClientSession, port: int, method: str, path: str) -> None:
    url = URL(f"http://127.0.0.1:{port}{path}", encoded=True)
    async with session.request(method, url) as response:
        body = await response.read()
    if method == "OPTIONS":
        assert (response.status, body) == (200, b""), path
    elif method in ("GET", "HEAD") and url.path in HEALTH:
        assert response.status == 200, path
    else:
        assert response.status == 401, (method, path, response.status)


@pytest.mark.parametrize(
    ("given", "opens"),
    [
        *(("one", True), ("two", True), ("three", True), ("onetwo", False)),
        *(("one,two", False), ("", False), ("On\xe9", False), ("ONE", False)),
    ],
)
async def test_each_of_several_keys_opens(given: str, opens: bool) -> None:
    keys = ApiKeys(["one", "two", "three"])
    async with running_app(api_keys=keys) as app:
        for headers in ({"authorization": f"Bearer {given}"}, {"x-api-key": given}):
            async with app.session.get("/info", headers=headers) as response:
                assert response.status == (200 if opens else 401)


def test_keys_from_a_list_and_a_file(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text("# operators\nthree\n\n  four  \n")
    keys = read_api_keys("one, two", str(file))
    assert all(keys.open_with(key) for key in ("one", "two", "three", "four"))
    assert not any(keys.open_with(key) for key in ("", "five", "# operators"))
    assert "one" not in repr(keys)
    assert not read_api_keys(None, None).are_required


@pytest.mark.parametrize("listed", ["", " ", "a,,b", "a,"])
def test_an_empty_key_would_open_the_server(listed: str) -> None:
    with pytest.raises(ApiKeyError, match="--api-key: an empty key"):
        read_api_keys(listed, None)


@pytest.mark.parametrize("content", [None, b"", b"# none\n\n", b"\xff"])
def test_a_file_without_keys_would_leave_it_open(tmp_path: Path, content: bytes | None) -> None:
    file = tmp_path / "keys"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(ApiKeyError, match="--api-key-file"):
        read_api_keys(None, str(file))


def test_all_keys_are_compared_in_constant_time(monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[bytes] = []

    def compare(given: bytes, key: bytes) -> bool:
        compared.append(key)
        return given == key

    monkeypatch.setattr(hmac, "compare_digest", compare)
    assert ApiKeys(["one", "two", "three"]).open_with("one")
    assert compared == [b"one", b"two", b"three"]
