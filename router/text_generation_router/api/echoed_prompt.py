"""A prompt among the `logprobs` of its completion: `echo` together with `logprobs`, by which
evaluation harnesses ask how likely a given text is.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise

from text_generation_router.api.completion_types import CompletionBody
from text_generation_router.api.errors import ValidationError
from text_generation_router.api.generation import Prompt
from text_generation_router.api.limits import RequestLimits
from text_generation_router.prompt.tokenizer import TokenizerPool, TokenSpan


@dataclass(frozen=True, kw_only=True)
class EchoedPrompt(Prompt):
    """A prompt and the place of each of its tokens in its text."""

    token_texts: tuple[str, ...]
    # In characters. A special token that was added to the text takes no room in it.
    offsets: tuple[int, ...]


def check_echo(body: CompletionBody, limits: RequestLimits) -> None:
    """Whether the prompt can be shown as the request wants it."""
    if body.max_tokens == 0 and body.stream:
        raise ValidationError(
            "`max_tokens` of 0 is not supported when streaming", param="max_tokens"
        )
    if body.logprobs is None:
        return
    if body.stream:
        raise ValidationError(
            "`echo` together with `logprobs` is not supported when streaming", param="echo"
        )
    if limits.decoder_start_token_id is not None:
        raise ValidationError(
            "`echo` together with `logprobs` is not supported by this model: its encoder reads the "
            "prompt, which has no log-probabilities",
            param="echo",
        )
    if not limits.prefill_logprobs:
        raise ValidationError(
            "`echo` together with `logprobs` needs a server with --enable-prefill-logprobs",
            param="echo",
        )


async def echoed_text(text: str, tokenizer: TokenizerPool) -> EchoedPrompt:
    """A prompt that came as a text."""
    spans = await tokenizer.spans(text, add_special_tokens=True)
    pieces = _pieces(text, spans)
    return EchoedPrompt(
        text=text,
        token_ids=tuple(span.token_id for span in spans),
        token_texts=tuple(
            piece or tokenizer.special_texts.get(span.token_id, "")
            for piece, span in zip(pieces, spans, strict=True)
        ),
        offsets=_offsets(pieces),
    )


async def echoed_ids(token_ids: Sequence[int], tokenizer: TokenizerPool) -> EchoedPrompt:
    """A prompt that came as token ids."""
    pieces = await tokenizer.pieces(token_ids)
    return EchoedPrompt(
        text=tokenizer.text(token_ids),
        token_ids=tuple(token_ids),
        token_texts=tuple(pieces),
        offsets=_offsets(pieces),
    )


def _pieces(text: str, spans: Sequence[TokenSpan]) -> list[str]:
    """The text cut behind every token. Some tokenizers leave out the space before a word, or give
    each token of a character that character's whole span.
    """
    encoded = text.encode()
    stops = list(accumulate((span.stop for span in spans), max, initial=0))
    return [encoded[start:stop].decode() for start, stop in pairwise(stops)]


def _offsets(pieces: Sequence[str]) -> tuple[int, ...]:
    return tuple(accumulate((len(piece) for piece in pieces[:-1]), initial=0))
