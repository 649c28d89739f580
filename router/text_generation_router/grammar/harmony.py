"""Grammars of gpt-oss's answers, which `prompt/harmony.py` reads."""

from dataclasses import dataclass

from text_generation_router.grammar.marks import MarkSpelling
from text_generation_router.grammar.source import Grammar, GrammarSource
from text_generation_router.prompt.harmony import ASSISTANT, CHANNEL, END, MESSAGE, START


@dataclass(frozen=True, slots=True, kw_only=True)
class HarmonyGrammar:
    """Reasoning and remarks as the model likes, and then the answer or calls.

    answer: what the message in the channel `final` follows; None if it is free. calls: None if
    there are none.
    """

    answer: GrammarSource | None = None
    calls: GrammarSource | None = None
    must_call: bool = False

    def grammars(self, marks: MarkSpelling) -> list[Grammar]:
        """See `GrammarSource`."""
        named: list[Grammar] = []
        for name, source in (("calls", self.calls), ("answer", self.answer)):
            if source is not None:
                first, *others = source.grammars(marks)
                named += [{**first, "name": name}, *others]
        free = "rest" if self.answer is None else "@answer"
        ends = "@calls" if self.must_call else "final | @calls" if self.calls else "final"
        rules = [
            f"start: (aside {marks.text(START + ASSISTANT)})* ({ends})",
            f'aside: {marks.text(CHANNEL)} ("analysis" | "commentary") {marks.text(MESSAGE)} told',
            f"final: {marks.text(CHANNEL + 'final' + MESSAGE)} {free}",
            *marks.thoughts("told", END),
            *(marks.rest("rest", CHANNEL) if self.answer is None else ()),
            *marks.common_rules(),
        ]
        return [{"lark_grammar": "\n".join(rules)}, *named]
