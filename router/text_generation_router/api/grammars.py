"""How clients spell grammars: TGI's `grammar`, OpenAI's `response_format`; each may use both.

{"type": "json" | "json_object", "value": schema, or a string with its JSON}      TGI
{"type": "json_schema", "value": {"schema": schema, "name": ...}}                 TGI
{"type": "regex", "value": expression}                                            TGI
{"type": "choice", "value": [text, ...]}
{"type": "json_object"}                                                           OpenAI
{"type": "json_schema", "json_schema": {"name": ..., "schema": schema}}           OpenAI
{"type": "text"}                                                                  OpenAI
"""

from typing import Any

import msgspec

from text_generation_router.api.errors import ValidationError
from text_generation_router.grammar.compiler import GrammarCompiler
from text_generation_router.grammar.errors import GrammarError
from text_generation_router.grammar.source import (
    JSON_OBJECT,
    ChoiceGrammar,
    GrammarSource,
    JsonSchemaGrammar,
    RegexGrammar,
)


async def compile_format(
    wanted: Any, field: str, grammars: GrammarCompiler, *, ignore_eos: bool
) -> str:
    """The grammar that a field asks for; empty for none. `ValidationError` if it cannot be."""
    source = read_format(wanted, field)
    if source is None:
        return ""
    if ignore_eos:
        raise ValidationError(
            f"`{field}` and `ignore_eos` exclude each other: a grammar has an end",
            param="ignore_eos",
        )
    try:
        return await grammars.compile(source)
    except GrammarError as error:
        raise ValidationError(f"`{field}`: {error}", param=field) from error


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
    value = wanted.get("value") if isinstance(wanted, dict) else None
    if kind == "regex" and isinstance(value, str):
        return RegexGrammar(value)
    if kind == "choice" and isinstance(value, list) and all(isinstance(c, str) for c in value):
        return ChoiceGrammar(tuple(value))
    if kind in ("regex", "choice"):
        meaning = "a string" if kind == "regex" else "a list of strings"
        raise ValidationError(f"`{field}`: `value` must be {meaning}", param=field)
    raise ValidationError(
        f"`{field}`: `type` must be one of text, json, json_object, json_schema, regex, choice. "
        f"Given: {kind!r}",
        param=field,
    )


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
