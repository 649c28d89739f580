"""OpenAI's completions dialect: from tokens to answers and stream chunks.

In a stream the last chunk of a choice carries the usage of its prompt, as TGI's does; with
`stream_options.include_usage` one more chunk at the end carries the sum instead, as OpenAI's does.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import accumulate

import msgspec

from text_generation_router.api.chunk_template import ChunkTemplate
from text_generation_router.api.completion_types import (
    CompletionAnswer,
    CompletionChoice,
    CompletionChunk,
    CompletionLogprobs,
)
from text_generation_router.api.completions import CompletionGeneration
from text_generation_router.api.echoed_prompt import EchoedPrompt
from text_generation_router.api.generation import FinishedGeneration
from text_generation_router.api.numbers import shortest_float32
from text_generation_router.api.openai_answers import AnswerIdentity, finish_reason, usage
from text_generation_router.api.visible_text import own_visible_text, visible_text
from text_generation_router.engine.request import Finished, FinishReason, TokenOutput, TopToken


def build_answer(
    wanted: CompletionGeneration,
    identity: AnswerIdentity,
    generations: Sequence[FinishedGeneration],
    special_texts: Mapping[int, str],
) -> CompletionAnswer:
    """The answer to an unstreamed request; choices are in the order of the prompts."""
    return CompletionAnswer(
        id=identity.id,
        created=identity.created,
        model=identity.model,
        system_fingerprint=identity.system_fingerprint,
        choices=[
            _choice(wanted, i, generation, special_texts)
            for i, generation in enumerate(_chosen(wanted, generations))
        ],
        usage=usage(
            [generation.end for generation in generations],
            choices_per_prompt=wanted.candidates_per_prompt,
        ),
    )


def without_output(generation: FinishedGeneration) -> FinishedGeneration:
    """What is left of a generation whose request wanted no token."""
    return FinishedGeneration(
        [],
        replace(
            generation.end,
            reason=FinishReason.LENGTH,
            generated_text="",
            num_generated_tokens=0,
        ),
    )


class CompletionStreamEncoder:
    """Turns the tokens of one choice into the JSON of its chunks, one for every token."""

    def __init__(
        self,
        wanted: CompletionGeneration,
        identity: AnswerIdentity,
        index: int,
        special_texts: Mapping[int, str],
        *,
        usage_in_last: bool,
    ) -> None:
        self._identity = identity
        self._index = index
        self._special_texts = special_texts
        self._usage_in_last = usage_in_last
        self._encoder = msgspec.json.Encoder()
        self._template = ChunkTemplate(partial(self._text_chunk))
        self._text_before = wanted.text_before(index)
        self._logprobs = wanted.logprobs
        self._offset = 0

    def token(self, output: TokenOutput, finished: Finished | None) -> bytes:
        """The chunk of one token."""
        visible = visible_text(output, self._special_texts)
        text = self._text_before + visible
        self._text_before = ""
        if finished is None and self._logprobs is None:
            return self._template.splice(text)
        chunk = self._text_chunk(text)
        if self._logprobs is not None:
            chunk.choices[0].logprobs = _logprobs([output], [self._offset], self._logprobs)
            self._offset += len(own_visible_text(output, self._special_texts))
        if finished is not None:
            chunk.choices[0].finish_reason = finish_reason(finished.reason)
            if self._usage_in_last:
                chunk.usage = usage([finished], choices_per_prompt=1)
        return self._encoder.encode(chunk)

    def _text_chunk(self, text: str) -> CompletionChunk:
        return _chunk(self._identity, [CompletionChoice(self._index, text)])


def encode_usage_chunk(
    wanted: CompletionGeneration, identity: AnswerIdentity, ends: Sequence[Finished]
) -> bytes:
    """The chunk that `stream_options.include_usage` asks for."""
    chunk = _chunk(identity, [])
    chunk.usage = usage(ends, choices_per_prompt=wanted.choices_per_prompt)
    return msgspec.json.encode(chunk)


def _chunk(identity: AnswerIdentity, choices: list[CompletionChoice]) -> CompletionChunk:
    return CompletionChunk(
        id=identity.id,
        created=identity.created,
        choices=choices,
        model=identity.model,
        system_fingerprint=identity.system_fingerprint,
    )


def _chosen(
    wanted: CompletionGeneration, generations: Sequence[FinishedGeneration]
) -> Sequence[FinishedGeneration]:
    """Of each prompt's candidates those with the highest mean log-probability, the best first."""
    if wanted.candidates_per_prompt == wanted.choices_per_prompt:
        return generations
    chosen: list[FinishedGeneration] = []
    for start in range(0, len(generations), wanted.candidates_per_prompt):
        candidates = generations[start : start + wanted.candidates_per_prompt]
        ranked = sorted(candidates, key=lambda candidate: candidate.mean_logprob, reverse=True)
        chosen += ranked[: wanted.choices_per_prompt]
    return chosen


def _choice(
    wanted: CompletionGeneration,
    index: int,
    generation: FinishedGeneration,
    special_texts: Mapping[int, str],
) -> CompletionChoice:
    pieces = [visible_text(output, special_texts) for output in generation.tokens]
    before = wanted.text_before(index)
    logprobs = None
    if wanted.logprobs is not None:
        lengths = [len(own_visible_text(token, special_texts)) for token in generation.tokens]
        offsets = list(accumulate(lengths[:-1], initial=len(before))) if lengths else []
        logprobs = _logprobs(generation.tokens, offsets, wanted.logprobs)
        prompt = wanted.prompt_of(index)
        if isinstance(prompt, EchoedPrompt):
            logprobs = _behind_prompt(prompt, generation.end, logprobs, wanted.logprobs)
    text = before + "".join(pieces)
    return CompletionChoice(index, text, logprobs, finish_reason(generation.end.reason))


def _logprobs(
    tokens: Sequence[TokenOutput], offsets: list[int], num_top: int
) -> CompletionLogprobs:
    return CompletionLogprobs(
        [output.own_text for output in tokens],
        [shortest_float32(output.logprob) for output in tokens],
        [
            _top_logprobs(output.top_tokens, num_top, output.own_text, output.logprob)
            for output in tokens
        ]
        if num_top
        else None,
        offsets,
    )


def _behind_prompt(
    prompt: EchoedPrompt, end: Finished, output: CompletionLogprobs, num_top: int
) -> CompletionLogprobs:
    """The output's `logprobs` with the prompt's in front; nothing is said of the first token."""
    assert end.prompt_logprobs is not None
    told = zip(end.prompt_top_tokens, prompt.token_texts[1:], end.prompt_logprobs, strict=False)
    return CompletionLogprobs(
        [*prompt.token_texts, *output.tokens],
        [None, *map(shortest_float32, end.prompt_logprobs), *output.token_logprobs],
        None
        if output.top_logprobs is None
        else [
            None,
            *(_top_logprobs(top, num_top, text, logprob) for top, text, logprob in told),
            *output.top_logprobs,
        ],
        [*prompt.offsets, *output.text_offset],
    )


def _top_logprobs(
    candidates: Sequence[TopToken], num_top: int, text: str, logprob: float
) -> dict[str, float]:
    """The `num_top` most likely tokens, and the one that stands there if it is none of them.

    Of those with the same text (parts of characters have none) the most likely counts.
    """
    found: dict[str, float] = {}
    for top in candidates[:num_top]:
        found.setdefault(top.text, shortest_float32(top.logprob))
    found.setdefault(text, shortest_float32(logprob))
    return found
