"""What the server tells about itself."""

import pytest

from tests.fakes.router_app import MODEL_ID, running_app


async def test_info_has_all_keys_in_order() -> None:
    async with running_app() as app, app.session.get("/info") as response:
        info = await response.json()
    assert list(info.items()) == [
        ("model_id", MODEL_ID),
        ("model_sha", None),
        ("model_pipeline_tag", None),
        ("max_concurrent_requests", 128),
        ("max_best_of", 2),
        ("max_stop_sequences", 4),
        ("max_input_tokens", 400),
        ("max_total_tokens", 500),
        ("validation_workers", 1),
        ("max_client_batch_size", 4),
        ("router", "text-generation-router"),
        ("version", "4.0"),
        ("sha", None),
        ("docker_label", None),
    ]


async def test_models() -> None:
    async with running_app() as app, app.session.get("/v1/models") as response:
        assert await response.json() == {
            "object": "list",
            "data": [
                {
                    "id": MODEL_ID,
                    "object": "model",
                    "created": 0,
                    "owned_by": MODEL_ID,
                    "max_model_len": 500,
                }
            ],
        }


@pytest.mark.parametrize("path", ["/", "/health", "/ping"])
async def test_health(path: str) -> None:
    async with running_app() as app:
        async with app.session.get(path) as response:
            assert (response.status, await response.read()) == (200, b"")
        app.engine.is_healthy = False
        async with app.session.get(path) as response:
            assert response.status == 503
            assert await response.json() == {"error": "unhealthy", "error_type": "healthcheck"}


async def test_metrics_count_a_request_once() -> None:
    async with running_app() as app:
        chat = {"messages": [{"role": "user", "content": "x"}], "n": 2}
        for path, body in [
            ("/generate", {"inputs": "a"}),
            ("/generate_stream", {"inputs": "a"}),
            ("/v1/chat/completions", chat),
            ("/v1/completions", {"prompt": ["a", "b"]}),
            ("/generate", {"inputs": ""}),
            ("/generate_stream", {"inputs": ""}),
            ("/generate", {"inputs": 3}),
        ]:
            async with app.session.post(path, json=body) as response:
                await response.read()
        async with app.session.get("/metrics") as response:
            assert response.headers["content-type"] == "text/plain; charset=utf-8"
            lines = (await response.text()).splitlines()
    assert "tgi_request_count 7" in lines
    assert "tgi_request_success 4" in lines
    assert 'tgi_request_failure{err="validation"} 3' in lines
    assert "tgi_request_duration_count 4" in lines
    assert not any("_total" in line.split("{")[0] or "_created" in line for line in lines)


async def test_embeddings_are_refused_with_a_reason() -> None:
    async with (
        running_app() as app,
        app.session.post("/v1/embeddings", json={"model": "m", "input": "x"}) as response,
    ):
        assert response.status == 422
        error = (await response.json())["error"]
    assert (error["param"], error["code"]) == ("model", "validation")
    assert "has no embeddings" in error["message"]


async def test_metrics_in_the_format_that_is_asked_for() -> None:
    async with (
        running_app() as app,
        app.session.get("/metrics", headers={"accept": "application/openmetrics-text"}) as response,
    ):
        assert response.headers["content-type"].startswith("application/openmetrics-text;")
        text = await response.text()
    assert "# TYPE tgi_request_count unknown\ntgi_request_count 0\n" in text
    assert text.endswith("# EOF\n")
