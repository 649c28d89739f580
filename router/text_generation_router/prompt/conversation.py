"""A conversation becomes the text of a prompt: the model's templates and what they can do."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from text_generation_router.prompt.chat_template import ChatTemplate, ChatTemplateError
from text_generation_router.prompt.model_files import (
    DEFAULT_TEMPLATE,
    TOOL_USE_TEMPLATE,
    ModelFileError,
    PromptFiles,
)
from text_generation_router.prompt.reasoning import writes_reasoning

# The mark by which a template tells that the model writes its calls as `tool_calls.py` reads them.
_TOOL_CALL_MARK = "<tool_call>"


@dataclass(frozen=True, kw_only=True)
class Conversation:
    """What a template is rendered with: messages as transformers' templates expect them."""

    messages: Sequence[Mapping[str, Any]]
    tools: Sequence[Mapping[str, Any]] | None = None
    # Continue the text of the last message instead of opening the model's turn.
    continue_last: bool = False
    # Further variables of the template, such as `enable_thinking`.
    variables: Mapping[str, Any] = field(default_factory=dict)


class ToolsUnsupportedError(ValueError):
    """The model's template cannot show tools, or its tool calls cannot be read."""


class ChatTemplates:
    """The templates of one model; immutable."""

    def __init__(self, files: PromptFiles) -> None:
        self._by_name: dict[str, ChatTemplate] = {}
        for name in (DEFAULT_TEMPLATE, TOOL_USE_TEMPLATE):
            source = files.chat_templates.get(name)
            if source is not None:
                self._by_name[name] = _compile(name, source, files.special_tokens)

    @property
    def write_reasoning(self) -> bool:
        """Whether the model's answers begin with reasoning between marks."""
        return any(writes_reasoning(template.source) for template in self._by_name.values())

    def render(self, conversation: Conversation) -> str:
        """The prompt; `ChatTemplateError` if there is no template or it fails,
        `ToolsUnsupportedError` for tools that the model could not use.
        """
        template = self._by_name.get(DEFAULT_TEMPLATE)
        if conversation.tools:
            template = self._by_name.get(TOOL_USE_TEMPLATE, template)
        if template is None:
            raise ChatTemplateError("template not found: the model has no chat template")
        if conversation.tools:
            _require_tool_support(template)
        return template.render(
            conversation.messages,
            tools=conversation.tools,
            continue_last=conversation.continue_last,
            variables=conversation.variables,
        )


def _require_tool_support(template: ChatTemplate) -> None:
    if not template.uses_tools:
        raise ToolsUnsupportedError("the model's chat template does not support tools")
    if _TOOL_CALL_MARK not in template.source:
        raise ToolsUnsupportedError(
            "the tool call format of the model's chat template is not supported yet "
            f"(supported: {_TOOL_CALL_MARK})"
        )


def _compile(name: str, source: str, special_tokens: Mapping[str, str]) -> ChatTemplate:
    try:
        return ChatTemplate(source, special_tokens)
    except ChatTemplateError as error:
        raise ModelFileError(f"chat template {name!r}: {error}") from error
