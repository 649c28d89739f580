"""Grammars of functionary's answers, which `prompt/recipients.py` reads."""

from collections.abc import Sequence
from dataclasses import dataclass

from text_generation_router.grammar.marks import MarkSpelling, quoted, sequence
from text_generation_router.grammar.source import Grammar, GrammarSource
from text_generation_router.grammar.tool_calls import MAX_CALLS, ToolCallGrammar
from text_generation_router.prompt.recipients import EVERYONE, MARK

_TO_USER = quoted(f"{EVERYONE}\n")


@dataclass(frozen=True, slots=True, kw_only=True)
class RecipientGrammar:
    """Calls of functions, an answer to the user, or such an answer and then calls.

    answer: what is said to the user; None if that is free. calls: None if there are none. is_begun:
    whether the prompt has the first mark.
    """

    answer: GrammarSource | None = None
    calls: ToolCallGrammar | None = None
    is_begun: bool

    def grammars(self, marks: MarkSpelling) -> list[Grammar]:
        """See `GrammarSource`."""
        rules: list[str] = []
        named: list[Grammar] = []
        if self.calls is not None:
            rules += self._call_rules(self.calls)
            named += self.calls.argument_documents()
        if self.answer is not None:
            first, *others = self.answer.grammars(marks)
            named += [{**first, "name": "answer"}, *others]
        if self.calls is not None and self.calls.is_optional:
            rules += self._optional(self.calls, marks)
        else:
            messages = [
                *(["calls"] if self.calls is not None else []),
                *([f"{_TO_USER} @answer"] if self.answer is not None else []),
            ]
            rules.append(sequence("start:", self._begins, f"({' | '.join(messages)})"))
        return [{"lark_grammar": "\n".join(rules)}, *named]

    @property
    def _begins(self) -> str:
        return "" if self.is_begun else quoted(MARK)

    def _call_rules(self, calls: ToolCallGrammar) -> Sequence[str]:
        """One call behind its mark, and all of them behind the first mark."""
        each = [quoted(f"{name}\n") + f" @arguments_{i}" for i, name in _numbered(calls)]
        more = f"({quoted(MARK)} call){{0,{MAX_CALLS - 1}}}" if calls.allows_several else ""
        return [f"call: {' | '.join(each)}", f"calls: {sequence('call', more)}"]

    def _optional(self, calls: ToolCallGrammar, marks: MarkSpelling) -> Sequence[str]:
        """A free text, in which a mark and the name of a function begin a call."""
        leads = [f"lead_{i} @arguments_{i}" for i, _ in _numbered(calls)]
        repeat = "*" if calls.allows_several else "?"
        told = f"({' | '.join(leads)}){repeat} rest"
        rules = [f"told: {told}", *marks.rest("rest", MARK), *marks.common_rules()]
        for i, name in _numbered(calls):
            rules += marks.lead(f"lead_{i}", MARK, f"{MARK}{name}\n")
        if not self.is_begun:
            return [*rules, "start: told"]
        called = "calls told" if calls.allows_several else "calls rest"
        return [*rules, f"start: {called} | {_TO_USER} told"]


def _numbered(calls: ToolCallGrammar) -> list[tuple[int, str]]:
    return list(enumerate(name for name, _ in calls.functions))
