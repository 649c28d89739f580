"""A generation: one sequence's tokens on their way to the client who waits for them.

Order of effects in `accept`: text, stop check, then the one call to the sink; the sink is called
before the scheduler hears of a stop, so nothing that fails there keeps blocks.
"""

from collections.abc import Sequence as ReadOnlySequence

from text_generation_router.engine.detokenizer import new_detokenizer
from text_generation_router.engine.request import (
    Finished,
    FinishReason,
    GenerationRequest,
    OutputSink,
    TokenOutput,
    TopToken,
)
from text_generation_router.engine.stop import StopChecker
from text_generation_router.engine.vocabulary import Vocabulary
from text_generation_router.scheduler.sequence import Ending, Sequence

_REASONS = {Ending.LENGTH: FinishReason.LENGTH, Ending.EOS_TOKEN: FinishReason.EOS_TOKEN}


def _text_before(request: GenerationRequest, sequence: Sequence) -> tuple[int, ...] | None:
    """Tokens that the output continues. What an encoder-decoder says begins a text and loses a
    space in front; not so under a grammar, for which that space counts.
    """
    if not sequence.encoder_ids:
        return request.prompt_ids
    return () if request.grammar else None


class Generation:
    """Owned by the engine. `sequence` is the scheduler's; here it is only read."""

    __slots__ = (
        "_detokenizer",
        "_first_token_at",
        "_has_begun",
        "_prompt_logprobs",
        "_prompt_top_tokens",
        "_special_texts",
        "_stop_checker",
        "_text_parts",
        "_vocabulary",
        "request",
        "sequence",
        "sink",
    )

    def __init__(
        self,
        request: GenerationRequest,
        sink: OutputSink,
        sequence: Sequence,
        vocabulary: Vocabulary,
    ) -> None:
        self.request = request
        self.sink = sink
        self.sequence = sequence
        self._vocabulary = vocabulary
        self._special_texts = vocabulary.special_texts
        self._detokenizer = new_detokenizer(vocabulary, _text_before(request, sequence))
        self._stop_checker = (
            StopChecker(request.stop_sequences, keep=request.keep_stop_sequence)
            if any(request.stop_sequences)
            else None
        )
        # The output so far without special tokens.
        self._text_parts: list[str] = []
        self._prompt_logprobs: list[float] | None = (
            [float("nan")] * (sequence.num_prompt_tokens - 1) if request.prompt_logprobs else None
        )
        self._prompt_top_tokens: list[list[TopToken]] = [[] for _ in self._prompt_logprobs or ()]
        self._has_begun = False
        self._first_token_at = 0.0

    def accept_prompt_logprobs(
        self,
        first_position: int,
        logprobs: ReadOnlySequence[float],
        top_tokens: ReadOnlySequence[list[TopToken]],
    ) -> None:
        """Log-probabilities of the tokens from `first_position` of the sequence on, and candidates
        for their positions if any were asked for; those that are not of the prompt do not count.
        """
        if self._prompt_logprobs is None:
            return
        for index, logprob in enumerate(logprobs, start=first_position - 1):
            if 0 <= index < len(self._prompt_logprobs):
                self._prompt_logprobs[index] = logprob
        for index, candidates in enumerate(top_tokens, start=first_position - 1):
            if 0 <= index < len(self._prompt_top_tokens):
                self._prompt_top_tokens[index] = candidates

    def accept(
        self,
        token_id: int,
        logprob: float,
        top_tokens: list[TopToken],
        ending: Ending | None,
        now: float,
    ) -> Finished | None:
        """Hand the next token to the sink; returns how the generation ended if it did (`ending` is
        what the token ids alone say).
        """
        if not self._has_begun:
            self._has_begun = True
            self._first_token_at = now
        is_special = token_id in self._special_texts
        text = self._detokenizer.push(token_id)
        reason = None if ending is None else _REASONS[ending]
        uncut = stop_sequence = None
        if self._stop_checker is None:
            if not is_special:
                self._text_parts.append(text)
        else:
            uncut = text
            text, stop_sequence = self._check_stop(self._stop_checker, text, is_special, reason)
            if stop_sequence is not None and reason is None:
                reason = FinishReason.STOP_SEQUENCE
        finished = None if reason is None else self._finished(reason, stop_sequence, now)
        output = TokenOutput(token_id, text, logprob, is_special, top_tokens, uncut)
        self.sink.token(output, finished)
        return finished

    def top_tokens(
        self, token_ids: ReadOnlySequence[int], logprobs: ReadOnlySequence[float]
    ) -> list[TopToken]:
        """The candidates of one position, with their texts."""
        return [
            TopToken(
                token_id,
                self._vocabulary.token_text(token_id),
                logprob,
                token_id in self._special_texts,
            )
            for token_id, logprob in zip(token_ids, logprobs, strict=True)
        ]

    def _check_stop(
        self, checker: StopChecker, piece: str, is_special: bool, reason: FinishReason | None
    ) -> tuple[str, str | None]:
        """Text that goes out with this token, and the stop string that it reaches. Text is never
        held back behind a special token nor at the end, so a special token's own text always goes
        out with it.
        """
        checked = checker.push(piece)
        text, num_plain = checked.text, checked.num_held_characters
        if checked.stop_sequence is None and (is_special or reason is not None):
            held = checker.release()
            # Of what was held back, all but this piece's own characters came before.
            num_plain = max(num_plain, len(text) + len(held) - len(piece))
            text += held
        self._text_parts.append(text[:num_plain] if is_special else text)
        return text, checked.stop_sequence

    def _finished(self, reason: FinishReason, stop_sequence: str | None, now: float) -> Finished:
        sequence = self.sequence
        assert sequence.first_admitted_at is not None
        return Finished(
            reason=reason,
            stop_sequence=stop_sequence if reason is FinishReason.STOP_SEQUENCE else None,
            generated_text="".join(self._text_parts),
            num_prompt_tokens=sequence.num_input_tokens,
            num_cached_tokens=sequence.num_cached_tokens,
            num_generated_tokens=sequence.num_emitted_tokens,
            prompt_logprobs=self._prompt_logprobs,
            prompt_top_tokens=self._prompt_top_tokens,
            queue_time=sequence.first_admitted_at - sequence.arrived_at,
            inference_time=now - sequence.first_admitted_at,
            time_to_first_token=self._first_token_at - sequence.arrived_at,
        )
