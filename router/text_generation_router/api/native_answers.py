"""TGI's own dialect: from tokens to answers and stream events."""

from collections.abc import Callable, Sequence

import msgspec
from msgspec import UNSET, UnsetType

from text_generation_router.api.generation import FinishedGeneration
from text_generation_router.api.native import NativeGeneration
from text_generation_router.api.native_types import (
    BestOfSequence,
    Details,
    GenerateAnswer,
    PrefillToken,
    StreamDetails,
    StreamEvent,
    Token,
)
from text_generation_router.api.numbers import shortest_float32
from text_generation_router.engine.request import Finished, TokenOutput, TopToken


def best_candidate(generations: Sequence[FinishedGeneration]) -> int:
    """The index of the candidate with the highest mean log-probability; the first of equals."""
    if len(generations) == 1:
        return 0
    return max(range(len(generations)), key=lambda i: generations[i].mean_logprob)


def build_answer(
    wanted: NativeGeneration,
    generations: Sequence[FinishedGeneration],
    best: int,
    token_text: Callable[[int], str],
) -> GenerateAnswer:
    """The answer to an unstreamed request; `token_text` tells the text of one token id."""
    text = wanted.text_before + generations[best].end.generated_text
    if not wanted.details:
        return GenerateAnswer(text)
    generation = generations[best]
    return GenerateAnswer(
        text,
        Details(
            finish_reason=generation.end.reason.value,
            generated_tokens=generation.end.num_generated_tokens,
            seed=wanted.seed(best),
            prefill=_prefill(wanted, generation, token_text),
            tokens=[_token(output) for output in generation.tokens],
            best_of_sequences=[
                _other_candidate(wanted, generations[i], i, token_text)
                for i in range(len(generations))
                if i != best
            ]
            or UNSET,
            top_tokens=_all_top_tokens(wanted, generation),
        ),
    )


class NativeStreamEncoder:
    """Turns the tokens of one stream into the JSON of its events."""

    def __init__(self, wanted: NativeGeneration) -> None:
        self._wanted = wanted
        self._encoder = msgspec.json.Encoder()
        self._num_tokens = 0

    def token(self, output: TokenOutput, finished: Finished | None) -> bytes:
        """The event of one token."""
        self._num_tokens += 1
        event = StreamEvent(
            self._num_tokens,
            _token(output),
            [_token(top) for top in output.top_tokens] if output.top_tokens else UNSET,
            None,
            None,
        )
        if finished is not None:
            event.generated_text = self._wanted.text_before + finished.generated_text
            if self._wanted.details:
                event.details = self._details(finished)
        return self._encoder.encode(event)

    def _details(self, finished: Finished) -> StreamDetails:
        return StreamDetails(
            finished.reason.value,
            finished.num_generated_tokens,
            self._wanted.seed(0),
            finished.num_prompt_tokens,
        )


def _other_candidate(
    wanted: NativeGeneration,
    generation: FinishedGeneration,
    index: int,
    token_text: Callable[[int], str],
) -> BestOfSequence:
    return BestOfSequence(
        generated_text=wanted.text_before + generation.end.generated_text,
        finish_reason=generation.end.reason.value,
        generated_tokens=generation.end.num_generated_tokens,
        seed=wanted.seed(index),
        prefill=_prefill(wanted, generation, token_text),
        tokens=[_token(output) for output in generation.tokens],
        top_tokens=_all_top_tokens(wanted, generation),
    )


def _prefill(
    wanted: NativeGeneration, generation: FinishedGeneration, token_text: Callable[[int], str]
) -> list[PrefillToken]:
    """The prompt's tokens, if their log-probabilities were asked for and computed."""
    logprobs = generation.end.prompt_logprobs
    if logprobs is None:
        return []
    values = [None, *(shortest_float32(value) for value in logprobs)]
    return [
        PrefillToken(token_id, token_text(token_id), value)
        for token_id, value in zip(wanted.prefill_ids, values, strict=True)
    ]


def _all_top_tokens(
    wanted: NativeGeneration, generation: FinishedGeneration
) -> list[list[Token]] | UnsetType:
    if not wanted.requests[0].top_n_tokens:
        return UNSET
    return [[_token(top) for top in output.top_tokens] for output in generation.tokens]


def _token(output: TokenOutput | TopToken) -> Token:
    return Token(output.token_id, output.text, shortest_float32(output.logprob), output.special)
