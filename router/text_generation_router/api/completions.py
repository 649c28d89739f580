"""OpenAI's completions dialect: from `CompletionBody` to generation requests."""

from dataclasses import dataclass
from functools import partial

import msgspec

from text_generation_router.api.completion_types import CompletionBody
from text_generation_router.api.echoed_prompt import check_echo, echoed_ids, echoed_text
from text_generation_router.api.errors import BatchSizeError, SuffixError, ValidationError
from text_generation_router.api.generation import Prompt
from text_generation_router.api.grammars import asked_grammar, compile_asked
from text_generation_router.api.limits import (
    RequestLimits,
    check_positive,
    check_prompt_length,
    check_top_n_tokens,
    resolve_max_new_tokens,
)
from text_generation_router.api.openai_sampling import (
    choice_samplings,
    stop_sequences,
    stop_token_ids,
)
from text_generation_router.engine.request import GenerationRequest, SamplingParameters
from text_generation_router.grammar.compiler import GrammarCompiler
from text_generation_router.prompt.tokenizer import TokenizerPool


@dataclass(frozen=True, kw_only=True)
class CompletionGeneration:
    """A validated request: request i belongs to prompt i // candidates_per_prompt, choice i to
    prompt i // choices_per_prompt.
    """

    prompts: tuple[Prompt, ...]
    requests: tuple[GenerationRequest, ...]
    # `n`, and `best_of`: of so many generations the `n` most likely ones are the choices.
    choices_per_prompt: int
    candidates_per_prompt: int
    # Put the prompt before its completion.
    echo: bool
    # How many candidates per token `logprobs` lists; None for no `logprobs`. Together with `echo`
    # the prompts are `EchoedPrompt`s.
    logprobs: int | None
    # `max_tokens` is 0; one token is generated all the same.
    drops_output: bool

    def text_before(self, choice: int) -> str:
        """What a choice's text begins with."""
        return self.prompt_of(choice).text if self.echo else ""

    def prompt_of(self, choice: int) -> Prompt:
        """What a choice completes."""
        return self.prompts[choice // self.choices_per_prompt]


async def prepare(
    body: CompletionBody,
    *,
    limits: RequestLimits,
    tokenizer: TokenizerPool,
    grammars: GrammarCompiler,
) -> CompletionGeneration:
    """Validate a request; a `RequestError` says what is wrong with it."""
    given = _prompts(body)
    if len(given) > limits.max_client_batch_size:
        raise BatchSizeError(
            f"`prompt` supports up to {limits.max_client_batch_size} prompts. Given: {len(given)}",
            param="prompt",
        )
    _check_places(body, limits)
    samplings = _candidate_samplings(body, limits)
    stop = stop_sequences(body, limits)
    end_tokens = stop_token_ids(body, limits)
    top_n_tokens = body.logprobs or 0
    check_top_n_tokens(top_n_tokens, limits, "logprobs")
    # Harnesses that ask how likely a prompt is want no output: one token, which is left out then.
    drops_output = body.max_tokens == 0 and bool(body.echo)
    asked_tokens = 1 if drops_output else body.max_tokens
    check_positive(asked_tokens, "max_tokens")
    scores_prompt = bool(body.echo) and body.logprobs is not None

    tokenize = partial(_tokenize, limits=limits, tokenizer=tokenizer, with_places=scores_prompt)
    prompts = tuple([await tokenize(prompt) for prompt in given])
    grammar = await compile_asked(asked_grammar(body), grammars, ignore_eos=bool(body.ignore_eos))
    requests: list[GenerationRequest] = []
    for prompt in prompts:
        max_new_tokens = resolve_max_new_tokens(
            asked_tokens, len(prompt.token_ids), limits, field="max_tokens", prompt="prompt"
        )
        requests += [
            GenerationRequest(
                prompt_ids=prompt.token_ids,
                max_new_tokens=max_new_tokens,
                sampling=sampling,
                stop_sequences=stop,
                keep_stop_sequence=bool(body.include_stop_str_in_output),
                ignore_eos=bool(body.ignore_eos),
                stop_token_ids=end_tokens,
                top_n_tokens=top_n_tokens,
                prompt_logprobs=scores_prompt,
                grammar=grammar,
            )
            for sampling in samplings
        ]
    return CompletionGeneration(
        prompts=prompts,
        requests=tuple(requests),
        choices_per_prompt=body.n or 1,
        candidates_per_prompt=len(samplings),
        echo=bool(body.echo),
        logprobs=body.logprobs,
        drops_output=drops_output,
    )


def _prompts(body: CompletionBody) -> list[str | list[int]]:
    """The prompts, each as text or as token ids."""
    if isinstance(body.prompt, str):
        return [body.prompt]
    texts = [entry for entry in body.prompt if isinstance(entry, str)]
    ids = [entry for entry in body.prompt if isinstance(entry, int)]
    id_lists = [entry for entry in body.prompt if isinstance(entry, list)]
    if not body.prompt:
        raise ValidationError("`prompt` cannot be empty", param="prompt")
    if len(body.prompt) not in (len(texts), len(ids), len(id_lists)):
        raise ValidationError("`prompt` mixes texts and token ids", param="prompt")
    return [ids] if ids else [*texts, *id_lists]


def _check_places(body: CompletionBody, limits: RequestLimits) -> None:
    """What may stand before and behind a completion."""
    if body.suffix:
        raise SuffixError("`suffix` is not supported by this server", param="suffix")
    if body.echo:
        check_echo(body, limits)


def _candidate_samplings(body: CompletionBody, limits: RequestLimits) -> list[SamplingParameters]:
    """One for each of `best_of` candidates, or of `n` choices where they are the same."""
    num_choices = len(choice_samplings(body, limits))
    best_of = num_choices if body.best_of is None else body.best_of
    highest = max(num_choices, min(limits.max_best_of, limits.max_client_batch_size))
    if not num_choices <= best_of <= highest:
        raise ValidationError(
            f"`best_of` must be between `n` ({num_choices}) and {highest}. Given: {best_of}",
            param="best_of",
        )
    if body.stream and best_of > num_choices:
        raise ValidationError(
            "`best_of` greater than `n` is not supported when streaming", param="best_of"
        )
    return choice_samplings(msgspec.structs.replace(body, n=best_of), limits)


async def _tokenize(
    prompt: str | list[int], *, limits: RequestLimits, tokenizer: TokenizerPool, with_places: bool
) -> Prompt:
    """with_places: whether an `EchoedPrompt` is wanted, which knows its tokens' places."""
    if not prompt:
        raise ValidationError("`prompt` cannot be empty", param="prompt")
    if isinstance(prompt, str):
        check_prompt_length(tokenizer.fewest_tokens(prompt), limits, "prompt", is_counted=False)
        if with_places:
            return await echoed_text(prompt, tokenizer)
        token_ids = await tokenizer.token_ids(prompt, add_special_tokens=True)
        return Prompt(text=prompt, token_ids=tuple(token_ids))
    check_prompt_length(len(prompt), limits, "prompt")
    unknown = next((token_id for token_id in prompt if token_id >= limits.vocab_size), None)
    if unknown is not None:
        raise ValidationError(
            f"`prompt` has the token id {unknown}; ids lie below {limits.vocab_size}",
            param="prompt",
        )
    if with_places:
        return await echoed_ids(prompt, tokenizer)
    return Prompt(text=tokenizer.text(prompt), token_ids=tuple(prompt))
