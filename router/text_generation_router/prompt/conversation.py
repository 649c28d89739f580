"""A conversation becomes the text of a prompt: the model's templates and what they can do."""

import asyncio
import functools
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from text_generation_router.prompt.call_style import (
    PROBE_TOOLS,
    CallStyle,
    Messages,
    call_style_of,
)
from text_generation_router.prompt.chat_template import (
    ChatTemplate,
    ChatTemplateError,
    SlowTemplateError,
)
from text_generation_router.prompt.generic_tools import (
    DEFAULT_INSTRUCTION,
    with_instruction,
    without_tool_roles,
)
from text_generation_router.prompt.harmony import with_thinking
from text_generation_router.prompt.model_files import (
    DEFAULT_TEMPLATE,
    TOOL_USE_TEMPLATE,
    ModelFileError,
    PromptFiles,
)
from text_generation_router.prompt.reasoning import HARMONY, ReasoningFormat, reasoning_of
from text_generation_router.prompt.recipients import has_recipients
from text_generation_router.prompt.tool_formats import (
    GENERIC,
    KNOWN_FORMATS,
    ToolFormat,
    format_of,
)

# A rendering begins on the event loop, where it mostly takes a fraction of a millisecond; if it has
# not ended after so long, it begins again in a thread.
_INLINE_SECONDS = 0.01

# Switches that clients send whatever the model; a template without them has nothing to switch.
_COMMON_SWITCHES = frozenset({"enable_thinking", "reasoning_effort", "thinking"})
# Names that a template is rendered with anyway.
_RESERVED_VARIABLES = frozenset({"messages", "tools", "documents", "add_generation_prompt"})
# The variable that names a template instead of being shown to one, such as "rag".
TEMPLATE_VARIABLE = "chat_template"


@dataclass(frozen=True, kw_only=True)
class Conversation:
    """What a template is rendered with: messages as transformers' templates expect them."""

    messages: Sequence[Mapping[str, Any]]
    tools: Sequence[Mapping[str, Any]] | None = None
    # TGI's: what the model is told about tools at the end of the last message.
    tool_prompt: str | None = None
    # What the answer is to be based on, for templates that show such.
    documents: Sequence[Mapping[str, Any]] | None = None
    # Continue the text of the last message instead of opening the model's turn.
    continue_last: bool = False
    # Open the model's turn, if no text is continued.
    add_generation_prompt: bool = True
    # Further variables of the template, such as `enable_thinking`.
    variables: Mapping[str, Any] = field(default_factory=dict)


class ToolsUnsupportedError(ValueError):
    """The model's tool calls cannot be read."""


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

    @functools.cached_property
    def reasoning(self) -> ReasoningFormat | None:
        """How the model marks its reasoning; None if it has none."""
        found = (reasoning_of(template.source) for template in self._by_name.values())
        return next(filter(None, found), None)

    @functools.cached_property
    def has_recipients(self) -> bool:
        """Whether the model's messages name whom they are for (see `recipients.py`)."""
        return any(has_recipients(template.source) for template in self._by_name.values())

    @functools.cached_property
    def tool_format(self) -> ToolFormat:
        """How the model writes tool calls; `ToolsUnsupportedError` if nothing here can read it."""
        template = self._usual(has_tools=True)
        if not template.uses_tools:
            return GENERIC
        known = format_of(template.source)
        if known is None:
            names = ", ".join(known.name for known in KNOWN_FORMATS)
            raise ToolsUnsupportedError(
                "the tool call format of the model's chat template is not supported yet "
                f"(supported: {names})"
            )
        return known

    async def render(self, conversation: Conversation) -> str:
        """The prompt; `ChatTemplateError` if there is no template or it fails,
        `ToolsUnsupportedError` for tools that the model could not use, `TemplateVariableError` for
        variables that the template does not read.
        """
        template = self._choose(conversation)
        _require_variables(template, conversation)
        messages, tools = self._shown(template, conversation)
        rendering = functools.partial(
            template.render,
            messages,
            tools=tools,
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

    def _choose(self, conversation: Conversation) -> ChatTemplate:
        """As transformers does: the one that is named, the one for tools, the usual one."""
        name = conversation.variables.get(TEMPLATE_VARIABLE)
        if name is None:
            return self._usual(has_tools=bool(conversation.tools))
        if not isinstance(name, str) or name not in self._by_name:
            known = ", ".join(sorted(self._by_name)) or "none"
            raise TemplateVariableError(
                TEMPLATE_VARIABLE, f"chat_template {name!r} is none of the model's ({known})"
            )
        return self._by_name[name]

    def _usual(self, *, has_tools: bool) -> ChatTemplate:
        template = self._by_name.get(DEFAULT_TEMPLATE)
        if has_tools:
            template = self._by_name.get(TOOL_USE_TEMPLATE, template)
        if template is None:
            raise ChatTemplateError("template not found: the model has no chat template")
        return template

    def _shown(
        self, template: ChatTemplate, conversation: Conversation
    ) -> tuple[Messages, Sequence[Mapping[str, Any]] | None]:
        """Messages and tools as the template can show them."""
        messages: Messages = conversation.messages
        if self.reasoning is HARMONY:
            messages = [with_thinking(message) for message in messages]
        if any(message.get("tool_calls") or "tool_call_id" in message for message in messages):
            if template.knows_calls:
                messages = self._call_style.styled(messages)
            else:
                messages = without_tool_roles(messages)
        tools, instruction = conversation.tools or None, conversation.tool_prompt
        if tools is not None and self.tool_format is GENERIC:
            return with_instruction(messages, tools, instruction or DEFAULT_INSTRUCTION), None
        if tools is not None and not template.uses_tools:
            raise ToolsUnsupportedError("the chat template that is named does not support tools")
        if tools is not None and instruction:
            messages = with_instruction(messages, None, instruction)
        return messages, tools

    @functools.cached_property
    def _call_style(self) -> CallStyle:
        template = self._usual(has_tools=True)
        known = format_of(template.source)

        def render(messages: Messages) -> str | None:
            try:
                return template.render(messages, tools=PROBE_TOOLS)
            except ChatTemplateError:
                return None

        return call_style_of(render, 0 if known is None else known.id_length)


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
