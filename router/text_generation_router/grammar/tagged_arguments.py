"""Arguments that a model writes one by one: texts as they are, all else as JSON.

What a JSON Schema says of a text (its pattern, format or length) cannot be enforced there.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from text_generation_router.grammar.errors import GrammarError
from text_generation_router.grammar.marks import MarkSpelling, quoted
from text_generation_router.grammar.source import Grammar
from text_generation_router.prompt.tool_formats import TaggedBody

_DEFINITIONS = ("$defs", "definitions", "x-guidance")
# What a schema of a text may have besides the type: what changes nothing, and what is spelled out.
_TEXT_KEYWORDS = frozenset({"type", "enum", "const", "description", "title", "default", "examples"})


@dataclass(slots=True)
class TaggedArguments:
    """Rules of Lark, and the grammars that they refer to."""

    rules: list[str] = field(default_factory=list)
    grammars: list[Grammar] = field(default_factory=list)


def tagged_arguments(
    rule: str, function: str, document: Mapping[str, Any], body: TaggedBody, marks: MarkSpelling
) -> TaggedArguments:
    """The arguments of a function in the order of its schema; those it does not require may lack.

    A schema that names no properties allows any. `GrammarError` for what cannot be enforced.
    """
    result = TaggedArguments()
    properties = document.get("properties")
    head, closing = quoted(f"{body.name_closes}\n"), quoted(f"\n{body.argument_closes}\n")
    if not isinstance(properties, dict):
        opening = f"{marks.text(body.argument_opens)} /[^\\s<>]{{1,64}}/ {head}"
        result.rules.append(f"{rule}_any: {opening} {rule}_text")
        result.rules.append(f"{rule}_text[lazy]: /(?s:.*)/ {closing}")
        members = f"{rule}_any*"
    else:
        required = document.get("required", [])
        names: list[str] = []
        for i, (name, schema) in enumerate(properties.items()):
            value = f"{rule}_{i}"
            names.append(value if name in required else f"{value}?")
            opening = marks.text(f"{body.argument_opens}{name}{body.name_closes}\n")
            result.rules.append(f"{value}: {opening} {value}_value")
            try:
                _add_value(result, f"{value}_value", schema, document, closing)
            except GrammarError as error:
                raise GrammarError(f"function {function!r}: `{name}`: {error}") from error
        members = " ".join(names)
    result.rules.append(f"{rule}: {head} {members} {marks.text(body.closes)}")
    return result


def _add_value(
    result: TaggedArguments, rule: str, schema: Any, document: Mapping[str, Any], closing: str
) -> None:
    """A value and what closes it."""
    is_text = isinstance(schema, dict) and schema.get("type") == "string"
    if not is_text:
        definitions = {key: document[key] for key in _DEFINITIONS if key in document}
        schema = {**definitions, **schema} if isinstance(schema, dict) else schema
        result.grammars.append({"name": f"{rule}_json", "json_schema": schema})
        result.rules.append(f"{rule}: @{rule}_json {closing}")
        return
    unknown = sorted(schema.keys() - _TEXT_KEYWORDS)
    if unknown:
        raise GrammarError(
            f"`{unknown[0]}` of a string cannot be enforced in the tool call format of this model"
        )
    values = [schema["const"]] if "const" in schema else schema.get("enum")
    if values is None:
        result.rules.append(f"{rule}[lazy]: /(?s:.*)/ {closing}")
        return
    if not values or not all(isinstance(value, str) for value in values):
        raise GrammarError("a string must be one of some strings")
    result.rules.append(f"{rule}: ({' | '.join(map(quoted, values))}) {closing}")
