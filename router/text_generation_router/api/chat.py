"""OpenAI's chat dialect: from `ChatBody` to generation requests."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from text_generation_router.api.chat_messages import template_messages, template_tools
from text_generation_router.api.chat_types import ChatBody
from text_generation_router.api.errors import TemplateError, ToolError, ValidationError
from text_generation_router.api.generation import Prompt
from text_generation_router.api.limits import (
    RequestLimits,
    check_positive,
    check_top_n_tokens,
    resolve_max_new_tokens,
)
from text_generation_router.api.openai_sampling import choice_samplings, stop_sequences
from text_generation_router.engine.request import GenerationRequest
from text_generation_router.prompt.chat_template import ChatTemplateError
from text_generation_router.prompt.conversation import (
    ChatTemplates,
    Conversation,
    ToolsUnsupportedError,
)
from text_generation_router.prompt.tokenizer import TokenizerPool

# Fields that would change the answer and that this server does not have.
_UNSUPPORTED = (
    "audio",
    "chat_template",
    "documents",
    "function_call",
    "functions",
    "tool_prompt",
    "web_search_options",
)
# Names that a template is rendered with anyway.
_RESERVED_VARIABLES = frozenset({"messages", "tools", "add_generation_prompt"})


@dataclass(frozen=True, kw_only=True)
class ChatGeneration:
    """A validated request: one generation for each choice."""

    prompt: Prompt
    requests: tuple[GenerationRequest, ...]
    # Whether the answer is searched for tool calls, and how many of them the client wants.
    parses_tool_calls: bool
    max_tool_calls: int | None
    logprobs: bool


async def prepare(
    body: ChatBody,
    *,
    limits: RequestLimits,
    tokenizer: TokenizerPool,
    templates: ChatTemplates,
) -> ChatGeneration:
    """Validate a request; a `RequestError` says what is wrong with it."""
    refuse_unsupported(body)
    samplings = choice_samplings(body, limits)
    stop = stop_sequences(body, limits)
    top_logprobs = body.top_logprobs or 0
    check_top_n_tokens(top_logprobs, limits, "top_logprobs")
    field, asked = _asked_tokens(body)
    check_positive(asked, field)

    text = render(body, templates)
    token_ids = tuple(await tokenizer.token_ids(text, add_special_tokens=False))
    if not token_ids:
        raise ValidationError("`messages` give an empty prompt", param="messages")
    max_new_tokens = resolve_max_new_tokens(
        asked, len(token_ids), limits, field=field, prompt="messages"
    )
    requests = tuple(
        GenerationRequest(
            prompt_ids=token_ids,
            max_new_tokens=max_new_tokens,
            sampling=sampling,
            stop_sequences=stop,
            keep_stop_sequence=False,
            ignore_eos=bool(body.ignore_eos),
            top_n_tokens=top_logprobs,
        )
        for sampling in samplings
    )
    return ChatGeneration(
        prompt=Prompt(text=text, token_ids=token_ids),
        requests=requests,
        parses_tool_calls=_shows_tools(body),
        max_tool_calls=1 if body.parallel_tool_calls is False else None,
        logprobs=bool(body.logprobs),
    )


def render(body: ChatBody, templates: ChatTemplates) -> str:
    """The text of the prompt."""
    if not body.messages:
        raise ValidationError("`messages` cannot be empty", param="messages")
    conversation = Conversation(
        messages=template_messages(body.messages),
        tools=template_tools(body.tools or []) if _shows_tools(body) else None,
        continue_last=_continues_last(body),
        variables=_template_variables(body),
    )
    try:
        return templates.render(conversation)
    except ChatTemplateError as error:
        raise TemplateError(str(error), param="messages") from error
    except ToolsUnsupportedError as error:
        raise ToolError(f"`tools`: {error}", param="tools") from error


def refuse_unsupported(body: ChatBody) -> None:
    """Refuse, by name, what would change the answer and cannot be honoured."""
    for field in _UNSUPPORTED:
        if getattr(body, field) not in (None, ""):
            raise ValidationError(f"`{field}` is not supported by this server", param=field)
    if body.modalities not in (None, ["text"]):
        raise ValidationError("`modalities` can only be text", param="modalities")
    if body.add_generation_prompt is False:
        raise ValidationError(
            "`add_generation_prompt` cannot be false: use `continue_final_message`",
            param="add_generation_prompt",
        )
    _refuse_response_format(body)
    _refuse_forced_tools(body)


def _refuse_response_format(body: ChatBody) -> None:
    wanted: Any = body.response_format
    if wanted is None or (isinstance(wanted, dict) and wanted.get("type") == "text"):
        return
    if body.tools is not None:
        raise ToolError("Grammar and tools are mutually exclusive", param="response_format")
    raise ValidationError(
        "`response_format` other than text is not supported by this server yet",
        param="response_format",
    )


def _refuse_forced_tools(body: ChatBody) -> None:
    if body.tool_choice in (None, "auto", "none"):
        return
    if not body.tools:
        raise ToolError("`tool_choice` needs `tools`", param="tool_choice")
    raise ToolError(
        f"`tool_choice` {body.tool_choice!r} is not supported by this server yet: "
        "only auto and none are",
        param="tool_choice",
    )


def _shows_tools(body: ChatBody) -> bool:
    return bool(body.tools) and body.tool_choice != "none"


def _asked_tokens(body: ChatBody) -> tuple[str, int | None]:
    """The field that bounds the answer, and its value; the newer name wins."""
    if body.max_completion_tokens is not None:
        return "max_completion_tokens", body.max_completion_tokens
    return "max_tokens", body.max_tokens


def _continues_last(body: ChatBody) -> bool:
    """A trailing assistant message with text is continued, unless the client says otherwise."""
    last = body.messages[-1]
    can_continue = last.role == "assistant" and last.content is not None and not last.tool_calls
    if body.continue_final_message and not can_continue:
        raise ValidationError(
            "`continue_final_message` needs a last message of the assistant with text",
            param="continue_final_message",
        )
    return can_continue if body.continue_final_message is None else body.continue_final_message


def _template_variables(body: ChatBody) -> dict[str, Any]:
    variables = dict(body.chat_template_kwargs or {})
    taken: Sequence[str] = sorted(_RESERVED_VARIABLES & variables.keys())
    if taken:
        raise ValidationError(
            f"`chat_template_kwargs` cannot set {taken[0]!r}", param="chat_template_kwargs"
        )
    if body.reasoning_effort is not None:
        variables["reasoning_effort"] = body.reasoning_effort
    return variables
