"""OpenAI's client, pointed at the server."""

from collections.abc import Iterator
from typing import Any

import openai
import pytest

PROMPT = "What is deep learning?"
MESSAGES: Any = [{"role": "user", "content": PROMPT}]


@pytest.fixture
def client(server: Any) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server.base_url}/v1", api_key="-", max_retries=0) as found:
        yield found


def ask(client: openai.OpenAI, **options: Any) -> Any:
    return client.chat.completions.create(
        model="tgi", messages=MESSAGES, temperature=0, max_tokens=12, **options
    )


def test_models(client: openai.OpenAI, server: Any) -> None:
    (model,) = client.models.list().data
    assert model.id == server.get("/info").json()["model_id"]
    assert client.models.retrieve(model.id) == model
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("another")


def test_chat(client: openai.OpenAI) -> None:
    found = ask(client)
    assert found.object == "chat.completion"
    assert found.choices[0].message.content
    assert found.usage.total_tokens == found.usage.prompt_tokens + found.usage.completion_tokens


def test_chat_stream(client: openai.OpenAI) -> None:
    whole = ask(client).choices[0]
    chunks = list(ask(client, stream=True))
    assert all(chunk.usage is None for chunk in chunks)
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    assert text == whole.message.content
    assert chunks[-1].choices[0].finish_reason == whole.finish_reason


def test_chat_stream_usage(client: openai.OpenAI) -> None:
    *chunks, last = ask(client, stream=True, stream_options={"include_usage": True})
    assert all(chunk.usage is None for chunk in chunks)
    assert last.choices == []
    assert last.usage.completion_tokens == len(chunks)


def test_chat_logprobs(client: openai.OpenAI) -> None:
    choice = ask(client, logprobs=True, top_logprobs=2).choices[0]
    assert len(choice.logprobs.content) > 0
    for entry in choice.logprobs.content:
        assert len(entry.top_logprobs) >= 2
        assert entry.logprob <= 0


def test_chat_seed(client: openai.OpenAI) -> None:
    first, second = (
        client.chat.completions.create(
            model="tgi", messages=MESSAGES, temperature=1.3, seed=11, max_tokens=12
        )
        for _ in range(2)
    )
    assert first.choices[0].message.content == second.choices[0].message.content


def test_openai_forms_that_tgi_refused(client: openai.OpenAI) -> None:
    """A stop string without a list, top_p of 1, nulls for defaults: OpenAI's meaning."""
    whole = ask(client).choices[0].message.content
    stop = whole.split()[1]
    found = client.chat.completions.create(
        model="tgi",
        messages=MESSAGES,
        temperature=0,
        max_tokens=12,
        top_p=1,
        stop=stop,
        presence_penalty=None,
        user="someone",
    )
    assert whole.startswith(found.choices[0].message.content.removesuffix(stop))
    assert len(found.choices[0].message.content) < len(whole)


def test_completion(client: openai.OpenAI) -> None:
    found = client.completions.create(model="tgi", prompt=PROMPT, temperature=0, max_tokens=6)
    assert found.object == "text_completion"
    assert found.choices[0].finish_reason == "length"
    assert found.usage is not None
    assert found.usage.completion_tokens == 6


def test_completion_of_several_prompts(client: openai.OpenAI) -> None:
    prompts = [PROMPT, "Count to 10.", "Hello", "What is the capital of France?"]
    singles = [
        client.completions.create(model="tgi", prompt=prompt, temperature=0, max_tokens=6)
        for prompt in prompts
    ]
    found = client.completions.create(model="tgi", prompt=prompts, temperature=0, max_tokens=6)
    texts = {choice.index: choice.text for choice in found.choices}
    assert texts == {index: single.choices[0].text for index, single in enumerate(singles)}
    assert found.usage is not None
    assert found.usage.total_tokens == sum(single.usage.total_tokens for single in singles)


def test_completion_stream_of_several_prompts(client: openai.OpenAI) -> None:
    prompts = [PROMPT, "Count to 10."]
    whole = client.completions.create(model="tgi", prompt=prompts, temperature=0, max_tokens=6)
    texts = ["", ""]
    finished = []
    for chunk in client.completions.create(
        model="tgi", prompt=prompts, temperature=0, max_tokens=6, stream=True
    ):
        (choice,) = chunk.choices
        texts[choice.index] += choice.text
        if choice.finish_reason:
            finished.append(choice.index)
    assert texts == [
        choice.text for choice in sorted(whole.choices, key=lambda choice: choice.index)
    ]
    assert sorted(finished) == [0, 1]


def test_response(client: openai.OpenAI) -> None:
    options: Any = {"model": "tgi", "input": PROMPT, "temperature": 0, "max_output_tokens": 16}
    whole = client.responses.create(**options)
    events = list(client.responses.create(**options, stream=True))
    text = "".join(e.delta for e in events if e.type == "response.output_text.delta")
    assert text == whole.output_text == events[-1].response.output_text
    assert (
        whole.output_text == ask(client, extra_body={"max_tokens": 16}).choices[0].message.content
    )
    assert whole.usage is not None
    assert whole.usage.output_tokens == 16


def test_too_many_prompts(client: openai.OpenAI) -> None:
    with pytest.raises(openai.UnprocessableEntityError):
        client.completions.create(model="tgi", prompt=["x"] * 5, max_tokens=2)


def test_validation_error(client: openai.OpenAI) -> None:
    with pytest.raises(openai.UnprocessableEntityError, match="temperature"):
        client.chat.completions.create(model="tgi", messages=MESSAGES, temperature=-1)


def test_not_found(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("no-such-model")


def test_embeddings_are_refused_with_a_reason(client: openai.OpenAI) -> None:
    with pytest.raises(openai.UnprocessableEntityError, match="has no embeddings"):
        client.embeddings.create(model="tgi", input="x")
