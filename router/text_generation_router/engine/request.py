"""What the engine takes in and gives back: the one contract between the dialects (`api/`) and the
engine.

A dialect makes a `GenerationRequest`, submits it with an `OutputSink` and gets a handle. From then
on the sink hears of every token, in order, and then of exactly one end: a token that carries
`Finished`, or `failed`. After `GenerationHandle.cancel` it hears nothing more. All calls happen on
the event loop.
"""

import enum
from dataclasses import dataclass
from typing import Protocol

import msgspec


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingParameters:
    """How tokens are chosen; the defaults are each processor's "off"."""

    do_sample: bool = False
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    typical_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    watermark: bool = False
    seed: int = 0
    logit_bias: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationRequest:
    """One sequence to generate, validated: nothing behind this type checks limits again."""

    prompt_ids: tuple[int, ...]
    max_new_tokens: int
    sampling: SamplingParameters
    # Literal strings that end the output, wherever they begin or end inside tokens.
    stop_sequences: tuple[str, ...] = ()
    # Whether the stop string itself is part of the text (TGI's dialect) or cut off (OpenAI's).
    keep_stop_sequence: bool = True
    ignore_eos: bool = False
    # Tokens that end the output as the model's end tokens do, be these ignored or not.
    stop_token_ids: frozenset[int] = frozenset()
    top_n_tokens: int = 0
    # Of every prompt token but the first, with `top_n_tokens` candidates for its position.
    prompt_logprobs: bool = False
    # What the output must follow, in llguidance's form (`grammar/`); empty for no grammar.
    grammar: str = ""


class FinishReason(enum.Enum):
    """Why a sequence ended; the values are TGI's words."""

    LENGTH = "length"
    EOS_TOKEN = "eos_token"  # noqa: S105
    STOP_SEQUENCE = "stop_sequence"


@dataclass(frozen=True, slots=True)
class TopToken:
    """One candidate for a position."""

    token_id: int
    text: str
    logprob: float
    special: bool


class TokenOutput(msgspec.Struct, gc=False):
    """One generated token. One is made for each; a dataclass would take three times as long."""

    token_id: int
    # Text that became certain with this token, special tokens kept. Empty in the middle of a
    # character, and while the text may be the beginning of a stop string that is to be cut off; it
    # arrives with a later token then.
    text: str
    logprob: float
    special: bool
    # Best first, ties at the last place included; empty unless asked for.
    top_tokens: list[TopToken]
    # `text` as it was before a stop string held it back or cut it off; None if it is the same.
    uncut_text: str | None = None

    @property
    def own_text(self) -> str:
        """What stands for this token where tokens are listed, whatever of it is sent when."""
        return self.text if self.uncut_text is None else self.uncut_text


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """How a generation ended and what it cost; times in seconds."""

    reason: FinishReason
    # The stop string that ended it; None also where a token did that was named as one.
    stop_sequence: str | None
    # The whole output, special tokens left out.
    generated_text: str
    num_prompt_tokens: int
    num_cached_tokens: int
    num_generated_tokens: int
    # One per prompt token but the first; None unless asked for. The prompt of an encoder-decoder's
    # decoder is its start token alone, so there are none.
    prompt_logprobs: list[float] | None
    # The candidates for the positions of `prompt_logprobs`.
    prompt_top_tokens: list[list[TopToken]]
    # From submission to the first step that computed it, and from there to the end.
    queue_time: float
    inference_time: float
    # From submission to the first token.
    time_to_first_token: float


class EngineError(Exception):
    """A generation did not reach its end.

    EngineError
      ├─ OverloadedError    refused: too much is waiting already; nothing was computed
      ├─ ShuttingDownError  refused: the server is draining
      └─ GenerationError    a shard failed while computing it
    """


class OverloadedError(EngineError):
    """Too much is waiting; `retry_after` is the predicted wait in whole seconds."""

    def __init__(self, message: str, *, retry_after: int) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class ShuttingDownError(EngineError):
    """The server is draining and takes no new work."""


class GenerationError(EngineError):
    """A shard failed; the text is for clients."""


class OutputSink(Protocol):
    """Who waits for a generation. Calls must be quick: everybody's tokens pass here."""

    def token(self, output: TokenOutput, finished: Finished | None) -> None:
        """The next token; the last one carries `finished`."""

    def failed(self, error: EngineError) -> None:
        """The generation ends without a last token."""


class GenerationHandle(Protocol):
    """A generation that was accepted."""

    def cancel(self) -> None:
        """Stop it within a step; the sink hears nothing more. Harmless after the end."""
