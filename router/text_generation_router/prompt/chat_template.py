"""Chat templates, as model authors write them for transformers. A template is foreign code and runs
in a sandbox (`template_sandbox.py`).
"""

from collections.abc import Mapping, Sequence
from typing import Any

import jinja2
from jinja2 import meta

from text_generation_router.prompt.template_limits import TemplateTimeError, time_limit
from text_generation_router.prompt.template_sandbox import TemplateSandbox

# What foreign template code may raise besides jinja2's own errors.
_RENDER_ERRORS = (
    jinja2.TemplateError,
    ArithmeticError,
    AttributeError,
    LookupError,
    MemoryError,
    RecursionError,
    TypeError,
    ValueError,
)

# Put after the text that a trailing assistant message already has, to find its end in the prompt.
_END_MARK = "\N{SYMBOL FOR RECORD SEPARATOR}end-of-message\N{SYMBOL FOR RECORD SEPARATOR}"

# The time for one prompt, by default.
_SECONDS = 5.0


class ChatTemplateError(ValueError):
    """A template cannot be compiled or rendered, or refuses the conversation; the text says why."""


class SlowTemplateError(ChatTemplateError):
    """A rendering was given up because its time was over."""


class ChatTemplate:
    """One compiled template."""

    def __init__(self, source: str, special_tokens: Mapping[str, str]) -> None:
        environment = TemplateSandbox()
        try:
            self._template = environment.from_string(source)
            # Every rendering copies them, which takes long from jinja2's chain of two.
            self._template.globals = dict(self._template.globals)
            variables = meta.find_undeclared_variables(environment.parse(source))
        except jinja2.TemplateSyntaxError as error:
            raise ChatTemplateError(f"line {error.lineno}: {error.message}") from error
        except _RENDER_ERRORS as error:  # constants are computed while it is compiled
            raise ChatTemplateError(str(error) or type(error).__name__) from error
        self._special_tokens = dict(special_tokens)
        self.source = source
        # Names that the template reads and nobody but a request can set.
        self.variables = variables - environment.globals.keys() - special_tokens.keys()
        # Whether the template shows the tools of a request to the model.
        self.uses_tools = "tools" in variables
        # Whether it shows calls of earlier turns.
        self.knows_calls = self.uses_tools or "tool_calls" in source

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        documents: Sequence[Mapping[str, Any]] | None = None,
        continue_last: bool = False,
        add_generation_prompt: bool = True,
        variables: Mapping[str, Any] | None = None,
        seconds: float = _SECONDS,
    ) -> str:
        """The prompt for a conversation.

        It ends where the model's answer begins or, with `continue_last`, where the text of the last
        message ends. `variables` are further names that the template may ask for. It has so
        many `seconds`.
        """
        context = {
            **(variables or {}),
            **self._special_tokens,
            "tools": tools,
            "documents": documents,
        }
        with time_limit(seconds):
            if continue_last:
                return self._render_open_ended(messages, context)
            return self._render(messages, context, add_generation_prompt=add_generation_prompt)

    def _render_open_ended(
        self, messages: Sequence[Mapping[str, Any]], context: Mapping[str, Any]
    ) -> str:
        begun = messages[-1]["content"].rstrip()
        if not begun:
            return self._render(messages[:-1], context, add_generation_prompt=True)
        marked = [*messages[:-1], {**messages[-1], "content": begun + _END_MARK}]
        prompt = self._render(marked, context, add_generation_prompt=False)
        before, mark, _ = prompt.rpartition(_END_MARK)
        if not mark:
            raise ChatTemplateError("the template leaves out the message that is to be continued")
        return before.replace(_END_MARK, "")

    def _render(
        self,
        messages: Sequence[Mapping[str, Any]],
        context: Mapping[str, Any],
        *,
        add_generation_prompt: bool,
    ) -> str:
        try:
            return self._template.render(
                {**context, "messages": messages, "add_generation_prompt": add_generation_prompt}
            )
        except TemplateTimeError as error:
            raise SlowTemplateError(str(error)) from error
        except _RENDER_ERRORS as error:
            raise ChatTemplateError(str(error) or type(error).__name__) from error
