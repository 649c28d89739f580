"""Grammars of answers that call tools, in the format that `prompt/tool_calls.py` reads."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from text_generation_router.grammar.errors import GrammarError
from text_generation_router.grammar.json_schema import schema_document
from text_generation_router.grammar.source import encode, grammar_list

# A model that finds no end calls at most so many tools at once.
_MAX_CALLS = 32
_MAX_FUNCTIONS = 128


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolCallGrammar:
    """The answer consists of tool calls: one, or several with `allows_several`.

    `functions`: a JSON Schema for the arguments by name. With `is_optional` the model writes what
    it likes, and only what it begins as a call must become one.
    """

    functions: Sequence[tuple[str, Mapping[str, Any]]]
    # Texts that always are one token, and its id; marks may be among them.
    added_ids: Mapping[str, int]
    open_mark: str
    close_mark: str
    allows_several: bool
    is_optional: bool = False

    def serialised(self, *, is_probe: bool = False) -> str:
        """See `GrammarSource`."""
        if len(self.functions) > _MAX_FUNCTIONS:
            raise GrammarError(f"more than {_MAX_FUNCTIONS} functions")
        rules = [*self._frame(is_probe)]
        arguments: list[dict[str, Any]] = []
        for i, (name, schema) in enumerate(self.functions):
            head = f'\n{{"name": {encode(name)}, "arguments": '
            rules.append(f"call_{i}: {encode(head)} @arguments_{i}")
            document = _arguments_document(name, schema)
            arguments.append({"name": f"arguments_{i}", "json_schema": document})
        return grammar_list([{"lark_grammar": "\n".join(rules)}, *arguments])

    def _frame(self, is_probe: bool) -> list[str]:
        """What stands around the calls."""
        names = " | ".join(f"call_{i}" for i in range(len(self.functions)))
        open_mark = self._mark(self.open_mark, is_probe)
        body = f'({names}) "}}\\n" {self._mark(self.close_mark, is_probe)}'
        if not self.is_optional:
            more = f' ("\\n" call){{0,{_MAX_CALLS - 1}}}' if self.allows_several else ""
            return [f"start: call{more}", f"call: {open_mark} {body}"]
        # Lazy: a call begins where the mark first comes, whatever the text might go on to.
        is_token = not is_probe and self.open_mark in self.added_ids
        head = f"head: TEXT {open_mark}" if is_token else f"head[lazy]: TEXT {open_mark}"
        repeat = "*" if self.allows_several else "?"
        text = "TEXT: /(?s:.*)/"
        return [f"start: call{repeat} rest", "rest: TEXT", text, head, f"call: head {body}"]

    def _mark(self, text: str, is_probe: bool) -> str:
        token_id = self.added_ids.get(text)
        return encode(text) if is_probe or token_id is None else f"<[{token_id}]>"


def _arguments_document(name: str, schema: Mapping[str, Any]) -> dict[str, Any]:
    """A function's arguments are an object, also where its schema does not say so."""
    if schema.get("type", "object") != "object":
        raise GrammarError(f"the parameters of function {name!r} must be of type object")
    try:
        return schema_document({"type": "object", **schema})
    except GrammarError as error:
        raise GrammarError(f"function {name!r}: {error}") from error
