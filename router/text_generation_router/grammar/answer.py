"""Grammars of whole answers: what is asked for may follow reasoning, or be a choice of two."""

from dataclasses import dataclass

from text_generation_router.grammar.marks import MarkSpelling
from text_generation_router.grammar.source import Grammar, GrammarSource
from text_generation_router.prompt.reasoning import ReasoningFormat

# White space that models write between their reasoning and the answer.
_SPACE = r"SPACE: /[ \n]{1,4}/"


@dataclass(frozen=True, slots=True, kw_only=True)
class ReasonedGrammar:
    """The model reasons as it likes, and then follows a grammar."""

    reasoning: ReasoningFormat
    # Whether the prompt began the reasoning; else the model may, or not.
    is_open: bool
    answer: GrammarSource

    def grammars(self, marks: MarkSpelling) -> list[Grammar]:
        """See `GrammarSource`."""
        begun = f"{marks.text(self.reasoning.opens)} thoughts SPACE?"
        start = "thoughts SPACE? @answer" if self.is_open else f"({begun})? @answer"
        rules = [f"start: {start}", *marks.thoughts("thoughts", self.reasoning.closes), _SPACE]
        first, *others = self.answer.grammars(marks)
        return [{"lark_grammar": "\n".join(rules)}, {**first, "name": "answer"}, *others]


@dataclass(frozen=True, slots=True, kw_only=True)
class CallsOrAnswer:
    """Either tool calls or an answer that follows a grammar."""

    calls: GrammarSource
    answer: GrammarSource

    def grammars(self, marks: MarkSpelling) -> list[Grammar]:
        """See `GrammarSource`."""
        calls, *arguments = self.calls.grammars(marks)
        text, *others = self.answer.grammars(marks)
        return [
            {"lark_grammar": "start: @calls | @text"},
            {**calls, "name": "calls"},
            {**text, "name": "text"},
            *arguments,
            *others,
        ]
