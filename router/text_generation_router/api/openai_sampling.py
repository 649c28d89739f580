"""How OpenAI's two dialects choose tokens: sampling at temperature 1.0 unless told otherwise, 0 is
greedy.
"""

import re

from text_generation_router.api.errors import ValidationError
from text_generation_router.api.foreign_fields import refuse_foreign
from text_generation_router.api.limits import (
    RequestLimits,
    check_penalty,
    check_positive,
    check_stop_sequences,
    random_seed,
    rounded_to_32_bits,
)
from text_generation_router.api.openai_types import SamplingFields
from text_generation_router.engine.request import SamplingParameters

_SEED_MASK = 2**64 - 1
_MAX_LOGIT_BIAS = 100.0
_TOKEN_ID = re.compile(r"[0-9]{1,10}", re.ASCII)


def choice_samplings(fields: SamplingFields, limits: RequestLimits) -> list[SamplingParameters]:
    """The checked sampling parameters of every choice (`n`).

    The first choice has the request's seed, each further one the next.
    """
    refuse_foreign(fields)
    fields = rounded_to_32_bits(fields)
    num_choices = _check_num_choices(fields.n, limits)
    _check(fields)
    greedy = fields.temperature == 0
    top_p = 1.0 if fields.top_p is None else fields.top_p
    top_k = max(fields.top_k or 0, 0)
    seed = random_seed() if fields.seed is None else fields.seed & _SEED_MASK
    logit_bias = _logit_bias(fields.logit_bias, limits)
    return [
        SamplingParameters(
            do_sample=not greedy,
            temperature=1.0 if greedy or fields.temperature is None else fields.temperature,
            # The smallest set with a probability of at least 0 is the most likely token.
            top_k=1 if top_p == 0 else top_k,
            top_p=top_p or 1.0,
            typical_p=1.0 if fields.typical_p is None else fields.typical_p,
            min_p=fields.min_p or 0.0,
            repetition_penalty=fields.repetition_penalty or 1.0,
            frequency_penalty=fields.frequency_penalty or 0.0,
            presence_penalty=fields.presence_penalty or 0.0,
            seed=(seed + choice) & _SEED_MASK,
            logit_bias=logit_bias,
        )
        for choice in range(num_choices)
    ]


def stop_sequences(fields: SamplingFields, limits: RequestLimits) -> tuple[str, ...]:
    """The checked stop strings."""
    stop = [fields.stop] if isinstance(fields.stop, str) else fields.stop or []
    check_stop_sequences(stop, limits)
    return tuple(stop)


def stop_token_ids(fields: SamplingFields, limits: RequestLimits) -> frozenset[int]:
    """The checked ids of tokens that end the output."""
    token_ids = frozenset(fields.stop_token_ids or ())
    unknown = max(token_ids, default=0)
    if unknown >= limits.vocab_size:
        raise ValidationError(
            f"`stop_token_ids` has the token id {unknown}; ids lie below {limits.vocab_size}",
            param="stop_token_ids",
        )
    return token_ids


def _check_num_choices(n: int | None, limits: RequestLimits) -> int:
    """`n` starts as many generations as a batch of prompts does, so it has the same bound."""
    num_choices = 1 if n is None else n
    if not 1 <= num_choices <= limits.max_client_batch_size:
        raise ValidationError(
            f"`n` must be between 1 and {limits.max_client_batch_size}. Given: {num_choices}",
            param="n",
        )
    return num_choices


def _check(fields: SamplingFields) -> None:
    if fields.temperature is not None and fields.temperature < 0:
        raise ValidationError(
            f"`temperature` must be at least 0. Given: {fields.temperature}", param="temperature"
        )
    _check_probability(fields.top_p, "top_p")
    _check_probability(fields.min_p, "min_p")
    check_positive(fields.typical_p, "typical_p")
    _check_probability(fields.typical_p, "typical_p")
    check_positive(fields.repetition_penalty, "repetition_penalty")
    check_penalty(fields.frequency_penalty, "frequency_penalty")
    check_penalty(fields.presence_penalty, "presence_penalty")
    # Other servers write "off" as 0 or -1.
    if fields.top_k is not None and not -1 <= fields.top_k < 2**31:
        raise ValidationError(
            f"`top_k` must be at least 1, or 0 for off. Given: {fields.top_k}", param="top_k"
        )


def _check_probability(value: float | None, field: str) -> None:
    if value is not None and not 0.0 <= value <= 1.0:
        raise ValidationError(f"`{field}` must be between 0 and 1. Given: {value}", param=field)


def _logit_bias(
    bias: dict[str, float] | None, limits: RequestLimits
) -> tuple[tuple[int, float], ...]:
    pairs: list[tuple[int, float]] = []
    for key, value in (bias or {}).items():
        token_id = int(key) if _TOKEN_ID.fullmatch(key) else None
        if token_id is None or token_id >= limits.vocab_size:
            raise ValidationError(
                f"`logit_bias` has the key {key!r}, which is not a token id below "
                f"{limits.vocab_size}",
                param="logit_bias",
            )
        if not -_MAX_LOGIT_BIAS <= value <= _MAX_LOGIT_BIAS:
            raise ValidationError(
                f"`logit_bias` must be between -100 and 100. Given: {value}", param="logit_bias"
            )
        pairs.append((token_id, value))
    return tuple(pairs)
