"""JSON Schemas: what is refused before llguidance sees them, and how their JSON is written.

llguidance refuses keywords that it knows and cannot enforce. This module refuses what it would let
pass, and bounds what a compilation can cost. What it writes:

- Between the parts of a value at most one space, as TGI has it: no endless white space.
- Objects that name properties and do not speak of others get no others, as TGI has it. Where such
  objects may be combined with others (`allOf`), they stay open.
- No character is written as \\uXXXX: a name could otherwise be spelled twice, once past its schema.
"""

from collections.abc import Callable, Iterator
from typing import Any

import msgspec

from text_generation_router.grammar.errors import GrammarError

_MAX_BYTES = 65_536
_MAX_DEPTH = 64
# llguidance follows references by recursion: a chain of thousands would exhaust a thread's stack.
_MAX_REFERENCES = 256
_MAX_PATTERN_CHARACTERS = 8192
# To intersect expressions (`allOf`, or keywords beside `$ref` or `anyOf`) costs time and memory
# that grow exponentially with their number.
_MAX_INTERSECTED_PATTERNS = 4
_MAX_INTERSECTED_VALUES = 256
_INTERSECTED = frozenset({"$ref", "allOf", "anyOf", "enum", "format", "oneOf", "pattern"})
_OPTIONS_KEY = "x-guidance"
_OPTIONS = {"whitespace_pattern": " ", "json_allowed_escapes": 'nrbtf\\"'}
# Control characters that JSON can write without \u.
_NAMED_CONTROLS = "\b\f\n\r\t"
# Keywords that llguidance takes for annotations.
_IGNORED_KEYWORDS = ("additionalItems", "disallow", "divisibleBy", "extends")
# Keywords under which further names, values or members of objects come.
_COMBINING_KEYWORDS = frozenset({"allOf", "anyOf", "oneOf", "$ref"})
# Keywords that say nothing of a value.
_ANNOTATIONS = frozenset({"$comment", "default", "description", "examples", "title"})
_SPEAKS_OF_OTHERS = frozenset(
    {"additionalProperties", "patternProperties", "minProperties", "maxProperties"}
)


def schema_document(schema: Any) -> dict[str, Any]:
    """The schema as llguidance gets it; `GrammarError` says what is wrong with it."""
    if isinstance(schema, bool):
        schema = {} if schema else {"enum": []}
    if not isinstance(schema, dict):
        raise GrammarError("a JSON Schema must be an object")
    if _OPTIONS_KEY in schema:
        raise GrammarError(f"`{_OPTIONS_KEY}` cannot be set in a JSON Schema")
    num_bytes = len(msgspec.json.encode(schema))
    if num_bytes > _MAX_BYTES:
        raise GrammarError(
            f"the JSON Schema has {num_bytes} bytes; at most {_MAX_BYTES} are allowed"
        )
    objects = list(_objects(schema))
    _check_counts(objects)
    for keywords in objects:
        _check_keywords(keywords)
    schema = _mapped(schema, _without_annotations)
    if not any("allOf" in keywords for keywords in objects):
        schema = _mapped(schema, _closed)
    return {**schema, _OPTIONS_KEY: _OPTIONS}


def _objects(schema: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Every JSON object in the schema, whatever it stands for; bounds the depth."""
    values: list[tuple[Any, int]] = [(schema, 1)]
    while values:
        value, depth = values.pop()
        if depth > _MAX_DEPTH:
            raise GrammarError(f"the JSON Schema is nested more than {_MAX_DEPTH} levels deep")
        if isinstance(value, dict):
            yield value
            values += [(member, depth + 1) for member in value.values()]
        elif isinstance(value, list):
            values += [(element, depth + 1) for element in value]


def _check_counts(objects: list[dict[str, Any]]) -> None:
    num_references = sum("$ref" in keywords for keywords in objects)
    if num_references > _MAX_REFERENCES:
        raise GrammarError(
            f"the JSON Schema has {num_references} `$ref`; at most {_MAX_REFERENCES} are allowed"
        )
    if any("allOf" in keywords or len(_INTERSECTED & keywords.keys()) > 1 for keywords in objects):
        _check_intersections(objects)
    num_characters = sum(map(_pattern_characters, objects))
    if num_characters > _MAX_PATTERN_CHARACTERS:
        raise GrammarError(
            f"the patterns of the JSON Schema have {num_characters} characters in all; at most "
            f"{_MAX_PATTERN_CHARACTERS} are allowed"
        )


def _check_intersections(objects: list[dict[str, Any]]) -> None:
    num_patterns = sum("pattern" in keywords for keywords in objects)
    enums = (keywords.get("enum") for keywords in objects)
    num_values = sum(len(values) for values in enums if isinstance(values, list))
    for name, count, limit in (
        ("pattern", num_patterns, _MAX_INTERSECTED_PATTERNS),
        ("enum", num_values, _MAX_INTERSECTED_VALUES),
    ):
        if count > limit:
            raise GrammarError(
                f"a JSON Schema that combines schemas (`allOf`, or `$ref` or `anyOf` beside other "
                f"keywords) may have at most {limit} values of `{name}` in all. Given: {count}"
            )


def _pattern_characters(keywords: dict[str, Any]) -> int:
    pattern, by_pattern = keywords.get("pattern"), keywords.get("patternProperties")
    count = len(pattern) if isinstance(pattern, str) else 0
    return count + (sum(map(len, by_pattern)) if isinstance(by_pattern, dict) else 0)


def _check_keywords(keywords: dict[str, Any]) -> None:
    """Refuse what llguidance would ignore. An object that is no schema may look like one: where
    that is possible only values are judged that a schema of that name could not be.
    """
    for name in _IGNORED_KEYWORDS:
        if name in keywords and not isinstance(keywords[name], dict):
            raise GrammarError(f"`{name}` of JSON Schema is not supported")
    for name in ("exclusiveMinimum", "exclusiveMaximum"):
        if isinstance(keywords.get(name), bool):
            raise GrammarError(f"`{name}` must be a number")
    least, required = keywords.get("minProperties"), keywords.get("required")
    num_required = len(required) if isinstance(required, list) else 0
    # Members that the schema does not name may come twice, and then count once.
    if isinstance(least, int) and least > max(1, num_required):
        raise GrammarError(
            "`minProperties` greater than 1 is only supported up to the number of `required` ones"
        )
    for name in ("const", "enum"):
        if name in keywords:
            _check_characters(keywords[name], name)


def _check_characters(value: Any, name: str) -> None:
    """Texts to be written as they are must be writable."""
    if isinstance(value, str):
        if any(c < " " and c not in _NAMED_CONTROLS for c in value):
            raise GrammarError(f"`{name}` of JSON Schema has a control character in {value!r}")
    elif isinstance(value, dict):
        for member in value.values():
            _check_characters(member, name)
    elif isinstance(value, list):
        for element in value:
            _check_characters(element, name)


def _mapped(schema: Any, change: Callable[[dict[str, Any]], dict[str, Any]]) -> Any:
    """The schema with itself and every schema in it changed; texts, numbers and constants stay."""
    if not isinstance(schema, dict):
        return schema
    return change({name: _mapped_member(name, value, change) for name, value in schema.items()})


def _mapped_member(
    name: str, value: Any, change: Callable[[dict[str, Any]], dict[str, Any]]
) -> Any:
    """A keyword's value with the schemas in it changed."""
    if name in ("properties", "patternProperties", "$defs", "definitions"):
        if isinstance(value, dict):
            return {key: _mapped(member, change) for key, member in value.items()}
    elif name in ("items", "additionalProperties"):
        is_list = isinstance(value, list)
        return [_mapped(s, change) for s in value] if is_list else _mapped(value, change)
    elif name in ("allOf", "anyOf", "oneOf", "prefixItems") and isinstance(value, list):
        return [_mapped(element, change) for element in value]
    return value


def _without_annotations(schema: dict[str, Any]) -> dict[str, Any]:
    """Less to compile and to send, and nothing of what may be in a text."""
    return {name: value for name, value in schema.items() if name not in _ANNOTATIONS}


def _closed(schema: dict[str, Any]) -> dict[str, Any]:
    """A schema that names its properties closed to others, where it does not speak of them."""
    properties = schema.get("properties")
    if not isinstance(properties, dict) or schema.keys() & (
        _COMBINING_KEYWORDS | _SPEAKS_OF_OTHERS
    ):
        return schema
    required = schema.get("required", [])
    if isinstance(required, list) and all(name in properties for name in map(str, required)):
        return {**schema, "additionalProperties": False}
    return schema
