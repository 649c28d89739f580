"""The `text-generation` package: TGI's own client, which sends every field and reads every one."""

from typing import Any

import pytest
from text_generation import AsyncClient, Client
from text_generation.errors import ValidationError
from text_generation.types import FinishReason, Response, StreamResponse

PROMPT = "What is deep learning?"
# The package was written for pydantic 1 and calls its names.
pytestmark = pytest.mark.filterwarnings("ignore:The `dict` method is deprecated")


@pytest.fixture
def client(server: Any) -> Client:
    return Client(server.base_url, timeout=60)


@pytest.fixture
def async_client(server: Any) -> AsyncClient:
    return AsyncClient(server.base_url, timeout=60)


def check_one_token(found: Response) -> None:
    assert found.generated_text
    assert found.details.finish_reason == FinishReason.Length
    assert found.details.generated_tokens == len(found.details.tokens) == 1
    assert found.details.seed is None
    assert found.details.prefill == []
    assert not found.details.tokens[0].special


def check_stream(events: list[StreamResponse], whole: Response) -> None:
    assert [event.token.id for event in events] == [token.id for token in whole.details.tokens]
    assert all(event.generated_text is None for event in events[:-1])
    last = events[-1]
    assert last.generated_text == whole.generated_text
    assert last.details is not None
    assert last.details.finish_reason == FinishReason.Length
    assert last.details.generated_tokens == len(events)


def test_generate(client: Client) -> None:
    check_one_token(client.generate(PROMPT, max_new_tokens=1))


async def test_generate_async(async_client: AsyncClient) -> None:
    check_one_token(await async_client.generate(PROMPT, max_new_tokens=1))


def test_generate_best_of(client: Client) -> None:
    found = client.generate(PROMPT, max_new_tokens=3, best_of=2, do_sample=True)
    assert found.details.seed is not None
    assert found.details.best_of_sequences is not None
    (other,) = found.details.best_of_sequences
    assert other.seed is not None
    assert other.seed != found.details.seed


def test_generate_stream(client: Client) -> None:
    whole = client.generate(PROMPT, max_new_tokens=5)
    check_stream(list(client.generate_stream(PROMPT, max_new_tokens=5)), whole)


async def test_generate_stream_async(async_client: AsyncClient) -> None:
    whole = await async_client.generate(PROMPT, max_new_tokens=5)
    events = [event async for event in async_client.generate_stream(PROMPT, max_new_tokens=5)]
    check_stream(events, whole)


def test_validation_error(client: Client, server: Any) -> None:
    limit = server.get("/info").json()["max_total_tokens"]
    with pytest.raises(ValidationError):
        client.generate("word " * limit, max_new_tokens=1)


async def test_validation_error_async(async_client: AsyncClient, server: Any) -> None:
    limit = server.get("/info").json()["max_total_tokens"]
    with pytest.raises(ValidationError):
        await async_client.generate("word " * limit, max_new_tokens=1)


def test_stream_validation_error(client: Client, server: Any) -> None:
    limit = server.get("/info").json()["max_total_tokens"]
    with pytest.raises(ValidationError):
        list(client.generate_stream("word " * limit, max_new_tokens=1))


async def test_stream_validation_error_async(async_client: AsyncClient, server: Any) -> None:
    limit = server.get("/info").json()["max_total_tokens"]
    with pytest.raises(ValidationError):
        async for _ in async_client.generate_stream("word " * limit, max_new_tokens=1):
            pass


def test_chat(client: Client) -> None:
    """The package sends explicit nulls for every field it does not set."""
    found = client.chat([{"role": "user", "content": PROMPT}], max_tokens=5, temperature=0.5)
    assert found.choices[0].message.content
