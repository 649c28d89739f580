"""How clients spell grammars: TGI's `grammar`, OpenAI's `response_format`; each may use both. On
OpenAI's routes there are also the fields of vLLM.

{"type": "json" | "json_object", "value": schema, or a string with its JSON}      TGI
{"type": "json_schema", "value": {"schema": schema, "name": ...}}                 TGI
{"type": "regex", "value": expression}                                            TGI
{"type": "choice", "value": [text, ...]}
{"type": "lark", "value": grammar}
{"type": "json_object"}                                                           OpenAI
{"type": "json_schema", "json_schema": {"name": ..., "schema": schema}}           OpenAI
{"type": "grammar", "grammar": {"syntax": "lark" | "regex", "definition": text}}  OpenAI's tools
{"type": "text"}                                                                  OpenAI
"guided_json": schema, "structured_outputs": {"json": schema}, and so with regex, choice, grammar
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from text_generation_router.api.errors import ValidationError
from text_generation_router.api.openai_types import SamplingFields
from text_generation_router.grammar.compiler import GrammarCompiler
from text_generation_router.grammar.errors import GrammarError
from text_generation_router.grammar.source import (
    JSON_OBJECT,
    ChoiceGrammar,
    GrammarSource,
    JsonSchemaGrammar,
    LarkGrammar,
    RegexGrammar,
)


@dataclass(frozen=True, slots=True)
class AskedGrammar:
    """A grammar, not yet compiled, and the field that asks for it."""

    field: str
    source: GrammarSource


def asked_grammar(body: SamplingFields) -> AskedGrammar | None:
    """What a request of OpenAI's dialects asks for; `ValidationError` if it asks twice."""
    asked = [*_guided(body)]
    source = read_format(body.response_format, "response_format")
    if source is not None:
        asked.append(AskedGrammar("response_format", source))
    if len(asked) > 1:
        first, second, *_ = (grammar.field for grammar in asked)
        raise ValidationError(f"`{first}` and `{second}` exclude each other", param=first)
    return asked[0] if asked else None


async def compile_format(
    wanted: Any, field: str, grammars: GrammarCompiler, *, ignore_eos: bool
) -> str:
    """The grammar that a field asks for; empty for none. `ValidationError` if it cannot be."""
    source = read_format(wanted, field)
    asked = None if source is None else AskedGrammar(field, source)
    return await compile_asked(asked, grammars, ignore_eos=ignore_eos)


async def compile_asked(
    asked: AskedGrammar | None, grammars: GrammarCompiler, *, ignore_eos: bool
) -> str:
    """The grammar; empty for none. `ValidationError` if it cannot be enforced."""
    if asked is None:
        return ""
    if ignore_eos:
        raise ValidationError(
            f"`{asked.field}` and `ignore_eos` exclude each other: a grammar has an end",
            param="ignore_eos",
        )
    try:
        return await grammars.compile(asked.source)
    except GrammarError as error:
        raise ValidationError(f"`{asked.field}`: {error}", param=asked.field) from error


def read_format(wanted: Any, field: str) -> GrammarSource | None:
    """What the field says, not yet compiled; None for plain text."""
    if wanted is None:
        return None
    kind = wanted.get("type") if isinstance(wanted, dict) else None
    if kind == "text":
        return None
    if kind == "json_object" and wanted.get("value") is None:
        return JSON_OBJECT
    if kind in ("json", "json_object"):
        return JsonSchemaGrammar(_schema(wanted.get("value"), "value", field))
    if kind == "json_schema":
        return _named_schema(wanted, field)
    if kind == "grammar":
        kind, value = _grammar_of_tools(wanted)
    else:
        value = wanted.get("value") if isinstance(wanted, dict) else None
    if isinstance(kind, str) and kind in _KINDS:
        return _KINDS[kind](value, "value", field)
    raise ValidationError(
        f"`{field}`: `type` must be one of text, json, json_object, json_schema, regex, choice, "
        f"lark, grammar. Given: {kind!r}",
        param=field,
    )


def _guided(body: SamplingFields) -> Iterator[AskedGrammar]:
    """vLLM's fields; what they do not ask for, some clients send as null."""
    for kind, read in (("json", _json_schema), *_KINDS.items()):
        name = "grammar" if kind == "lark" else kind
        value = getattr(body, f"guided_{name}")
        if value is not None:
            yield AskedGrammar(f"guided_{name}", read(value, "value", f"guided_{name}"))
        value = (body.structured_outputs or {}).get(name)
        if value is not None:
            field = "structured_outputs"
            yield AskedGrammar(field, read(value, name, field))
    known = {"json", "regex", "choice", "grammar", "json_object"}
    for name, value in (body.structured_outputs or {}).items():
        if name == "json_object" and value is True:
            yield AskedGrammar("structured_outputs", JSON_OBJECT)
        elif value not in (None, False) and name not in known:
            raise ValidationError(
                f"`structured_outputs.{name}` is not supported by this server",
                param="structured_outputs",
            )


def _grammar_of_tools(wanted: Mapping[str, Any]) -> tuple[Any, Any]:
    """The syntax and the text of a grammar as OpenAI's tools have it, or the text alone."""
    grammar = wanted.get("grammar", wanted.get("value", wanted))
    if isinstance(grammar, dict):
        return grammar.get("syntax"), grammar.get("definition")
    return "lark", grammar


def _regex(value: Any, place: str, field: str) -> RegexGrammar:
    return RegexGrammar(_text(value, place, field))


def _lark(value: Any, place: str, field: str) -> LarkGrammar:
    return LarkGrammar(_text(value, place, field))


def _choice(value: Any, place: str, field: str) -> ChoiceGrammar:
    if not isinstance(value, list) or not all(isinstance(choice, str) for choice in value):
        raise ValidationError(f"`{field}`: `{place}` must be a list of strings", param=field)
    return ChoiceGrammar(tuple(value))


def _json_schema(value: Any, place: str, field: str) -> JsonSchemaGrammar:
    return JsonSchemaGrammar(_schema(value, place, field))


def _text(value: Any, place: str, field: str) -> str:
    if not isinstance(value, str):
        raise ValidationError(f"`{field}`: `{place}` must be a string", param=field)
    return value


_KINDS: Mapping[Any, Callable[[Any, str, str], GrammarSource]] = {
    "regex": _regex,
    "choice": _choice,
    "lark": _lark,
}


def _named_schema(wanted: dict[str, Any], field: str) -> JsonSchemaGrammar:
    """TGI has the schema under `value.schema`, OpenAI under `json_schema.schema`."""
    place = "json_schema" if "json_schema" in wanted else "value"
    holder = wanted.get(place)
    if not isinstance(holder, dict) or "schema" not in holder:
        raise ValidationError(f"`{field}`: `{place}.schema` is missing", param=field)
    return JsonSchemaGrammar(_schema(holder["schema"], f"{place}.schema", field))


def _schema(value: Any, place: str, field: str) -> Any:
    if isinstance(value, str):
        try:
            value = msgspec.json.decode(value)
        except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
            raise ValidationError(
                f"`{field}`: `{place}` is no JSON: {error}", param=field
            ) from error
    if not isinstance(value, dict | bool):
        raise ValidationError(f"`{field}`: `{place}` must be a JSON Schema", param=field)
    return value
