"""TGI's own dialect: from `GenerateBody` to generation requests.

The checks run in TGI's order, so that a request with two faults is told the same one. Deviations,
all towards what a client would expect:
- `frequency_penalty` counts a token's occurrences in the output, as OpenAI's API does, not their
  share of prompt and output.
- `max_new_tokens` is checked as it was given; TGI checks at most 1024 of it.
- An `adapter_id` that is not loaded is refused; TGI answers with the base model.
"""

from dataclasses import dataclass

from text_generation_router.api.errors import ValidationError
from text_generation_router.api.generation import Prompt
from text_generation_router.api.grammars import compile_format
from text_generation_router.api.limits import (
    RequestLimits,
    check_penalty,
    check_positive,
    check_prompt_length,
    check_stop_sequences,
    check_top_n_tokens,
    random_seed,
    resolve_max_new_tokens,
    rounded_to_32_bits,
)
from text_generation_router.api.native_types import GenerateBody, GenerateParameters
from text_generation_router.engine.request import GenerationRequest, SamplingParameters
from text_generation_router.grammar.compiler import GrammarCompiler
from text_generation_router.prompt.tokenizer import TokenizerPool

_MAX_SEED = 2**64 - 1


@dataclass(frozen=True, kw_only=True)
class NativeGeneration:
    """A validated request: one generation for each candidate."""

    prompt: Prompt
    # Tokens that `prefill` shows: the prompt's, or an encoder-decoder's start token.
    prefill_ids: tuple[int, ...]
    requests: tuple[GenerationRequest, ...]
    # Text to put before the output: the untruncated prompt, or nothing.
    text_before: str
    # Whether tokens are drawn, so that the answer names the seed.
    samples: bool
    details: bool
    decoder_input_details: bool

    def seed(self, candidate: int) -> int | None:
        """The seed that the answer shows for a candidate."""
        return self.requests[candidate].sampling.seed if self.samples else None


async def prepare(
    body: GenerateBody,
    *,
    limits: RequestLimits,
    tokenizer: TokenizerPool,
    grammars: GrammarCompiler,
    stream: bool,
    full_text_default: bool = False,
) -> NativeGeneration:
    """Validate a request; `ValidationError` says what is wrong with it."""
    parameters = rounded_to_32_bits(body.parameters)
    num_candidates = _check_parameters(parameters, limits, stream=stream)
    if not body.inputs:
        raise ValidationError("`inputs` cannot be empty", param="inputs")
    _check_truncate(parameters.truncate, limits)
    if parameters.truncate is None:
        fewest = tokenizer.fewest_tokens(body.inputs)
        check_prompt_length(fewest, limits, "inputs", is_counted=False)
    token_ids = await tokenizer.token_ids(body.inputs, add_special_tokens=True)
    if parameters.truncate is not None:
        token_ids = token_ids[-parameters.truncate :]
    max_new_tokens = resolve_max_new_tokens(
        parameters.max_new_tokens,
        len(token_ids),
        limits,
        field="max_new_tokens",
        prompt="inputs",
    )
    _refuse_unsupported(parameters)
    grammar = await compile_format(
        parameters.grammar, "grammar", grammars, ignore_eos=parameters.ignore_eos
    )

    prompt = Prompt(text=body.inputs, token_ids=tuple(token_ids))
    full_text = parameters.return_full_text
    start = limits.decoder_start_token_id
    return NativeGeneration(
        prompt=prompt,
        prefill_ids=prompt.token_ids if start is None else (start,),
        requests=tuple(
            _request(parameters, prompt, max_new_tokens, limits, grammar)
            for _ in range(num_candidates)
        ),
        text_before=body.inputs if (full_text_default if full_text is None else full_text) else "",
        samples=_samples(parameters),
        details=parameters.details or parameters.decoder_input_details,
        decoder_input_details=parameters.decoder_input_details,
    )


def _request(
    parameters: GenerateParameters,
    prompt: Prompt,
    max_new_tokens: int,
    limits: RequestLimits,
    grammar: str,
) -> GenerationRequest:
    return GenerationRequest(
        prompt_ids=prompt.token_ids,
        max_new_tokens=max_new_tokens,
        sampling=_sampling(parameters),
        stop_sequences=tuple(parameters.stop),
        keep_stop_sequence=True,
        ignore_eos=parameters.ignore_eos,
        top_n_tokens=parameters.top_n_tokens or 0,
        prompt_logprobs=parameters.decoder_input_details and _shows_prefill(limits),
        grammar=grammar,
    )


def _shows_prefill(limits: RequestLimits) -> bool:
    """The start token of an encoder-decoder is always told: it costs nothing to compute."""
    return limits.prefill_logprobs or limits.decoder_start_token_id is not None


def _check_parameters(
    parameters: GenerateParameters, limits: RequestLimits, *, stream: bool
) -> int:
    """Everything that needs no prompt; returns the number of candidates."""
    num_candidates = _check_best_of(parameters, limits, stream=stream)
    check_positive(parameters.temperature, "temperature")
    check_positive(parameters.repetition_penalty, "repetition_penalty")
    check_penalty(parameters.frequency_penalty, "frequency_penalty")
    _check_open_interval(parameters.top_p, "top_p")
    _check_open_interval(parameters.typical_p, "typical_p")
    check_positive(parameters.top_k, "top_k")
    check_positive(parameters.max_new_tokens, "max_new_tokens")
    check_stop_sequences(parameters.stop, limits)
    _check_seed(parameters.seed, num_candidates)
    check_top_n_tokens(parameters.top_n_tokens or 0, limits, "top_n_tokens")
    return num_candidates


def _check_best_of(parameters: GenerateParameters, limits: RequestLimits, *, stream: bool) -> int:
    best_of = 1 if parameters.best_of is None else parameters.best_of
    if stream and best_of != 1:
        raise ValidationError("`best_of` != 1 is not supported when streaming", param="best_of")
    if stream and parameters.decoder_input_details:
        raise ValidationError(
            "`decoder_input_details` == true is not supported when streaming tokens",
            param="decoder_input_details",
        )
    if not 1 <= best_of <= limits.max_best_of:
        raise ValidationError(
            f"`best_of` must be between 1 and {limits.max_best_of}. Given: {best_of}",
            param="best_of",
        )
    if best_of > 1 and not _asks_for_sampling(parameters):
        raise ValidationError(
            "you must use sampling when `best_of` is > 1: set `do_sample` or a sampling parameter",
            param="best_of",
        )
    return best_of


def _check_seed(seed: int | None, num_candidates: int) -> None:
    if seed is None:
        return
    if seed > _MAX_SEED:
        raise ValidationError(f"`seed` must be at most 2^64 - 1. Given: {seed}", param="seed")
    if num_candidates > 1:
        raise ValidationError("`seed` must not be set when `best_of` > 1", param="seed")


def _check_open_interval(value: float | None, field: str) -> None:
    if value is not None and not 0.0 < value < 1.0:
        raise ValidationError(f"`{field}` must be > 0.0 and < 1.0. Given: {value}", param=field)


def _check_truncate(truncate: int | None, limits: RequestLimits) -> None:
    if truncate is not None and not 1 <= truncate <= limits.max_input_tokens:
        raise ValidationError(
            f"`truncate` must be between 1 and {limits.max_input_tokens}. Given: {truncate}",
            param="truncate",
        )


def _refuse_unsupported(parameters: GenerateParameters) -> None:
    if parameters.adapter_id is not None:
        raise ValidationError(
            f"`adapter_id` {parameters.adapter_id!r} is not loaded on this server",
            param="adapter_id",
        )


def _asks_for_sampling(parameters: GenerateParameters) -> bool:
    """Whether a sampling parameter was given, whatever its value."""
    given = (parameters.temperature, parameters.top_k, parameters.top_p, parameters.typical_p)
    return parameters.do_sample or any(value is not None for value in given)


def _samples(parameters: GenerateParameters) -> bool:
    """Whether tokens are drawn: a temperature of 1.0 alone does not ask for it."""
    temperature = parameters.temperature
    given = (parameters.top_k, parameters.top_p, parameters.typical_p)
    return (
        parameters.do_sample
        or (temperature is not None and temperature != 1.0)
        or any(value is not None for value in given)
    )


def _sampling(parameters: GenerateParameters) -> SamplingParameters:
    return SamplingParameters(
        do_sample=_samples(parameters),
        temperature=parameters.temperature or 1.0,
        top_k=parameters.top_k or 0,
        top_p=parameters.top_p or 1.0,
        typical_p=parameters.typical_p or 1.0,
        repetition_penalty=parameters.repetition_penalty or 1.0,
        frequency_penalty=parameters.frequency_penalty or 0.0,
        watermark=parameters.watermark,
        seed=random_seed() if parameters.seed is None else parameters.seed,
    )
