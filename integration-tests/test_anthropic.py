"""Anthropic's client, pointed at the server."""

from collections.abc import Iterator
from typing import Any

import anthropic
import pytest

MESSAGES: Any = [{"role": "user", "content": "What is deep learning?"}]


@pytest.fixture
def client(server: Any) -> Iterator[anthropic.Anthropic]:
    with anthropic.Anthropic(base_url=server.base_url, api_key="-", max_retries=0) as found:
        yield found


def test_a_stream_adds_up_to_the_whole_message(client: anthropic.Anthropic) -> None:
    options: Any = {
        "model": "tgi",
        "max_tokens": 12,
        "messages": MESSAGES,
        "extra_body": {"temperature": 0},
    }
    whole = client.messages.create(**options)
    with client.messages.stream(**options) as stream:
        streamed = "".join(stream.text_stream)
        final = stream.get_final_message()
    (block,) = whole.content
    assert block.type == "text"
    assert block.text == streamed
    assert streamed
    assert final.stop_reason == whole.stop_reason == "max_tokens"
    assert final.usage.output_tokens == whole.usage.output_tokens == 12


def test_the_answer_says_which_stop_sequence_ended_it(client: anthropic.Anthropic) -> None:
    options: Any = {
        "model": "tgi",
        "max_tokens": 40,
        "messages": MESSAGES,
        "stop_sequences": ["zebra", " machine"],
        "extra_body": {"temperature": 0},
    }
    whole = client.messages.create(**options)
    with client.messages.stream(**options) as stream:
        streamed = stream.get_final_message()
    for message in (whole, streamed):
        assert (message.stop_reason, message.stop_sequence) == ("stop_sequence", " machine")


def test_count_tokens(client: anthropic.Anthropic) -> None:
    assert client.messages.count_tokens(model="tgi", messages=MESSAGES).input_tokens > 0
