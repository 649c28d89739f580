"""What the answers of OpenAI's two dialects have in common."""

import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass

from text_generation_router.api.openai_types import PromptTokensDetails, Usage
from text_generation_router.engine.request import Finished, FinishReason

_FINISH_REASONS = {
    FinishReason.LENGTH: "length",
    FinishReason.EOS_TOKEN: "stop",
    FinishReason.STOP_SEQUENCE: "stop",
}


@dataclass(frozen=True, kw_only=True)
class AnswerIdentity:
    """What all chunks of one answer carry."""

    id: str
    created: int
    model: str
    system_fingerprint: str


def new_identity(prefix: str, *, model: str, system_fingerprint: str) -> AnswerIdentity:
    """A fresh id such as `chatcmpl-0f...`, and the time."""
    return AnswerIdentity(
        id=f"{prefix}-{secrets.token_hex(12)}",
        created=int(time.time()),
        model=model,
        system_fingerprint=system_fingerprint,
    )


def finish_reason(reason: FinishReason) -> str:
    """OpenAI's word for why a generation ended."""
    return _FINISH_REASONS[reason]


def usage(ends: Sequence[Finished], *, choices_per_prompt: int) -> Usage:
    """The sum over all choices; `ends` has the choices of one prompt next to each other."""
    prompts = ends[::choices_per_prompt]
    num_prompt = sum(end.num_prompt_tokens for end in prompts)
    num_completion = sum(end.num_generated_tokens for end in ends)
    num_cached = sum(end.num_cached_tokens for end in prompts)
    return Usage(
        num_prompt, num_completion, num_prompt + num_completion, PromptTokensDetails(num_cached)
    )
