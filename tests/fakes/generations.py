"""Finished generations and tokens for tests of answers, without an engine."""

from collections.abc import Sequence
from typing import Any

from text_generation_router.api.generation import FinishedGeneration
from text_generation_router.engine.request import (
    Finished,
    FinishReason,
    TokenOutput,
    TopToken,
)


def make_token(text: str, **changes: Any) -> TokenOutput:
    """A plain token."""
    values: dict[str, Any] = {
        "token_id": 100,
        "logprob": -0.5,
        "special": False,
        "top_tokens": [],
        **changes,
    }
    return TokenOutput(text=text, **values)


def make_end(text: str = "", num_tokens: int = 1, **changes: Any) -> Finished:
    """An end by EOS."""
    values: dict[str, Any] = {
        "reason": FinishReason.EOS_TOKEN,
        "stop_sequence": None,
        "num_prompt_tokens": 10,
        "num_cached_tokens": 4,
        "prompt_logprobs": None,
        "prompt_top_tokens": [],
        "queue_time": 0.0,
        "inference_time": 0.0,
        "time_to_first_token": 0.0,
        **changes,
    }
    return Finished(generated_text=text, num_generated_tokens=num_tokens, **values)


def make_generation(tokens: Sequence[TokenOutput], **changes: Any) -> FinishedGeneration:
    """A finished generation of these tokens."""
    text = "".join(token.text for token in tokens if not token.special)
    return FinishedGeneration(list(tokens), make_end(text, len(tokens), **changes))


def make_top_token(text: str, logprob: float) -> TopToken:
    """A candidate."""
    return TopToken(7, text, logprob, False)
