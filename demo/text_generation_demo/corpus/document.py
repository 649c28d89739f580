"""What the corpus consists of."""

from dataclasses import dataclass, field
from typing import Any

Message = dict[str, Any]
Tool = dict[str, Any]


@dataclass(frozen=True)
class Exchange:
    """One question with its answer; `short` is the answer in one word, where there is one."""

    question: str
    answer: str
    short: str | None = None


@dataclass(frozen=True)
class Conversation:
    """Messages for the chat template; every assistant message is to be learned."""

    skill: str
    messages: list[Message]
    tools: list[Tool] = field(default_factory=list)


@dataclass(frozen=True)
class RawText:
    """A text without chat template; only the completion is to be learned."""

    skill: str
    prompt: str
    completion: str


Document = Conversation | RawText


def user(content: str) -> Message:
    return {"role": "user", "content": content}


def assistant(content: str) -> Message:
    return {"role": "assistant", "content": content}


def system(content: str) -> Message:
    return {"role": "system", "content": content}
