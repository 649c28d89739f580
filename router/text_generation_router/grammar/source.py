"""Grammars as they are asked for, and how llguidance writes them down."""

from dataclasses import dataclass
from typing import Any, Protocol

import msgspec

from text_generation_router.grammar.errors import GrammarError
from text_generation_router.grammar.json_schema import schema_document

# The time to compile a regular expression grows faster than its length.
_MAX_REGEX_CHARACTERS = 4096
_MAX_CHOICES = 1024
_MAX_CHOICE_CHARACTERS = 32_768


class GrammarSource(Protocol):
    """A grammar that was not looked at yet; it may be large, and anything."""

    def serialised(self, *, is_probe: bool = False) -> str:
        """llguidance's form; `GrammarError` for what is out of bounds.

        is_probe: spell special tokens as text, for a check without the model's vocabulary.
        """


@dataclass(frozen=True, slots=True)
class JsonSchemaGrammar:
    """The answer is one JSON value that a JSON Schema (2020-12) describes."""

    schema: Any

    def serialised(self, *, is_probe: bool = False) -> str:  # noqa: ARG002
        return grammar_list([{"json_schema": schema_document(self.schema)}])


# Any JSON object.
JSON_OBJECT = JsonSchemaGrammar({"type": "object"})


@dataclass(frozen=True, slots=True)
class RegexGrammar:
    """The whole answer matches a regular expression (the syntax is that of Rust's crate regex)."""

    pattern: str

    def serialised(self, *, is_probe: bool = False) -> str:  # noqa: ARG002
        if len(self.pattern) > _MAX_REGEX_CHARACTERS:
            raise GrammarError(
                f"the regular expression has {len(self.pattern)} characters; at most "
                f"{_MAX_REGEX_CHARACTERS} are allowed"
            )
        # Not at the top: a server that never sees a grammar does without.
        from llguidance import LLMatcher

        return LLMatcher.grammar_from_regex(self.pattern)


@dataclass(frozen=True, slots=True)
class ChoiceGrammar:
    """The answer is one of these texts."""

    choices: tuple[str, ...]

    def serialised(self, *, is_probe: bool = False) -> str:  # noqa: ARG002
        if not 0 < len(self.choices) <= _MAX_CHOICES:
            raise GrammarError(f"there must be 1 to {_MAX_CHOICES} choices")
        if sum(map(len, self.choices)) > _MAX_CHOICE_CHARACTERS:
            raise GrammarError(
                f"the choices have more than {_MAX_CHOICE_CHARACTERS} characters in all"
            )
        return grammar_list([{"lark_grammar": f"start: {' | '.join(map(encode, self.choices))}"}])


def grammar_list(grammars: list[dict[str, Any]]) -> str:
    """llguidance's outermost form; the first grammar is the one that counts."""
    return encode({"grammars": grammars})


def encode(value: Any) -> str:
    """JSON, whose strings are also those of Lark."""
    return msgspec.json.encode(value).decode()
