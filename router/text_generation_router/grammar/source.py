"""Grammars as they are asked for, and how llguidance writes them down."""

import re
from dataclasses import dataclass
from typing import Any, Protocol

import msgspec

from text_generation_router.grammar.errors import GrammarError
from text_generation_router.grammar.json_schema import schema_document
from text_generation_router.grammar.marks import MarkSpelling, quoted

_MAX_LARK_CHARACTERS = 32_768
# Texts and regular expressions of Lark, and comments: what is in none of them is syntax.
_LARK_LITERALS = re.compile(r'"(?:\\.|[^"\\\n])*"|/(?:\\.|[^/\\\n])+/|(?://|#)[^\n]*')
# Directives of llguidance that go beyond Lark, tokens of a model's own, and grammars by name.
_BEYOND_LARK = re.compile(r"%(?!import\b|ignore\b)\w+|<|@")

# One grammar as llguidance takes it: of Lark or of a JSON Schema, and its name.
Grammar = dict[str, Any]

# The time to compile a regular expression grows faster than its length.
_MAX_REGEX_CHARACTERS = 4096
_MAX_CHOICES = 1024
_MAX_CHOICE_CHARACTERS = 32_768


class GrammarSource(Protocol):
    """A grammar that was not looked at yet; it may be large, and anything."""

    def grammars(self, marks: MarkSpelling) -> list[Grammar]:
        """llguidance's form: the first grammar is the one that counts, it may refer to the others
        by name. `GrammarError` for what is out of bounds.
        """


@dataclass(frozen=True, slots=True)
class JsonSchemaGrammar:
    """The answer is one JSON value that a JSON Schema (2020-12) describes."""

    schema: Any

    def grammars(self, marks: MarkSpelling) -> list[Grammar]:  # noqa: ARG002
        return [{"json_schema": schema_document(self.schema)}]


# Any JSON object.
JSON_OBJECT = JsonSchemaGrammar({"type": "object"})


@dataclass(frozen=True, slots=True)
class RegexGrammar:
    """The whole answer matches a regular expression (the syntax is that of Rust's crate regex)."""

    pattern: str

    def grammars(self, marks: MarkSpelling) -> list[Grammar]:  # noqa: ARG002
        if len(self.pattern) > _MAX_REGEX_CHARACTERS:
            raise GrammarError(
                f"the regular expression has {len(self.pattern)} characters; at most "
                f"{_MAX_REGEX_CHARACTERS} are allowed"
            )
        # Not at the top: a server that never sees a grammar does without.
        from llguidance import LLMatcher

        (grammar,) = msgspec.json.decode(LLMatcher.grammar_from_regex(self.pattern))["grammars"]
        return [{"lark_grammar": grammar["lark_grammar"]}]


@dataclass(frozen=True, slots=True)
class ChoiceGrammar:
    """The answer is one of these texts."""

    choices: tuple[str, ...]

    def grammars(self, marks: MarkSpelling) -> list[Grammar]:  # noqa: ARG002
        if not 0 < len(self.choices) <= _MAX_CHOICES:
            raise GrammarError(f"there must be 1 to {_MAX_CHOICES} choices")
        if sum(map(len, self.choices)) > _MAX_CHOICE_CHARACTERS:
            raise GrammarError(
                f"the choices have more than {_MAX_CHOICE_CHARACTERS} characters in all"
            )
        return [{"lark_grammar": f"start: {' | '.join(map(quoted, self.choices))}"}]


@dataclass(frozen=True, slots=True)
class LarkGrammar:
    """The answer follows a context-free grammar in Lark's syntax, from its rule `start`."""

    text: str

    def grammars(self, marks: MarkSpelling) -> list[Grammar]:  # noqa: ARG002
        if len(self.text) > _MAX_LARK_CHARACTERS:
            raise GrammarError(
                f"the grammar has {len(self.text)} characters; at most {_MAX_LARK_CHARACTERS} are "
                "allowed"
            )
        beyond = _BEYOND_LARK.search(_LARK_LITERALS.sub(" ", self.text))
        if beyond is not None:
            raise GrammarError(f"{beyond[0]!r} is not supported in a Lark grammar")
        return [{"lark_grammar": self.text}]


def serialised(grammars: list[Grammar]) -> str:
    """llguidance's outermost form."""
    return msgspec.json.encode({"grammars": grammars}).decode()
