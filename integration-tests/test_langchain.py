"""LangChain's OpenAI classes, pointed at the server."""

from typing import Any, Literal

import pytest
from pydantic import BaseModel, Field, SecretStr

pytest.importorskip("langchain_openai", reason="langchain-openai is not installed here")

from langchain_core.messages import AIMessage, HumanMessage, SystemMessage, ToolMessage
from langchain_openai import ChatOpenAI, OpenAI

QUESTION = "What is deep learning?"


class Mood(BaseModel):
    """How a text sounds."""

    mood: Literal["glad", "sad"]
    strength: int = Field(ge=1, le=9)


def chat(server: Any, **options: Any) -> ChatOpenAI:
    return ChatOpenAI(
        base_url=f"{server.base_url}/v1",
        api_key=SecretStr("-"),
        model="tgi-demo",
        temperature=0,
        max_retries=0,
        **options,
    )


def test_a_chat_with_its_usage(server: Any) -> None:
    answer = chat(server).invoke([SystemMessage("Be brief."), HumanMessage(QUESTION)])
    assert isinstance(answer, AIMessage)
    assert answer.content
    assert answer.usage_metadata is not None
    assert answer.usage_metadata["output_tokens"] > 1
    assert answer.response_metadata["finish_reason"] == "stop"


def test_a_stream_says_the_same(server: Any) -> None:
    model = chat(server, stream_usage=True)
    chunks = list(model.stream(QUESTION))
    assert "".join(str(chunk.content) for chunk in chunks) == model.invoke(QUESTION).content
    assert len(chunks) > 3
    assert [chunk.usage_metadata is not None for chunk in chunks].count(True) == 1


def test_a_batch_keeps_its_order(server: Any) -> None:
    model = chat(server, max_tokens=8)
    questions = [QUESTION, "Who are you?", "What is the sea?"]
    answers = [answer.content for answer in model.batch(questions)]
    assert answers == [model.invoke(question).content for question in questions]


@pytest.mark.parametrize("method", ["json_schema", "function_calling"])
def test_structured_output(server: Any, method: Any) -> None:
    """Both ways are enforced: the demonstration model is too small to get it right by itself."""
    model = chat(server).with_structured_output(Mood, method=method)
    found = model.invoke("I am glad.")
    assert isinstance(found, Mood)


def test_log_probabilities(server: Any) -> None:
    model = chat(server, max_tokens=3).bind(logprobs=True, top_logprobs=2)
    content = model.invoke(QUESTION).response_metadata["logprobs"]["content"]
    assert len(content) == 3
    assert all(len(token["top_logprobs"]) == 2 for token in content)


def test_a_tool_is_called_and_its_result_read(server: Any) -> None:
    model = chat(server, max_tokens=200)
    asked = model.bind_tools([Mood], tool_choice="Mood").invoke("I am sad.")
    (call,) = asked.tool_calls
    assert call["name"] == "Mood"
    assert Mood.model_validate(call["args"])
    result = ToolMessage("noted", tool_call_id=str(call["id"]))
    answer = model.bind_tools([Mood]).invoke([HumanMessage("I am sad."), asked, result])
    assert isinstance(answer, AIMessage)


def test_completions(server: Any) -> None:
    model = OpenAI(
        base_url=f"{server.base_url}/v1",
        api_key=SecretStr("-"),
        model="tgi-demo",
        temperature=0,
        max_tokens=6,
        max_retries=0,
    )
    text = model.invoke("The moon is")
    assert text
    assert "".join(model.stream("The moon is")) == text
