"""OpenAI's chat dialect: from tokens to answers and stream chunks."""

import secrets
from collections.abc import Mapping, Sequence
from functools import partial

import msgspec
from msgspec import UNSET

from text_generation_router.api.chat import ChatGeneration
from text_generation_router.api.chat_content import AnswerDelta, ChatContentReader
from text_generation_router.api.chat_types import (
    AnswerMessage,
    AnswerToolCall,
    CalledFunction,
    ChatAnswer,
    ChatChoice,
    ChatChunk,
    ChoiceLogprobs,
    ChunkChoice,
    CustomCall,
    Delta,
    DeltaCustom,
    DeltaFunction,
    DeltaToolCall,
    TokenLogprob,
    TopLogprob,
)
from text_generation_router.api.chunk_template import ChunkTemplate
from text_generation_router.api.generation import FinishedGeneration
from text_generation_router.api.numbers import shortest_float32
from text_generation_router.api.openai_answers import AnswerIdentity, finish_reason, usage
from text_generation_router.api.openai_types import CompletionTokensDetails, Usage
from text_generation_router.engine.request import Finished, TokenOutput
from text_generation_router.prompt.call_reader import CallPiece, whole_calls


def build_answer(
    wanted: ChatGeneration,
    identity: AnswerIdentity,
    generations: Sequence[FinishedGeneration],
    special_texts: Mapping[int, str],
) -> ChatAnswer:
    """The answer to an unstreamed request."""
    readers = [ChatContentReader(wanted, special_texts) for _ in generations]
    return ChatAnswer(
        id=identity.id,
        created=identity.created,
        model=identity.model,
        system_fingerprint=identity.system_fingerprint,
        choices=[
            _choice(wanted, i, generation, reader)
            for i, (generation, reader) in enumerate(zip(generations, readers, strict=True))
        ],
        usage=_usage(wanted, [generation.end for generation in generations], readers),
    )


class ChatStreamEncoder:
    """Turns the tokens of one choice into the JSON of its chunks.

    Plain text takes the fast path; the first chunk, the last, and whatever has log-probabilities or
    tool calls is encoded as a whole.
    """

    __slots__ = (
        "_encoder",
        "_has_begun",
        "_holds_back",
        "_identity",
        "_index",
        "_is_custom",
        "_is_plain",
        "_num_calls",
        "_template",
        "_wanted",
        "reader",
    )

    def __init__(
        self,
        wanted: ChatGeneration,
        identity: AnswerIdentity,
        index: int,
        special_texts: Mapping[int, str],
    ) -> None:
        self._wanted = wanted
        self._identity = identity
        self._index = index
        self.reader = ChatContentReader(wanted, special_texts)
        self._encoder = msgspec.json.Encoder()
        self._template = ChunkTemplate(partial(self._text_chunk))
        self._holds_back = (
            wanted.tool_format is not None or wanted.reasoning is not None or wanted.has_recipients
        )
        self._is_plain = not (self._holds_back or wanted.logprobs)
        self._has_begun = False
        self._num_calls = 0
        # Whether the last call is one of a custom tool.
        self._is_custom = False

    def token(self, output: TokenOutput, finished: Finished | None) -> bytes | None:
        """The chunk of one token; None if there is nothing to tell yet."""
        is_first, self._has_begun = not self._has_begun, True
        if self._is_plain and not (is_first or finished is not None or output.special):
            return self._template.splice(output.text)
        read = self.reader.read(output, is_last=finished is not None)
        if self._holds_back and not self._tells(read, finished, is_first):
            return None
        delta = self._delta(read)
        if is_first:
            delta.role = "assistant"
        choice = ChunkChoice(self._index, delta)
        if self._wanted.logprobs:
            choice.logprobs = ChoiceLogprobs([token_logprob(output, self._wanted.top_logprobs)])
        if finished is not None:
            choice.finish_reason = _finish_reason(finished, self.reader)
        return self._encoder.encode(_chunk(self._identity, choice))

    def _tells(self, read: AnswerDelta, finished: Finished | None, is_first: bool) -> bool:
        """Whether a chunk has anything in it; with marks to find, much text is held back."""
        has_news = bool(read.reasoning or read.text or read.calls or self._wanted.logprobs)
        return has_news or is_first or finished is not None

    def _delta(self, read: AnswerDelta) -> Delta:
        calls = [self._call(piece) for piece in read.calls]
        # A message that only calls tools has no text, not an empty one.
        has_text = bool(read.text) or not (self._num_calls or read.reasoning)
        return Delta(
            content=read.text if has_text else UNSET,
            reasoning_content=read.reasoning or UNSET,
            reasoning=read.reasoning or UNSET,
            tool_calls=calls or UNSET,
        )

    def _call(self, piece: CallPiece) -> DeltaToolCall:
        self._num_calls += bool(piece.name)
        call_id = _new_call_id() if piece.name else ""
        if piece.name:
            self._is_custom = piece.name in self._wanted.custom_tools
        if self._is_custom:
            custom = DeltaCustom(piece.name or None, piece.arguments)
            return DeltaToolCall(self._num_calls - 1, call_id, "custom", custom=custom)
        function = DeltaFunction(piece.name or None, piece.arguments)
        return DeltaToolCall(self._num_calls - 1, call_id, "function", function)

    def _text_chunk(self, text: str) -> ChatChunk:
        return _chunk(self._identity, ChunkChoice(self._index, Delta(content=text)))


def encode_usage_chunk(
    wanted: ChatGeneration,
    identity: AnswerIdentity,
    encoders: Sequence[ChatStreamEncoder],
    ends: Sequence[Finished],
) -> bytes:
    """The chunk that `stream_options.include_usage` asks for, of streams that have ended."""
    chunk = _chunk(identity, None)
    chunk.usage = _usage(wanted, ends, [encoder.reader for encoder in encoders])
    return msgspec.json.encode(chunk)


def _usage(
    wanted: ChatGeneration, ends: Sequence[Finished], readers: Sequence[ChatContentReader]
) -> Usage:
    total = usage(ends, choices_per_prompt=len(ends))
    if wanted.reasoning is not None:
        count = sum(reader.num_reasoning_tokens for reader in readers)
        total.completion_tokens_details = CompletionTokensDetails(count)
    return total


def _chunk(identity: AnswerIdentity, choice: ChunkChoice | None) -> ChatChunk:
    return ChatChunk(
        id=identity.id,
        created=identity.created,
        model=identity.model,
        system_fingerprint=identity.system_fingerprint,
        choices=[] if choice is None else [choice],
    )


def _choice(
    wanted: ChatGeneration,
    index: int,
    generation: FinishedGeneration,
    reader: ChatContentReader,
) -> ChatChoice:
    last = len(generation.tokens) - 1
    deltas = [reader.read(output, is_last=i == last) for i, output in enumerate(generation.tokens)]
    text = "".join(delta.text for delta in deltas)
    reasoning = "".join(delta.reasoning for delta in deltas)
    calls = [
        _answer_call(call, is_custom=call.name in wanted.custom_tools)
        for call in whole_calls(piece for delta in deltas for piece in delta.calls)
    ]
    return ChatChoice(
        index,
        AnswerMessage(
            role="assistant",
            content=text if text or not calls else None,
            tool_calls=calls or UNSET,
            reasoning_content=reasoning or UNSET,
            reasoning=reasoning or UNSET,
        ),
        ChoiceLogprobs([token_logprob(output, wanted.top_logprobs) for output in generation.tokens])
        if wanted.logprobs
        else None,
        _finish_reason(generation.end, reader),
    )


def _answer_call(call: CallPiece, *, is_custom: bool) -> AnswerToolCall:
    if is_custom:
        custom = CustomCall(name=call.name, input=call.arguments)
        return AnswerToolCall(_new_call_id(), "custom", custom=custom)
    return AnswerToolCall(_new_call_id(), "function", CalledFunction(call.name, call.arguments))


def _finish_reason(finished: Finished, reader: ChatContentReader) -> str:
    reason = finish_reason(finished.reason)
    return "tool_calls" if reason == "stop" and reader.has_calls else reason


def _new_call_id() -> str:
    """Nine digits: unique enough to match answers to calls, a number for TGI's own client, and
    nine letters or digits for templates that insist on it (Mistral's).
    """
    return f"{secrets.randbelow(10**9):09d}"


def token_logprob(output: TokenOutput, num_top: int) -> TokenLogprob:
    """A token and the `num_top` most likely ones, whether it is one of these or not."""
    return TokenLogprob(
        output.own_text,
        shortest_float32(output.logprob),
        list(output.own_text.encode()),
        [
            TopLogprob(top.text, shortest_float32(top.logprob), list(top.text.encode()))
            for top in output.top_tokens[:num_top]
        ],
    )
