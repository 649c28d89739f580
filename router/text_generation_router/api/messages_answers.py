"""Anthropic's Messages dialect: from tokens to answers and named stream events.

Whole answers are put together from the same deltas that a stream sends.
"""

import secrets
from collections.abc import Mapping
from typing import Any

import msgspec

from text_generation_router.api.chat import ChatGeneration
from text_generation_router.api.chat_content import AnswerDelta, ChatContentReader
from text_generation_router.api.generation import FinishedGeneration
from text_generation_router.api.messages_types import (
    AnswerBlock,
    ContentBlockDelta,
    ContentBlockStart,
    ContentBlockStop,
    InputJsonDelta,
    MessageDelta,
    MessageEvent,
    MessagesAnswer,
    MessageStart,
    MessageStop,
    MessagesUsage,
    Ping,
    SignatureDelta,
    StopDelta,
    TextBlock,
    TextDelta,
    ThinkingBlock,
    ThinkingDelta,
    ToolUseBlock,
)
from text_generation_router.api.openai_answers import AnswerIdentity
from text_generation_router.engine.request import Finished, FinishReason, TokenOutput
from text_generation_router.prompt.call_reader import CallPiece

_STOP_REASONS = {
    FinishReason.LENGTH: "max_tokens",
    FinishReason.EOS_TOKEN: "end_turn",
    FinishReason.STOP_SEQUENCE: "stop_sequence",
}


def build_answer(
    wanted: ChatGeneration,
    identity: AnswerIdentity,
    generation: FinishedGeneration,
    special_texts: Mapping[int, str],
) -> MessagesAnswer:
    """The answer to an unstreamed request; at least one block of text or a call."""
    reader = ChatContentReader(wanted, special_texts)
    last = len(generation.tokens) - 1
    content: list[AnswerBlock] = []
    for i, output in enumerate(generation.tokens):
        _extend(content, reader.read(output, is_last=i == last))
    for block in content:
        if isinstance(block, ToolUseBlock):
            block.input = _input_object(block.input)
    stop = _stop(generation.end, reader)
    return MessagesAnswer(
        id=identity.id,
        model=identity.model,
        content=content or [TextBlock("")],
        stop_reason=stop.stop_reason,
        stop_sequence=stop.stop_sequence,
        usage=_usage(generation.end),
    )


def encode_start(wanted: ChatGeneration, identity: AnswerIdentity) -> bytes:
    """The events before the first token."""
    message = MessagesAnswer(
        id=identity.id,
        model=identity.model,
        content=[],
        stop_reason=None,
        stop_sequence=None,
        usage=MessagesUsage(input_tokens=len(wanted.prompt.token_ids), output_tokens=0),
    )
    return _encode([MessageStart(message), Ping()])


class MessagesStreamEncoder:
    """Turns the tokens of the answer into its events, framed with their names."""

    def __init__(self, wanted: ChatGeneration, special_texts: Mapping[int, str]) -> None:
        self._reader = ChatContentReader(wanted, special_texts)
        self._num_blocks = 0
        # The kind of the block that may still grow.
        self._open_kind: type[AnswerBlock] | None = None

    def token(self, output: TokenOutput, finished: Finished | None) -> bytes | None:
        """The events of one token; None if there is nothing to tell yet."""
        read = self._reader.read(output, is_last=finished is not None)
        events: list[MessageEvent] = []
        if read.reasoning:
            self._ensure_open(ThinkingBlock(""), events)
            delta = ThinkingDelta(read.reasoning)
            events.append(ContentBlockDelta(self._num_blocks - 1, delta))
        for part in read.parts:
            if isinstance(part, CallPiece):
                self._call(part, events)
            else:
                self._ensure_open(TextBlock(""), events)
                events.append(ContentBlockDelta(self._num_blocks - 1, TextDelta(part.text)))
        if finished is not None:
            if not self._num_blocks:
                self._ensure_open(TextBlock(""), events)
            self._close(events)
            stop = _stop(finished, self._reader)
            events += [MessageDelta(stop, _usage(finished)), MessageStop()]
        return _encode(events) if events else None

    def _ensure_open(self, empty: TextBlock | ThinkingBlock, events: list[MessageEvent]) -> None:
        if self._open_kind is not type(empty):
            self._close(events)
            self._open(empty, events)
            self._open_kind = type(empty)

    def _call(self, piece: CallPiece, events: list[MessageEvent]) -> None:
        if piece.name:
            self._close(events)
            self._open(ToolUseBlock(_new_id(), piece.name, msgspec.Raw(b"{}")), events)
            self._open_kind = ToolUseBlock
        events.append(ContentBlockDelta(self._num_blocks - 1, InputJsonDelta(piece.arguments)))
        if piece.is_last:
            self._close(events)

    def _open(self, block: AnswerBlock, events: list[MessageEvent]) -> None:
        events.append(ContentBlockStart(self._num_blocks, block))
        self._num_blocks += 1

    def _close(self, events: list[MessageEvent]) -> None:
        if self._open_kind is ThinkingBlock:
            events.append(ContentBlockDelta(self._num_blocks - 1, SignatureDelta()))
        if self._open_kind is not None:
            events.append(ContentBlockStop(self._num_blocks - 1))
            self._open_kind = None


def _extend(content: list[AnswerBlock], read: AnswerDelta) -> None:
    """Reasoning and text go on in the last block of their kind, as they do in a stream."""
    if read.reasoning:
        before = content[-1] if content else None
        if isinstance(before, ThinkingBlock):
            before.thinking += read.reasoning
        else:
            content.append(ThinkingBlock(read.reasoning))
    for part in read.parts:
        last = content[-1] if content else None
        if isinstance(part, CallPiece):
            if part.name or not isinstance(last, ToolUseBlock):
                last = ToolUseBlock(_new_id(), part.name, msgspec.Raw())
                content.append(last)
            last.input = msgspec.Raw(bytes(last.input) + part.arguments.encode())
        elif isinstance(last, TextBlock):
            last.text += part.text
        else:
            content.append(TextBlock(part.text))


def _input_object(written: msgspec.Raw) -> msgspec.Raw:
    """The input of a call; what is no whole object is shown in one, as Anthropic advises it."""
    try:
        msgspec.json.decode(written, type=dict[str, Any])
    except (msgspec.MsgspecError, UnicodeError):
        text = bytes(written).decode()
        return msgspec.Raw(msgspec.json.encode({"INVALID_JSON": text}))
    return written


def _stop(finished: Finished, reader: ChatContentReader) -> StopDelta:
    if reader.has_calls and finished.reason is not FinishReason.LENGTH:
        return StopDelta("tool_use", None)
    return StopDelta(_STOP_REASONS[finished.reason], finished.stop_sequence)


def _usage(finished: Finished) -> MessagesUsage:
    return MessagesUsage(
        input_tokens=finished.num_prompt_tokens - finished.num_cached_tokens,
        cache_read_input_tokens=finished.num_cached_tokens,
        output_tokens=finished.num_generated_tokens,
    )


def _encode(events: list[MessageEvent]) -> bytes:
    return b"".join(
        b"event: %b\ndata: %b\n\n"
        % (str(event.__struct_config__.tag).encode(), msgspec.json.encode(event))
        for event in events
    )


def _new_id() -> str:
    return f"toolu_{secrets.token_hex(12)}"
