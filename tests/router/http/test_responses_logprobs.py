"""Log-probabilities in the Responses dialect: those of the text, and of nothing else."""

from typing import Any

import openai
import pytest
from text_generation_router.engine.request import TopToken

from tests.fakes.engine import END, FakeEngine, Said
from tests.fakes.router_app import CHATML, running_app

TEMPLATE = CHATML + "{# <think> and </think> #}"
TOOLS: Any = [{"type": "function", "name": "f", "parameters": {"type": "object"}, "strict": False}]
LOGPROBS: Any = {"include": ["message.output_text.logprobs"], "top_logprobs": 1}
THINKS = ["<think>", "\nSo", " I", " say", "\n</th", "ink>\n\n"]
CALL = ['<tool_call>{"name": "f", ', '"arguments": {"a": 1}}', "</tool_call>"]


def scripted(texts: list[Any]) -> list[Said]:
    """Tokens that are known by their log-probability: -1, -2, and so on."""
    said = [Said(text) if isinstance(text, str) else text for text in texts]
    return [
        Said(
            each.text,
            each.token_id,
            -1.0 - place,
            each.special,
            (TopToken(7, "top", -0.25, False), TopToken(8, "next", -0.5, False)),
        )
        for place, each in enumerate(said)
    ]


@pytest.mark.parametrize(
    ("script", "numbers"),
    [
        (["Hello", " world", END], [1, 2]),
        ([END], []),
        # The reasoning has a word of the answer; white space behind it is no part of either.
        ([*THINKS, "So", " it", ".", END], [7, 8, 9]),
        # A character of three tokens.
        (["a", "", "", "€", END], [1, 2, 3, 4]),
        # What might have become a mark, and a token that is cut at one.
        (["x <tool", "s>", " y", END], [1, 2, 3]),
        (["So", ': <tool_call>{"name": "f", ', *CALL[1:], END], [1, 2]),
        ([*THINKS, "So", ": ", *CALL, END], [7, 8]),
        ([*CALL, END], []),
        ([*THINKS, *CALL, "Done", ".", END], [10, 11]),
    ],
)
async def test_they_are_those_of_the_text(script: list[Any], numbers: list[int]) -> None:
    async with (
        running_app(FakeEngine(scripted(script)), template=TEMPLATE) as app,
        openai.AsyncOpenAI(base_url=f"http://127.0.0.1:{app.port}/v1", api_key="-") as client,
    ):
        options: Any = {"model": "tgi", "input": "hi", "tools": TOOLS, **LOGPROBS}
        whole = await client.responses.create(**options)
        stream = await client.responses.create(**options, stream=True)
        events: list[Any] = [event async for event in stream]
        assert app.engine.generations[0].request.top_n_tokens == 1
    found = logprobs_of(whole)
    assert [-each.logprob for each in found] == numbers
    assert all([top.token for top in each.top_logprobs] == ["top"] for each in found)
    assert logprobs_of(events[-1].response) == found
    deltas = [event for event in events if event.type == "response.output_text.delta"]
    told = [each.to_dict() for event in deltas for each in event.logprobs]
    assert told == [each.to_dict() for each in found]
    done = [event for event in events if event.type == "response.output_text.done"]
    assert [each.to_dict() for event in done for each in event.logprobs] == told
    assert whole.top_logprobs == 1


def logprobs_of(response: Any) -> list[Any]:
    parts = [part for item in response.output if item.type == "message" for part in item.content]
    return [each for part in parts for each in part.logprobs]


async def test_without_include_there_are_none() -> None:
    async with (
        running_app() as app,
        openai.AsyncOpenAI(base_url=f"http://127.0.0.1:{app.port}/v1", api_key="-") as client,
    ):
        plain = await client.responses.create(model="tgi", input="hi")
        # What agents send to a server that stores nothing.
        encrypted = await client.responses.create(
            model="tgi", input="hi", store=False, include=["reasoning.encrypted_content"]
        )
        assert app.engine.generations[1].request.top_n_tokens == 0
    assert logprobs_of(plain) == logprobs_of(encrypted) == []
    assert encrypted.output_text == plain.output_text
