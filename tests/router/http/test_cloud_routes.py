"""The routes of cloud platforms over the wire."""

from typing import Any

import pytest

from tests.fakes.engine import FakeEngine
from tests.fakes.router_app import MODEL_ID, RunningApp, running_app

MESSAGES = [{"role": "user", "content": "hi"}]
INFER = "/v2/models/m/versions/1/infer"


async def post(app: RunningApp, path: str, body: Any) -> tuple[int, Any]:
    async with app.session.post(path, json=body) as response:
        is_json = response.content_type == "application/json"
        return response.status, await (response.json() if is_json else response.text())


def echo_engine() -> FakeEngine:
    """Answers with the number of the prompt's tokens."""
    engine = FakeEngine()
    engine.script_for = lambda request: [str(len(request.prompt_ids))]
    return engine


@pytest.mark.parametrize(
    ("body", "path"),
    [
        ({"inputs": "a"}, "/"),
        ({"inputs": "a", "messages": MESSAGES, "prompt": "p"}, "/"),
        ({"inputs": None, "messages": MESSAGES, "prompt": "p"}, "/v1/chat/completions"),
        ({"prompt": "p"}, "/v1/completions"),
    ],
)
async def test_invocations_answer_as_the_dialect_does(body: dict[str, Any], path: str) -> None:
    given = {key: value for key, value in body.items() if value is not None}
    async with running_app() as app:
        status, answer = await post(app, "/invocations", body)
        expected_status, expected = await post(app, path, given)
    assert status == expected_status == 200
    for changing in ("id", "created"):
        if isinstance(answer, dict):
            answer.pop(changing)
            expected.pop(changing)
    assert answer == expected


async def test_invocations_stream() -> None:
    async with running_app() as app:
        body = {"messages": MESSAGES, "stream": True}
        async with app.session.post("/invocations", json=body) as response:
            assert response.content_type == "text/event-stream"
            assert (await response.read()).endswith(b"data: [DONE]\n\n")


@pytest.mark.parametrize(
    ("body", "text"),
    [
        ({}, "one of `inputs`, `messages` and `prompt` is required"),
        ({"inputs": None}, "one of `inputs`, `messages` and `prompt` is required"),
        ({"inputs": 3}, "inputs: Expected `str`"),
        ({"messages": 3}, "messages: Expected `array`"),
    ],
)
async def test_invocations_name_what_is_wrong(body: dict[str, Any], text: str) -> None:
    async with running_app() as app:
        status, answer = await post(app, "/invocations", body)
    assert status == 422
    assert text in answer


async def test_vertex_answers_in_order() -> None:
    instances = [
        {"inputs": "abc"},
        {"inputs": "a", "parameters": None},
        {"messages": MESSAGES},
        {"inputs": "ab", "parameters": {"return_full_text": True, "temperature": 0.5}},
    ]
    async with running_app(echo_engine()) as app:
        status, answer = await post(app, "/vertex", {"instances": instances, "other": 1})
        samplings = [generation.request.sampling for generation in app.engine.generations]
    assert status == 200
    native_first, native_second, chat, full = answer["predictions"]
    assert int(native_first) == int(native_second) + 2
    assert int(chat) > int(native_first)
    assert full == "ab" + str(int(native_second) + 1)
    assert [sampling.do_sample for sampling in samplings] == [True] * 4
    assert samplings[3].temperature == 0.5


@pytest.mark.parametrize(
    ("instances", "text"),
    [
        ([], "`instances` cannot be empty"),
        ([{}], "instances[0]: one of `inputs` and `messages` is required"),
        ([{"inputs": "a"}, {"inputs": 3}], "instances[1]: "),
        ([{"inputs": "a", "parameters": {"top_p": 2}}], "`top_p`"),
        ([{"messages": MESSAGES, "n": 2}], "`n` must be 1"),
    ],
)
async def test_vertex_names_what_is_wrong(instances: list[Any], text: str) -> None:
    async with running_app() as app:
        status, answer = await post(app, "/vertex", {"instances": instances})
        assert app.engine.generations == []
    assert status == 422
    assert text in str(answer)


async def test_infer_reads_and_writes_bytes() -> None:
    body = {
        "id": "7",
        "inputs": [
            {"name": "a", "shape": [1, 3], "datatype": "BYTES", "data": list(b"abc")},
            {"name": "b", "data": ["ab"]},
        ],
        "outputs": [{"name": "x"}, {"name": "y"}],
        "parameters": {"max_new_tokens": 2},
    }
    async with running_app(echo_engine()) as app:
        status, answer = await post(app, INFER, body)
    assert status == 200
    assert answer["id"] == "7"
    assert [output["name"] for output in answer["outputs"]] == ["x", "y"]
    first, second = (int(bytes(output["data"])) for output in answer["outputs"])
    assert first == second + 1
    assert answer["outputs"][0]["shape"] == [1, len(answer["outputs"][0]["data"])]


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"inputs": []}, "`inputs` cannot be empty"),
        ({"outputs": []}, "`outputs` must be as many as `inputs`"),
        ({"inputs": [{"name": "a", "data": [255]}]}, "`inputs[0].data` is not UTF-8"),
        ({"inputs": [{"name": "a", "data": ["a", "b"]}]}, "`inputs[0].data` must be bytes"),
        ({"inputs": [{"name": "a", "data": [256]}]}, "inputs[0].data[0]: Expected"),
    ],
)
async def test_infer_names_what_is_wrong(changes: dict[str, Any], text: str) -> None:
    body = {"inputs": [{"name": "a", "data": [65]}], **changes}
    async with running_app() as app:
        status, answer = await post(app, INFER, body)
    assert status == 422
    assert text in str(answer)


async def test_kserve_tells_of_itself() -> None:
    async with running_app() as app:
        async with app.session.get("/v2") as response:
            assert (await response.json())["name"] == "text-generation-inference"
        async with app.session.get("/v2/models/m/versions/1") as response:
            assert await response.json() == {
                "name": "m",
                "version": "1",
                "extensions": ["infer", "ready"],
            }
        app.engine.is_healthy = False
        async with app.session.get("/v2/health/live") as response:
            assert (response.status, await response.json()) == (200, {"live": True})
        for path in ("/v2/health/ready", "/v2/models/m/versions/1/ready"):
            async with app.session.get(path) as response:
                assert (response.status, await response.json()) == (
                    503,
                    {"live": True, "ready": False},
                )


@pytest.mark.parametrize("name", [MODEL_ID, "tgi"])
async def test_the_model_by_name(name: str) -> None:
    async with running_app() as app, app.session.get(f"/v1/models/{name}") as response:
        assert response.status == 200
        assert (await response.json())["id"] == MODEL_ID


async def test_another_model_is_not_found() -> None:
    async with running_app() as app, app.session.get("/v1/models/gpt-4") as response:
        assert response.status == 404
        error = (await response.json())["error"]
    assert (error["code"], error["type"]) == ("model_not_found", "invalid_request_error")
    assert "gpt-4" in error["message"]
