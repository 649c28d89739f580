"""What is asked of the server: prompt texts, lengths, and the request bodies of three dialects."""

import random
from dataclasses import dataclass
from typing import Any, Literal, get_args

from benchmarks.http_stream import ResponseRecord

Dialect = Literal["generate", "chat", "completions"]
DIALECTS: tuple[str, ...] = get_args(Dialect)
PATHS: dict[Dialect, str] = {
    "generate": "/generate_stream",
    "chat": "/v1/chat/completions",
    "completions": "/v1/completions",
}

# Common words, one or two tokens each in most vocabularies.
_WORD_TEXT = """
the of and to in is it you that he was for on are with as his they at be this from have or by one
had not but what all were when we there can an your which their said if do will each about how up
out them then she many some so these would other into has more her two like him see time could no
make than first been its who now people my made over did down only way find use may water long
little very after words called just where most know
"""
WORDS = tuple(_WORD_TEXT.split())


@dataclass(frozen=True)
class Lengths:
    """A distribution of lengths in tokens: `128`, `uniform:64,512` or `normal:128,32`."""

    kind: Literal["fixed", "uniform", "normal"]
    first: int
    second: int = 0

    @classmethod
    def parse(cls, text: str) -> "Lengths":
        """Raises ValueError with the accepted forms."""
        kind, _, numbers = text.rpartition(":")
        try:
            values = [int(part) for part in numbers.split(",")]
        except ValueError:
            values = []
        if not kind and len(values) == 1 and values[0] >= 1:
            return cls("fixed", values[0])
        if kind == "uniform" and len(values) == 2 and 1 <= values[0] <= values[1]:
            return cls("uniform", *values)
        if kind == "normal" and len(values) == 2 and values[0] >= 1 and values[1] >= 0:
            return cls("normal", *values)
        raise ValueError(
            f"a length is N, uniform:LOW,HIGH or normal:MEAN,DEVIATION with N >= 1, got {text!r}"
        )

    def draw(self, source: random.Random) -> int:
        """One length, at least 1."""
        if self.kind == "fixed":
            return self.first
        if self.kind == "uniform":
            return source.randint(self.first, self.second)
        return max(1, round(source.gauss(self.first, self.second)))


@dataclass(frozen=True, kw_only=True)
class Workload:
    """Draws request bodies; the same seed gives the same requests.

    Every prompt begins differently, so that no prefix cache helps, unless `shared_words` asks for a
    common beginning.
    """

    dialect: Dialect
    prompt_tokens: Lengths
    output_tokens: Lengths
    tokens_per_word: float = 1.0
    shared_words: int = 0
    temperature: float | None = None
    model: str = "tgi"
    # Or, in the /v1 dialects, answered in one piece.
    is_streamed: bool = True

    def __post_init__(self) -> None:
        if not self.is_streamed and self.dialect == "generate":
            raise ValueError("/generate_stream has no answer in one piece")

    def payload(self, source: random.Random) -> dict[str, Any]:
        """The body of one request."""
        num_words = max(1, round(self.prompt_tokens.draw(source) / self.tokens_per_word))
        shared = WORDS * (self.shared_words // len(WORDS) + 1)
        own = source.choices(WORDS, k=max(1, num_words - self.shared_words))
        text = " ".join([*shared[: self.shared_words], *own])
        return self._body(text, self.output_tokens.draw(source))

    def _body(self, text: str, max_tokens: int) -> dict[str, Any]:
        if self.dialect == "generate":
            parameters: dict[str, Any] = {"max_new_tokens": max_tokens, "details": True}
            if self.temperature:
                parameters |= {"temperature": self.temperature, "do_sample": True}
            return {"inputs": text, "parameters": parameters}
        body: dict[str, Any] = {
            "model": self.model,
            "max_tokens": max_tokens,
            "temperature": self.temperature or 0.0,
            "stream": self.is_streamed,
        }
        if self.is_streamed:
            body["stream_options"] = {"include_usage": True}
        if self.dialect == "chat":
            return body | {"messages": [{"role": "user", "content": text}]}
        return body | {"prompt": text}


@dataclass(frozen=True)
class TokenCounts:
    """Tokens of one response; None where the server does not say."""

    prompt: int | None
    output: int


def token_counts(record: ResponseRecord) -> TokenCounts:
    """Counts as the server reports them; without a report every event counts as one token."""
    event = record.last_event or {}
    usage, details = event.get("usage"), event.get("details")
    if usage:
        return TokenCounts(usage["prompt_tokens"], usage["completion_tokens"])
    if details:
        return TokenCounts(details.get("input_length"), details["generated_tokens"])
    return TokenCounts(None, len(record.event_times))
