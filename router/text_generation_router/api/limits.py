"""The bounds of a request, and the checks that all dialects share."""

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import TypeVar

import msgspec

from text_generation_router.api.errors import ContextLengthError, ValidationError
from text_generation_router.api.numbers import shortest_float32, to_float32

StructT = TypeVar("StructT", bound=msgspec.Struct)

# Every token's text is searched for what may become a stop sequence.
_MAX_STOP_CHARACTERS = 1024


@dataclass(frozen=True, kw_only=True)
class RequestLimits:
    """What one request may ask for; /info shows most of it."""

    max_best_of: int
    max_stop_sequences: int
    max_top_n_tokens: int
    max_input_tokens: int
    max_total_tokens: int
    max_client_batch_size: int
    # Whether the log-probabilities of a prompt may be asked for.
    prefill_logprobs: bool
    # Token ids lie in [0, vocab_size).
    vocab_size: int
    # What the decoder of an encoder-decoder begins with; its encoder reads the prompt. None for all
    # other models.
    decoder_start_token_id: int | None = None


def check_stop_sequences(stop: list[str], limits: RequestLimits) -> None:
    """Bound number and lengths; an empty string would stop everything at once and is refused."""
    if len(stop) > limits.max_stop_sequences:
        raise ValidationError(
            f"`stop` supports up to {limits.max_stop_sequences} sequences. Given: {len(stop)}",
            param="stop",
        )
    if "" in stop:
        raise ValidationError("`stop` must not contain an empty string", param="stop")
    longest = max(map(len, stop), default=0)
    if longest > _MAX_STOP_CHARACTERS:
        raise ValidationError(
            f"`stop` supports up to {_MAX_STOP_CHARACTERS} characters a sequence. Given: {longest}",
            param="stop",
        )


def check_top_n_tokens(value: int, limits: RequestLimits, field: str) -> None:
    """Bound the candidates per token."""
    if value > limits.max_top_n_tokens:
        raise ValidationError(
            f"`{field}` must be between 0 and {limits.max_top_n_tokens}. Given: {value}",
            param=field,
        )


def rounded_to_32_bits(fields: StructT) -> StructT:
    """A copy whose numbers are what a shard will compute with, so that they are checked as such:
    1e-60 is 0, and 1e60 is refused.
    """
    changes: dict[str, float] = {}
    for name in _float_fields(type(fields)):
        value = getattr(fields, name)
        if value is not None:
            try:
                rounded = shortest_float32(to_float32(value))
            except OverflowError as error:
                raise ValidationError(f"`{name}` is out of range: {value}", param=name) from error
            if rounded != value:
                changes[name] = rounded
    return msgspec.structs.replace(fields, **changes) if changes else fields


@cache
def _float_fields(kind: type[msgspec.Struct]) -> list[str]:
    """The names of the fields that hold a number with a fraction, if they are set."""
    return [field.name for field in msgspec.structs.fields(kind) if field.type == float | None]


def check_positive(value: float | None, field: str) -> None:
    """Absent or greater than 0."""
    if value is not None and not value > 0:
        raise ValidationError(f"`{field}` must be strictly positive. Given: {value}", param=field)


def check_penalty(value: float | None, field: str) -> None:
    """Absent or within the range that OpenAI's API has for its penalties."""
    if value is not None and not -2.0 <= value <= 2.0:
        raise ValidationError(
            f"`{field}` must be between -2.0 and 2.0. Given: {value}", param=field
        )


def refuse_set(part: msgspec.Struct, fields: Sequence[str], place: str) -> None:
    """Refuse a part of a request, at `place` in it, that sets a field which would change the answer
    and cannot be honoured; null, false and empty ask for nothing.
    """
    for field in fields:
        if getattr(part, field):
            name = f"{place}.{field.removesuffix('_')}"
            raise ValidationError(f"`{name}` is not supported by this server", param=name)


def check_prompt_length(
    num_tokens: int, limits: RequestLimits, field: str, *, is_counted: bool = True
) -> None:
    """Bound a prompt's tokens, so that there is room for one more; `ContextLengthError`.

    is_counted: whether these are all, or the fewest that there may be.
    """
    longest = min(limits.max_input_tokens, limits.max_total_tokens - 1)
    if num_tokens > longest:
        given = num_tokens if is_counted else f"at least {num_tokens}"
        raise ContextLengthError(
            f"`{field}` must have at most {longest} tokens. Given: {given}",
            limits.max_total_tokens,
            param=field,
        )


def resolve_max_new_tokens(
    asked: int | None, num_prompt_tokens: int, limits: RequestLimits, *, field: str, prompt: str
) -> int:
    """How many tokens may be generated: what was asked for, or all that fit after the prompt.
    `ContextLengthError` if that is too long.

    `field` and `prompt` name the two in the dialect of the request.
    """
    check_prompt_length(num_prompt_tokens, limits, prompt)
    room = limits.max_total_tokens - num_prompt_tokens
    if asked is None:
        return room
    if asked > room:
        raise ContextLengthError(
            f"`{prompt}` tokens + `{field}` must be at most {limits.max_total_tokens}. "
            f"Given: {num_prompt_tokens} `{prompt}` tokens and {asked} `{field}`",
            limits.max_total_tokens,
            param=field,
        )
    return asked


def random_seed() -> int:
    """A seed for a request that brought none: 64 bits from the system."""
    return secrets.randbits(64)
