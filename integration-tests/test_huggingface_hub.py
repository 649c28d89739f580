"""The hub's client, pointed at the server."""

from typing import Any

import pytest
from huggingface_hub import InferenceClient
from huggingface_hub.errors import ValidationError

PROMPT = "What is deep learning?"
MESSAGES = [{"role": "user", "content": PROMPT}]
# The client asks at `/`, where TGI returns the prompt too unless told otherwise.
OPTIONS: dict[str, Any] = {"max_new_tokens": 10, "return_full_text": False}


@pytest.fixture
def client(server: Any) -> InferenceClient:
    return InferenceClient(server.base_url)


def test_text_generation(client: InferenceClient) -> None:
    text = client.text_generation(PROMPT, **OPTIONS)
    assert text
    full = client.text_generation(PROMPT, **OPTIONS | {"return_full_text": True})
    assert full == client.text_generation(PROMPT, max_new_tokens=10) == PROMPT + text


def test_text_generation_details(client: InferenceClient) -> None:
    found = client.text_generation(PROMPT, details=True, **OPTIONS)
    assert found.details.generated_tokens == len(found.details.tokens)
    assert "".join(token.text for token in found.details.tokens) == found.generated_text


def test_text_generation_stream(client: InferenceClient) -> None:
    text = client.text_generation(PROMPT, **OPTIONS)
    assert "".join(client.text_generation(PROMPT, stream=True, **OPTIONS)) == text
    events = list(client.text_generation(PROMPT, stream=True, details=True, **OPTIONS))
    assert events[-1].generated_text == text
    assert events[-1].details.generated_tokens == len(events)
    assert events[-1].details.finish_reason == "length"


def test_text_generation_sampled(client: InferenceClient) -> None:
    options: dict[str, Any] = {"do_sample": True, "seed": 7, "temperature": 1.5, "top_k": 50}
    first, second = (
        client.text_generation(PROMPT, details=True, **OPTIONS, **options) for _ in range(2)
    )
    assert first.details.seed == 7
    assert first.generated_text == second.generated_text


def test_text_generation_stop(client: InferenceClient) -> None:
    text = client.text_generation(PROMPT, **OPTIONS)
    stop = text.split()[2]
    assert client.text_generation(PROMPT, stop=[stop], **OPTIONS).endswith(stop)


def test_validation_error(client: InferenceClient) -> None:
    with pytest.raises(ValidationError):
        for _ in client.text_generation(PROMPT, max_new_tokens=0, stream=True):
            pass


def test_chat(client: InferenceClient) -> None:
    found = client.chat_completion(MESSAGES, max_tokens=12, temperature=0.0)
    assert found.choices[0].message.role == "assistant"
    assert found.choices[0].message.content
    assert found.usage.completion_tokens <= 12


def test_chat_stream_with_usage(client: InferenceClient) -> None:
    whole = client.chat_completion(MESSAGES, max_tokens=12, temperature=0.0)
    *chunks, last = client.chat_completion(
        MESSAGES,
        max_tokens=12,
        temperature=0.0,
        stream=True,
        stream_options={"include_usage": True},
    )
    assert all(chunk.usage is None for chunk in chunks)
    assert last.choices == []
    assert last.usage.completion_tokens == whole.usage.completion_tokens == len(chunks)
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    assert text == whole.choices[0].message.content
