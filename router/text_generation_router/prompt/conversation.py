"""A conversation becomes the text of a prompt: the model's templates and what they can do."""

import asyncio
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from text_generation_router.prompt.chat_template import (
    ChatTemplate,
    ChatTemplateError,
    SlowTemplateError,
)
from text_generation_router.prompt.model_files import (
    DEFAULT_TEMPLATE,
    TOOL_USE_TEMPLATE,
    ModelFileError,
    PromptFiles,
)
from text_generation_router.prompt.reasoning import writes_reasoning

# A rendering begins on the event loop, where it mostly takes a fraction of a millisecond; if it has
# not ended after so long, it begins again in a thread.
_INLINE_SECONDS = 0.01

# Switches that clients send whatever the model; a template without them has nothing to switch.
_COMMON_SWITCHES = frozenset({"enable_thinking", "reasoning_effort", "thinking"})
# Names that a template is rendered with anyway.
_RESERVED_VARIABLES = frozenset({"messages", "tools", "documents", "add_generation_prompt"})
# The variable that names a template instead of being shown to one, such as "rag".
TEMPLATE_VARIABLE = "chat_template"
# The mark by which a template tells that the model writes its calls as `tool_calls.py` reads them.
_TOOL_CALL_MARK = "<tool_call>"


@dataclass(frozen=True, kw_only=True)
class Conversation:
    """What a template is rendered with: messages as transformers' templates expect them."""

    messages: Sequence[Mapping[str, Any]]
    tools: Sequence[Mapping[str, Any]] | None = None
    # What the answer is to be based on, for templates that show such.
    documents: Sequence[Mapping[str, Any]] | None = None
    # Continue the text of the last message instead of opening the model's turn.
    continue_last: bool = False
    # Open the model's turn, if no text is continued.
    add_generation_prompt: bool = True
    # Further variables of the template, such as `enable_thinking`.
    variables: Mapping[str, Any] = field(default_factory=dict)


class ToolsUnsupportedError(ValueError):
    """The model's template cannot show tools, or its tool calls cannot be read."""


class TemplateVariableError(ValueError):
    """The model's template does not read what a request wants it to; `name` is the variable."""

    def __init__(self, name: str, message: str) -> None:
        super().__init__(message)
        self.name = name


class ChatTemplates:
    """The templates of one model, and the thread that renders what takes long. `close` is safe
    twice.
    """

    def __init__(self, files: PromptFiles) -> None:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="template")
        self._by_name: dict[str, ChatTemplate] = {}
        for name, source in files.chat_templates.items():
            self._by_name[name] = _compile(name, source, files.special_tokens)

    @property
    def write_reasoning(self) -> bool:
        """Whether the model's answers begin with reasoning between marks."""
        return any(writes_reasoning(template.source) for template in self._by_name.values())

    async def render(self, conversation: Conversation) -> str:
        """The prompt; `ChatTemplateError` if there is no template or it fails,
        `ToolsUnsupportedError` for tools that the model could not use, `TemplateVariableError` for
        variables that the template does not read.
        """
        template = self._template(conversation)
        rendering = partial(
            template.render,
            conversation.messages,
            tools=conversation.tools,
            documents=conversation.documents,
            continue_last=conversation.continue_last,
            add_generation_prompt=conversation.add_generation_prompt,
            variables=conversation.variables,
        )
        try:
            return rendering(seconds=_INLINE_SECONDS)
        except SlowTemplateError:
            return await asyncio.get_running_loop().run_in_executor(self._thread, rendering)

    def close(self) -> None:
        """End the thread; what it still renders is not waited for."""
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _template(self, conversation: Conversation) -> ChatTemplate:
        template = self._choose(conversation)
        if conversation.tools:
            _require_tool_support(template)
        _require_variables(template, conversation)
        return template

    def _choose(self, conversation: Conversation) -> ChatTemplate:
        """As transformers does: the one that is named, the one for tools, the usual one."""
        name = conversation.variables.get(TEMPLATE_VARIABLE)
        if name is not None:
            if not isinstance(name, str) or name not in self._by_name:
                known = ", ".join(sorted(self._by_name)) or "none"
                raise TemplateVariableError(
                    TEMPLATE_VARIABLE, f"chat_template {name!r} is none of the model's ({known})"
                )
            return self._by_name[name]
        template = self._by_name.get(DEFAULT_TEMPLATE)
        if conversation.tools:
            template = self._by_name.get(TOOL_USE_TEMPLATE, template)
        if template is None:
            raise ChatTemplateError("template not found: the model has no chat template")
        return template


def _require_tool_support(template: ChatTemplate) -> None:
    if not template.uses_tools:
        raise ToolsUnsupportedError("the model's chat template does not support tools")
    if _TOOL_CALL_MARK not in template.source:
        raise ToolsUnsupportedError(
            "the tool call format of the model's chat template is not supported yet "
            f"(supported: {_TOOL_CALL_MARK})"
        )


def _require_variables(template: ChatTemplate, conversation: Conversation) -> None:
    if conversation.documents is not None and "documents" not in template.variables:
        raise TemplateVariableError(
            "documents", "the model's chat template does not show documents"
        )
    allowed = template.variables - _RESERVED_VARIABLES
    for name in conversation.variables:
        if name not in allowed | _COMMON_SWITCHES | {TEMPLATE_VARIABLE}:
            known = ", ".join(sorted(allowed)) or "no variables"
            raise TemplateVariableError(
                name, f"the model's chat template does not read {name!r}; it reads {known}"
            )


def _compile(name: str, source: str, special_tokens: Mapping[str, str]) -> ChatTemplate:
    try:
        return ChatTemplate(source, special_tokens)
    except ChatTemplateError as error:
        raise ModelFileError(f"chat template {name!r}: {error}") from error
