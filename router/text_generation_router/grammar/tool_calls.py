"""Grammars of answers that call tools, in the formats that `prompt/tool_calls.py` reads."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from text_generation_router.grammar.errors import GrammarError
from text_generation_router.grammar.json_schema import schema_document
from text_generation_router.grammar.marks import MarkSpelling, quoted, sequence
from text_generation_router.grammar.source import Grammar
from text_generation_router.grammar.tagged_arguments import tagged_arguments
from text_generation_router.prompt.call_reader import argument_keys
from text_generation_router.prompt.tool_formats import (
    NamedBody,
    ObjectBody,
    TaggedBody,
    ToolFormat,
)

# A model that finds no end calls at most so many tools at once.
MAX_CALLS = 32
_MAX_FUNCTIONS = 128


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolCallGrammar:
    """The answer consists of tool calls: one, or several with `allows_several`.

    `functions`: a JSON Schema for the arguments by name. With `is_optional` the model writes what
    it likes, and only what it begins as a call must become one. With `is_beside_json` what else the
    answer may be is JSON, too: bare calls are written in JSON's own lexemes then, one by one. A
    lexer that had begun a longer one would have ruled out the rest.
    """

    format: ToolFormat
    functions: Sequence[tuple[str, Mapping[str, Any]]]
    allows_several: bool
    is_optional: bool = False
    is_beside_json: bool = False

    def grammars(self, marks: MarkSpelling) -> list[Grammar]:
        """See `GrammarSource`."""
        if len(self.functions) > _MAX_FUNCTIONS:
            raise GrammarError(f"more than {_MAX_FUNCTIONS} functions")
        rules = [*self._frame(marks), *self._section(marks), *marks.common_rules()]
        if self.is_beside_json:
            rules.append('SPACE: " "')
        arguments: list[Grammar] = []
        for i, (name, schema) in enumerate(self.functions):
            document = _arguments_document(name, schema)
            if isinstance(self.format.body, TaggedBody):
                tagged = tagged_arguments(f"arguments_{i}", name, document, self.format.body, marks)
                rules += [f"call_{i}: {quoted(name)} arguments_{i}", *tagged.rules]
                arguments += tagged.grammars
            else:
                rules.append(f"call_{i}: {self._body(name, f'@arguments_{i}', marks)}")
                arguments.append({"name": f"arguments_{i}", "json_schema": document})
        return [{"lark_grammar": "\n".join(rules)}, *arguments]

    def argument_documents(self) -> list[Grammar]:
        """The grammars of the arguments, by the name `arguments_` and the function's number."""
        return [
            {"name": f"arguments_{i}", "json_schema": _arguments_document(name, schema)}
            for i, (name, schema) in enumerate(self.functions)
        ]

    def _frame(self, marks: MarkSpelling) -> list[str]:
        """What stands around the calls."""
        if not self.is_optional:
            return ["start: section"]
        wanted = self.format
        mark = wanted.first_mark
        if wanted.is_bare:
            beginnings = [self._beginning(name) for name, _ in self.functions]
            rules = marks.rest_unlike("other", beginnings, mark)
            marked = f" ({marks.text(mark)} section)?" if marks.is_token(mark) else ""
            return [f"start: section | other{marked}", *rules]
        repeat = "*" if self.allows_several else "?"
        opening = "".join(wanted.opens or wanted.call_opens)
        return [
            f"start: (lead opened){repeat} rest",
            *marks.lead("lead", mark, opening),
            *marks.rest("rest", mark),
        ]

    def _section(self, marks: MarkSpelling) -> list[str]:
        """All calls with the marks around them, and the same behind the first mark."""
        wanted = self.format
        opens, call_opens, call_closes, between, closes = (
            marks.text("".join(text))
            for text in (
                () if wanted.is_bare else wanted.opens,
                wanted.call_opens,
                wanted.call_closes,
                wanted.between,
                wanted.closes,
            )
        )
        names = " | ".join(f"call_{i}" for i in range(len(self.functions)))
        body = sequence(f"({names})", call_closes)
        call = sequence(call_opens, body)
        more = f"({sequence(between, call)}){{0,{MAX_CALLS - 1}}}" if self.allows_several else ""
        rules = [f"section: {sequence(opens, call, more, closes)}"]
        if self.is_optional and not wanted.is_bare:
            # Without a mark around all calls, each further one has a lead of its own.
            opened = sequence(call, more, closes) if wanted.has_section else body
            rules = [f"opened: {opened}"]
        return rules

    def _beginning(self, name: str) -> str:
        """The text of an object before its arguments."""
        body = self.format.body
        assert isinstance(body, ObjectBody)
        return f'{{"{body.name_key}": {quoted(name)}, "{body.arguments_key}": '

    def _body(self, name: str, arguments: str, marks: MarkSpelling) -> str:
        body = self.format.body
        if isinstance(body, NamedBody):
            return f"{quoted(name)} {marks.text(''.join(body.between))} {arguments}"
        if self.is_beside_json and isinstance(body, ObjectBody):
            return self._json_body(name, arguments, body)
        beginning = self._beginning(name)
        if isinstance(body, ObjectBody) and body.number_key:
            head, rest = quoted(f'{{"{body.number_key}": "'), quoted(f'", {beginning[1:]}')
            return f'{head} /[0-9]{{1,2}}/ {rest} {arguments} "}}"'
        return f'{quoted(beginning)} {arguments} "}}"'

    def _json_body(self, name: str, arguments: str, body: ObjectBody) -> str:
        texts = [f'"{body.name_key}"', ":", quoted(name), ",", f'"{body.arguments_key}"', ":"]
        lexemes = ["{", *texts]
        return " SPACE? ".join([*map(quoted, lexemes), arguments, quoted("}")])

    def may_begin(self, schema: Any) -> bool:
        """Whether JSON that follows a schema may begin as a bare call does."""
        body = self.format.body
        if not isinstance(schema, dict) or not isinstance(body, ObjectBody):
            return True
        if isinstance(kind := schema.get("type"), str) and kind != "object":
            return False
        document = schema_document(schema)
        if document.get("additionalProperties") is not False:
            return True
        names = document.get("properties", {})
        return body.name_key in names and any(key in names for key in argument_keys(body))


def _arguments_document(name: str, schema: Mapping[str, Any]) -> dict[str, Any]:
    """A function's arguments are an object, also where its schema does not say so."""
    if schema.get("type", "object") != "object":
        raise GrammarError(f"the parameters of function {name!r} must be of type object")
    try:
        return schema_document({"type": "object", **schema})
    except GrammarError as error:
        raise GrammarError(f"function {name!r}: {error}") from error
