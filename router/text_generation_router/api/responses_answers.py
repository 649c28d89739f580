"""OpenAI's Responses dialect: from tokens to answers and named stream events.

One object writes both: a whole answer is what a stream's last event has.
"""

import secrets
from collections.abc import Mapping, Sequence
from typing import Literal

import msgspec
from msgspec import UNSET

from text_generation_router.api.chat import ChatGeneration
from text_generation_router.api.chat_content import ChatContentReader
from text_generation_router.api.chat_types import TokenLogprob
from text_generation_router.api.generation import FinishedGeneration
from text_generation_router.api.openai_answers import AnswerIdentity
from text_generation_router.api.responses_types import (
    IncompleteDetails,
    InputTokensDetails,
    OutputCall,
    OutputCustomCall,
    OutputMessage,
    OutputReasoning,
    OutputText,
    OutputTokensDetails,
    ReasoningText,
    ResponseEvent,
    ResponseFailure,
    ResponsesAnswer,
    ResponsesBody,
    ResponsesTool,
    ResponsesUsage,
    TextFormat,
)
from text_generation_router.api.text_logprobs import TextLogprobs
from text_generation_router.engine.request import Finished, FinishReason, TokenOutput
from text_generation_router.prompt.call_reader import CallPiece

_OutputItem = OutputMessage | OutputReasoning | OutputCall | OutputCustomCall


class ResponseWriter:
    """Owner of one answer as it grows; tells every change as an event."""

    def __init__(
        self,
        body: ResponsesBody,
        wanted: ChatGeneration,
        identity: AnswerIdentity,
        special_texts: Mapping[int, str],
    ) -> None:
        self._reader = ChatContentReader(wanted, special_texts)
        self._custom_tools = wanted.custom_tools
        self._logprobs = TextLogprobs(wanted.top_logprobs) if wanted.logprobs else None
        self._num_events = 0
        # The item that may still grow: the last one, or none.
        self._open: _OutputItem | None = None
        self.answer = _empty_answer(body, identity)

    def start(self) -> bytes:
        """The events before the first token."""
        events = [
            ResponseEvent(type=f"response.{step}", response=self.answer)
            for step in ("created", "in_progress")
        ]
        return self._encode(events)

    def token(self, output: TokenOutput, finished: Finished | None) -> bytes | None:
        """The events of one token; None if there is nothing to tell yet."""
        events = self.read(output, finished)
        return self._encode(events) if events else None

    def fail(self, error_type: str, message: str) -> bytes:
        """The last event of a stream that failed; the code is one of those that OpenAI's has."""
        self.answer.status = "failed"
        is_busy = error_type == "overloaded"
        code: Literal["rate_limit_exceeded", "server_error"]
        code = "rate_limit_exceeded" if is_busy else "server_error"
        self.answer.error = ResponseFailure(code, message)
        return self._encode([ResponseEvent(type="response.failed", response=self.answer)])

    def read(self, output: TokenOutput, finished: Finished | None) -> list[ResponseEvent]:
        """Let the answer grow by one token."""
        if self._logprobs is not None:
            self._logprobs.add(output)
        read = self._reader.read(output, is_last=finished is not None)
        events: list[ResponseEvent] = []
        if read.reasoning:
            self._logprobs_of(read.reasoning)
            self._think(read.reasoning, events)
        for part in read.parts:
            if isinstance(part, CallPiece):
                self._call(part, events)
            else:
                self._text(part.text, events)
        if finished is not None:
            if not self.answer.output:
                self._text("", events)
            self._finish(finished, events)
        return events

    def _think(self, text: str, events: list[ResponseEvent]) -> None:
        item = self._open
        if not isinstance(item, OutputReasoning):
            self._close("completed", events)
            item = OutputReasoning(id=_new_id("rs"), status="in_progress")
            self._add(item, events)
            item.content = [ReasoningText()]
            self._open = item
        item.content[0].text += text
        events.append(self._about(item, "reasoning_text.delta", delta=text))

    def _text(self, text: str, events: list[ResponseEvent]) -> None:
        item = self._open
        if not isinstance(item, OutputMessage):
            self._close("completed", events)
            item = OutputMessage(id=_new_id("msg"), status="in_progress")
            self._add(item, events)
            events.append(self._about(item, "content_part.added", part=OutputText()))
            item.content = [OutputText()]
            self._open = item
        logprobs = self._logprobs_of(text)
        item.content[0].text += text
        item.content[0].logprobs += logprobs
        events.append(self._about(item, "output_text.delta", delta=text, logprobs=logprobs))

    def _logprobs_of(self, text: str) -> list[TokenLogprob]:
        return [] if self._logprobs is None else self._logprobs.of(text)

    def _call(self, piece: CallPiece, events: list[ResponseEvent]) -> None:
        if self._logprobs is not None:
            self._logprobs.forget()
        item = self._open
        if piece.name or not isinstance(item, OutputCall | OutputCustomCall):
            self._close("completed", events)
            item = self._new_call(piece.name)
            self._add(item, events)
            self._open = item
        if isinstance(item, OutputCustomCall):
            item.input += piece.arguments
            step = "custom_tool_call_input.delta"
        else:
            item.arguments += piece.arguments
            step = "function_call_arguments.delta"
        events.append(self._about(item, step, delta=piece.arguments))
        if piece.is_last:
            self._close("completed", events)

    def _new_call(self, name: str) -> OutputCall | OutputCustomCall:
        call_id = _new_id("call")
        if name in self._custom_tools:
            return OutputCustomCall(id=_new_id("ctc"), call_id=call_id, name=name)
        return OutputCall(id=_new_id("fc"), call_id=call_id, name=name, status="in_progress")

    def _add(self, item: _OutputItem, events: list[ResponseEvent]) -> None:
        """A new item, told as it is now: empty."""
        self.answer.output.append(item)
        event = ResponseEvent(
            type="response.output_item.added",
            output_index=len(self.answer.output) - 1,
            item=msgspec.structs.replace(item),
        )
        events.append(event)

    def _close(self, status: str, events: list[ResponseEvent]) -> None:
        item, self._open = self._open, None
        if item is None:
            return
        if not isinstance(item, OutputCustomCall):
            item.status = status
        if isinstance(item, OutputMessage):
            said = item.content[0]
            done = {"text": said.text, "logprobs": said.logprobs}
            events.append(self._about(item, "output_text.done", **done))
            events.append(self._about(item, "content_part.done", part=said))
        elif isinstance(item, OutputReasoning):
            events.append(self._about(item, "reasoning_text.done", text=item.content[0].text))
        elif isinstance(item, OutputCustomCall):
            events.append(self._about(item, "custom_tool_call_input.done", input=item.input))
        else:
            made = {"name": item.name, "arguments": item.arguments}
            events.append(self._about(item, "function_call_arguments.done", **made))
        index = len(self.answer.output) - 1
        events.append(
            ResponseEvent(type="response.output_item.done", output_index=index, item=item)
        )

    def _finish(self, finished: Finished, events: list[ResponseEvent]) -> None:
        is_cut = finished.reason is FinishReason.LENGTH
        status = "incomplete" if is_cut else "completed"
        # A call that is still open has no whole arguments, for whatever reason.
        is_in_call = isinstance(self._open, OutputCall | OutputCustomCall)
        self._close("incomplete" if is_in_call else status, events)
        answer = self.answer
        answer.status = "incomplete" if is_cut else "completed"
        answer.incomplete_details = IncompleteDetails("max_output_tokens") if is_cut else None
        answer.usage = _usage(finished, self._reader)
        events.append(ResponseEvent(type=f"response.{status}", response=answer))

    def _about(self, item: _OutputItem, step: str, **fields: object) -> ResponseEvent:
        """An event about the last item, or the one part that it has."""
        event = ResponseEvent(
            type=f"response.{step}",
            output_index=len(self.answer.output) - 1,
            item_id=item.id,
            content_index=UNSET if isinstance(item, OutputCall | OutputCustomCall) else 0,
        )
        return msgspec.structs.replace(event, **fields)

    def _encode(self, events: Sequence[ResponseEvent]) -> bytes:
        frames: list[bytes] = []
        for event in events:
            event.sequence_number = self._num_events
            self._num_events += 1
            frames.append(
                b"event: %b\ndata: %b\n\n" % (event.type.encode(), msgspec.json.encode(event))
            )
        return b"".join(frames)


def build_answer(writer: ResponseWriter, generation: FinishedGeneration) -> ResponsesAnswer:
    """The answer to an unstreamed request."""
    last = len(generation.tokens) - 1
    for i, output in enumerate(generation.tokens):
        writer.read(output, generation.end if i == last else None)
    return writer.answer


def _empty_answer(body: ResponsesBody, identity: AnswerIdentity) -> ResponsesAnswer:
    return ResponsesAnswer(
        id=identity.id,
        created_at=identity.created,
        status="in_progress",
        instructions=body.instructions,
        max_output_tokens=body.max_output_tokens,
        model=identity.model,
        output=[],
        parallel_tool_calls=body.parallel_tool_calls is not False,
        temperature=1.0 if body.temperature is None else body.temperature,
        text=body.text or TextFormat(format={"type": "text"}),
        tool_choice="auto" if body.tool_choice is None else body.tool_choice,
        tools=[_shown_tool(tool) for tool in body.tools or []],
        top_logprobs=body.top_logprobs or 0,
        top_p=1.0 if body.top_p is None else body.top_p,
        metadata=body.metadata or {},
    )


def _shown_tool(tool: ResponsesTool) -> ResponsesTool:
    """A tool of the request, with the fields that its kind has."""
    if tool.type == "function":
        return tool
    return msgspec.structs.replace(tool, parameters=UNSET, strict=UNSET)


def _usage(finished: Finished, reader: ChatContentReader) -> ResponsesUsage:
    return ResponsesUsage(
        input_tokens=finished.num_prompt_tokens,
        input_tokens_details=InputTokensDetails(finished.num_cached_tokens),
        output_tokens=finished.num_generated_tokens,
        output_tokens_details=OutputTokensDetails(reader.num_reasoning_tokens),
        total_tokens=finished.num_prompt_tokens + finished.num_generated_tokens,
    )


def _new_id(prefix: str) -> str:
    return f"{prefix}_{secrets.token_hex(12)}"
