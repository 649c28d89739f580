"""Chat templates, as model authors write them for transformers.

A template is foreign code: it runs in jinja2's immutable sandbox. The environment is the one that
transformers gives it: `trim_blocks` and `lstrip_blocks`, loop controls, `tojson` without HTML
escapes, `raise_exception`, `strftime_now`, and `{% generation %}` blocks, which only mark text.
"""

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, NoReturn

import jinja2
from jinja2 import meta, nodes
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

# What foreign template code may raise besides jinja2's own errors.
_RENDER_ERRORS = (
    jinja2.TemplateError,
    ArithmeticError,
    AttributeError,
    LookupError,
    RecursionError,
    TypeError,
    ValueError,
)

# Put after the text that a trailing assistant message already has, to find its end in the prompt.
_END_MARK = "\N{SYMBOL FOR RECORD SEPARATOR}end-of-message\N{SYMBOL FOR RECORD SEPARATOR}"


class ChatTemplateError(ValueError):
    """A template cannot be compiled or rendered, or refuses the conversation; the text says why."""


class ChatTemplate:
    """One compiled template."""

    def __init__(self, source: str, special_tokens: Mapping[str, str]) -> None:
        environment = _environment()
        try:
            self._template = environment.from_string(source)
            variables = meta.find_undeclared_variables(environment.parse(source))
        except jinja2.TemplateSyntaxError as error:
            raise ChatTemplateError(f"line {error.lineno}: {error.message}") from error
        self._special_tokens = dict(special_tokens)
        self.source = source
        # Whether the template shows the tools of a request to the model.
        self.uses_tools = "tools" in variables

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        continue_last: bool = False,
        variables: Mapping[str, Any] | None = None,
    ) -> str:
        """The prompt for a conversation.

        It ends where the model's answer begins or, with `continue_last`, where the text of the last
        message ends. `variables` are further names that the template may ask for.
        """
        if continue_last:
            return self._render_open_ended(messages, tools, variables)
        return self._render(messages, tools, variables, add_generation_prompt=True)

    def _render_open_ended(
        self,
        messages: Sequence[Mapping[str, Any]],
        tools: Sequence[Mapping[str, Any]] | None,
        variables: Mapping[str, Any] | None,
    ) -> str:
        begun = messages[-1]["content"].rstrip()
        if not begun:
            return self._render(messages[:-1], tools, variables, add_generation_prompt=True)
        marked = [*messages[:-1], {**messages[-1], "content": begun + _END_MARK}]
        prompt = self._render(marked, tools, variables, add_generation_prompt=False)
        before, mark, _ = prompt.rpartition(_END_MARK)
        if not mark:
            raise ChatTemplateError("the template leaves out the message that is to be continued")
        return before.replace(_END_MARK, "")

    def _render(
        self,
        messages: Sequence[Mapping[str, Any]],
        tools: Sequence[Mapping[str, Any]] | None,
        variables: Mapping[str, Any] | None,
        *,
        add_generation_prompt: bool,
    ) -> str:
        context = {
            **self._special_tokens,
            **(variables or {}),
            "messages": messages,
            "tools": tools,
            "add_generation_prompt": add_generation_prompt,
        }
        try:
            return self._template.render(context)
        except _RENDER_ERRORS as error:
            raise ChatTemplateError(str(error) or type(error).__name__) from error


def _environment() -> ImmutableSandboxedEnvironment:
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True,
        lstrip_blocks=True,
        extensions=["jinja2.ext.loopcontrols", _GenerationBlock],
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = _strftime_now
    return environment


class _GenerationBlock(Extension):
    """`{% generation %}` marks the assistant's text for training; serving takes its content."""

    tags = {"generation"}  # noqa: RUF012  jinja2 declares it so

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    return json.dumps(
        value,
        ensure_ascii=ensure_ascii,
        indent=indent,
        separators=separators,
        sort_keys=sort_keys,
    )


def _raise_exception(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)


def _strftime_now(layout: str) -> str:
    return datetime.now().astimezone().strftime(layout)
