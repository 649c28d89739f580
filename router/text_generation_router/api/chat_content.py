"""From tokens to the parts of a chat answer: reasoning, text and tool calls.

Streamed and unstreamed answers pass through the same objects, so they are equal.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from text_generation_router.api.chat import ChatGeneration
from text_generation_router.api.custom_tools import CustomInputReader
from text_generation_router.api.visible_text import visible_text
from text_generation_router.engine.request import TokenOutput
from text_generation_router.prompt import harmony
from text_generation_router.prompt.call_reader import CallPiece
from text_generation_router.prompt.reasoning import HARMONY, ReasoningParser
from text_generation_router.prompt.recipients import RecipientParser
from text_generation_router.prompt.tool_calls import AnswerPart, AnswerText, ToolCallParser


@dataclass(slots=True)
class AnswerDelta:
    """What one token added to an answer."""

    reasoning: str = ""
    # In the order of the answer.
    parts: Sequence[AnswerPart] = ()

    @property
    def text(self) -> str:
        """All that is neither reasoning nor a call."""
        return "".join(part.text for part in self.parts if isinstance(part, AnswerText))

    @property
    def calls(self) -> list[CallPiece]:
        """Pieces of calls; those of one call are one piece here."""
        return [part for part in self.parts if isinstance(part, CallPiece)]


class ChatContentReader:
    """Reads the tokens of one choice.

    Special tokens are no part of an answer, but for those by which a model marks its reasoning and
    writes its tool calls.
    `special_texts` has the text of every special token by its id.
    """

    def __init__(self, wanted: ChatGeneration, special_texts: Mapping[int, str]) -> None:
        self._special_texts = special_texts
        self._reasoning: ReasoningParser | harmony.HarmonyParser | None = None
        self._parser: ToolCallParser | None = None
        self._recipients: RecipientParser | None = None
        if wanted.has_recipients:
            self._recipients = RecipientParser(wanted.prompt.text)
        marks: set[str] = set()
        if wanted.reasoning is HARMONY:
            has_tools = wanted.tool_format is not None
            self._reasoning = harmony.HarmonyParser(wanted.prompt.text, has_tools=has_tools)
            marks |= harmony.MARKS
        elif wanted.reasoning is not None:
            is_open = wanted.reasoning.is_opened_by(wanted.prompt.text)
            self._reasoning = ReasoningParser(wanted.reasoning, is_open=is_open)
            marks |= {wanted.reasoning.opens, wanted.reasoning.closes}
        if wanted.tool_format is not None:
            self._parser = ToolCallParser(
                wanted.tool_format,
                wanted.functions,
                wanted.max_tool_calls,
                needs_arguments=wanted.has_format,
            )
            marks |= set(wanted.tool_format.marks())
        self._marks = frozenset(marks)
        self._custom_inputs = CustomInputReader(wanted.custom_tools)

    @property
    def has_calls(self) -> bool:
        """Whether a tool call was found so far."""
        return self._parser is not None and self._parser.num_calls > 0

    @property
    def num_reasoning_tokens(self) -> int:
        """Tokens of the reasoning so far, its marks among them."""
        return 0 if self._reasoning is None else self._reasoning.num_reasoned

    def read(self, output: TokenOutput, *, is_last: bool) -> AnswerDelta:
        """What became certain with this token."""
        text = self._content(output)
        reasoning = ""
        if self._recipients is not None:
            text = self._recipients.feed(text)
            if is_last:
                text += self._recipients.finish()
        if self._reasoning is not None:
            split = self._reasoning.feed(text)
            reasoning, text = split.reasoning, split.text
            if is_last:
                rest = self._reasoning.finish()
                reasoning += rest.reasoning
                text += rest.text
        if self._parser is None:
            return AnswerDelta(reasoning, [AnswerText(text)] if text else ())
        parts = self._parser.feed(text)
        if is_last:
            parts += self._parser.finish()
        return AnswerDelta(reasoning, self._custom_inputs.read(parts, is_last=is_last))

    def _content(self, output: TokenOutput) -> str:
        if self._special_texts.get(output.token_id) in self._marks:
            return output.text
        return visible_text(output, self._special_texts)
