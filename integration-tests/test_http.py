"""Raw HTTP: bytes, headers and errors as TGI's clients see them."""

import json
import re
from typing import Any

import pytest

PROMPT = "What is deep learning?"
CHAT = {"messages": [{"role": "user", "content": PROMPT}], "temperature": 0, "max_tokens": 12}
ROUTES = ("/generate", "/generate_stream", "/v1/chat/completions", "/v1/completions", "/tokenize")


def test_generate(server: Any) -> None:
    answer = server.post(
        "/generate", {"inputs": PROMPT, "parameters": {"max_new_tokens": 5, "details": True}}
    )
    assert answer.status == 200
    assert answer.headers["content-type"] == "application/json"
    for name in ("total", "validation", "queue", "inference"):
        assert answer.headers[f"x-{name}-time"].isdigit()
    assert answer.headers["x-time-per-token"].isdigit()
    assert float(answer.headers["x-compute-time"]) > 0
    assert answer.headers["x-compute-characters"] == str(len(PROMPT))
    assert answer.headers["x-generated-tokens"] == "5"
    assert int(answer.headers["x-prompt-tokens"]) > 0
    assert "x-compute-type" in answer.headers
    found = answer.json()
    assert list(found) == ["generated_text", "details"]
    details = found["details"]
    assert list(details) == ["finish_reason", "generated_tokens", "seed", "prefill", "tokens"]
    assert (details["finish_reason"], details["seed"], details["prefill"]) == ("length", None, [])
    assert len(details["tokens"]) == details["generated_tokens"] == 5
    assert all(list(token) == ["id", "text", "logprob", "special"] for token in details["tokens"])
    assert "".join(token["text"] for token in details["tokens"]) == found["generated_text"]


def test_generate_without_details_is_compact_json(server: Any) -> None:
    answer = server.post("/generate", {"inputs": PROMPT, "parameters": {"max_new_tokens": 5}})
    assert list(answer.json()) == ["generated_text"]
    assert (
        answer.body == json.dumps(answer.json(), ensure_ascii=False, separators=(",", ":")).encode()
    )


def test_compatible_root_answers_an_array(server: Any) -> None:
    (found,) = server.post("/", {"inputs": PROMPT, "parameters": {"max_new_tokens": 5}}).json()
    assert found["generated_text"].startswith(PROMPT)  # return_full_text is the default here
    assert server.get("/").status == 200


def test_generate_stream(server: Any) -> None:
    whole = server.generate(PROMPT, max_new_tokens=8)
    answer = server.post(
        "/generate_stream",
        {"inputs": PROMPT, "parameters": {"max_new_tokens": 8, "details": True}},
    )
    assert answer.status == 200
    assert answer.headers["cache-control"] == "no-cache"
    assert answer.headers["x-accel-buffering"] == "no"
    assert b"[DONE]" not in answer.body
    events = answer.events()
    assert [event["index"] for event in events] == list(range(1, 9))
    assert list(events[0]) == ["index", "token", "generated_text", "details"]
    assert all(event["generated_text"] is None for event in events[:-1])
    assert "".join(event["token"]["text"] for event in events) == events[-1]["generated_text"]
    assert events[-1]["generated_text"] == whole["generated_text"]
    details = events[-1]["details"]
    assert list(details) == ["finish_reason", "generated_tokens", "seed", "input_length"]
    assert details["generated_tokens"] == 8


def test_chat_stream_bytes(server: Any) -> None:
    whole = server.post("/v1/chat/completions", CHAT).json()
    answer = server.post(
        "/v1/chat/completions",
        CHAT | {"stream": True, "stream_options": {"include_usage": True}},
    )
    assert answer.body.endswith(b"\n\ndata: [DONE]\n\n")
    assert answer.body.startswith(b'data: {"object":"chat.completion.chunk","id":')
    *chunks, usage = answer.events()
    assert usage["choices"] == []
    assert usage["usage"] == whole["usage"]
    deltas = [chunk["choices"][0]["delta"] for chunk in chunks]
    assert deltas[0]["role"] == "assistant"
    text = "".join(delta["content"] for delta in deltas)
    assert text == whole["choices"][0]["message"]["content"]
    finish = whole["choices"][0]["finish_reason"]
    assert [chunk["choices"][0]["finish_reason"] for chunk in chunks] == [
        *[None] * (len(chunks) - 1),
        finish,
    ]


def test_chat_shape(server: Any) -> None:
    found = server.post("/v1/chat/completions", CHAT).json()
    assert list(found)[:1] == ["object"]
    assert found["object"] == "chat.completion"
    usage = found["usage"]
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]
    assert usage["completion_tokens"] <= 12


def test_completions_stream_bytes(server: Any) -> None:
    payload = {"prompt": PROMPT, "max_tokens": 6, "temperature": 0}
    whole = server.post("/v1/completions", payload).json()
    answer = server.post("/v1/completions", payload | {"stream": True})
    assert answer.body.endswith(b"\n\ndata: [DONE]\n\n")
    chunks = answer.events()
    text = "".join(chunk["choices"][0]["text"] for chunk in chunks)
    assert text == whole["choices"][0]["text"]
    assert chunks[-1]["choices"][0]["finish_reason"] == "length"
    assert chunks[-1]["usage"] == whole["usage"]


def test_stop_sequence_is_kept_and_ends_the_text(server: Any) -> None:
    text = server.generate(PROMPT, max_new_tokens=20)["generated_text"]
    stop = text[len(text) // 3 : len(text) // 3 + 4]
    found = server.generate(PROMPT, max_new_tokens=20, stop=[stop], details=True)
    assert found["generated_text"] == text[: text.index(stop) + len(stop)]
    assert found["details"]["finish_reason"] == "stop_sequence"


def test_tokenize(server: Any) -> None:
    text = "Größe: 10 €"
    tokens = server.post("/tokenize", {"inputs": text}).json()
    encoded = text.encode()
    assert all(list(token) == ["id", "text", "start", "stop"] for token in tokens)
    covered = b"".join(encoded[token["start"] : token["stop"]] for token in tokens)
    assert set(encoded) == set(covered)
    assert tokens[-1]["stop"] == len(encoded)


def test_chat_tokenize(server: Any) -> None:
    found = server.post("/chat_tokenize", {"messages": CHAT["messages"]}).json()
    assert PROMPT in found["templated_text"]
    usage = server.post("/v1/chat/completions", CHAT).json()["usage"]
    assert len(found["tokenize_response"]) == usage["prompt_tokens"]


def test_info_and_models(server: Any) -> None:
    info = server.get("/info").json()
    assert info["router"] == "text-generation-router"
    assert 0 < info["max_input_tokens"] < info["max_total_tokens"]
    models = server.get("/v1/models").json()
    facts = [(model["id"], model["max_model_len"]) for model in models["data"]]
    assert facts == [(info["model_id"], info["max_total_tokens"])]


@pytest.mark.parametrize("path", ["/health", "/ping"])
def test_health(server: Any, path: str) -> None:
    answer = server.get(path)
    assert (answer.status, answer.body) == (200, b"")


def test_metrics_after_traffic(server: Any) -> None:
    before = server.metric("tgi_request_success") or 0
    server.generate(PROMPT, max_new_tokens=3)
    answer = server.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain")
    assert server.metric("tgi_request_success") == before + 1
    text = answer.body.decode()
    for name in (
        "tgi_request_count",
        "tgi_request_duration_bucket",
        "tgi_request_generated_tokens_bucket",
        "tgi_request_input_length_bucket",
        "tgi_request_queue_duration_bucket",
        "tgi_request_mean_time_per_token_duration_bucket",
        "tgi_queue_size",
        "tgi_batch_current_size",
    ):
        assert re.search(rf"^{name}\b", text, re.MULTILINE), name


def test_cors(server: Any) -> None:
    assert server.get("/info").headers["access-control-allow-origin"] == "*"
    assert server.request("OPTIONS", "/generate").status == 200


@pytest.mark.parametrize("path", ROUTES)
def test_bad_json_is_400(server: Any, path: str) -> None:
    answer = server.request("POST", path, b'{"inputs": ', {"content-type": "application/json"})
    assert answer.status == 400
    assert b"JSON" in answer.body
    if path.startswith("/v1/"):
        assert answer.json()["error"]["type"] == "invalid_request_error"
    else:
        assert answer.headers["content-type"].startswith("text/plain")


@pytest.mark.parametrize("path", ROUTES)
def test_wrong_content_type_is_415(server: Any, path: str) -> None:
    assert server.request("POST", path, b"{}", {"content-type": "text/plain"}).status == 415


@pytest.mark.parametrize(
    ("path", "payload", "field"),
    [
        ("/generate", {"inputs": 5}, "inputs"),
        ("/generate", {"inputs": "x", "parameters": {"max_new_tokens": "5"}}, "max_new_tokens"),
        ("/generate", {}, "inputs"),
        ("/v1/chat/completions", {"messages": "hello"}, "messages"),
        ("/v1/completions", {"prompt": "x", "max_tokens": -1}, "max_tokens"),
    ],
)
def test_wrong_type_is_422_and_names_the_field(
    server: Any, path: str, payload: dict[str, Any], field: str
) -> None:
    answer = server.post(path, payload)
    assert answer.status == 422
    assert field in answer.body.decode()


@pytest.mark.parametrize(
    ("parameters", "field"),
    [
        ({"temperature": 0.0}, "temperature"),
        ({"top_p": 1.0}, "top_p"),
        ({"max_new_tokens": 0}, "max_new_tokens"),
        ({"stop": list("abcde")}, "stop"),
        ({"best_of": 2}, "best_of"),
        ({"top_n_tokens": 50}, "top_n_tokens"),
    ],
)
def test_parameter_out_of_range(server: Any, parameters: dict[str, Any], field: str) -> None:
    answer = server.post("/generate", {"inputs": "x", "parameters": parameters})
    found = answer.json()
    assert (answer.status, found["error_type"]) == (422, "validation")
    assert found["error"].startswith("Input validation error: ")
    assert field in found["error"]


def test_prompt_too_long(server: Any) -> None:
    limit = server.get("/info").json()["max_input_tokens"]
    payload = {"inputs": "word " * (limit + 1), "parameters": {"max_new_tokens": 1}}
    answer = server.post("/generate", payload)
    assert (answer.status, answer.json()["error_type"]) == (422, "validation")
    (event,) = server.post("/generate_stream", payload).events()
    assert event == answer.json()
    chat = {"messages": [{"role": "user", "content": payload["inputs"]}], "stream": True}
    answer = server.post("/v1/chat/completions", chat)
    assert (answer.status, answer.json()["error_type"]) == (422, "validation")


def test_unknown_path_and_method(server: Any) -> None:
    assert server.get("/nothing").status == 404
    answer = server.get("/generate")
    assert (answer.status, answer.headers["allow"]) == (405, "POST")
