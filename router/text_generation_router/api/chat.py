"""OpenAI's chat dialect: from `ChatBody` to generation requests."""

from dataclasses import dataclass
from typing import Any

from text_generation_router.api.chat_messages import template_messages, template_tools
from text_generation_router.api.chat_types import ChatBody
from text_generation_router.api.errors import TemplateError, ToolError, ValidationError
from text_generation_router.api.generation import Prompt
from text_generation_router.api.grammars import compile_format, read_format
from text_generation_router.api.limits import (
    RequestLimits,
    check_positive,
    check_top_n_tokens,
    resolve_max_new_tokens,
)
from text_generation_router.api.openai_sampling import choice_samplings, stop_sequences
from text_generation_router.api.tool_choice import (
    ToolChoice,
    compile_tool_choice,
    read_tool_choice,
)
from text_generation_router.engine.request import GenerationRequest
from text_generation_router.grammar.compiler import GrammarCompiler
from text_generation_router.prompt.chat_template import ChatTemplateError
from text_generation_router.prompt.conversation import (
    ChatTemplates,
    Conversation,
    TemplateVariableError,
    ToolsUnsupportedError,
)
from text_generation_router.prompt.tokenizer import TokenizerPool

# Fields that would change the answer and that this server does not have.
_UNSUPPORTED = (
    "audio",
    "chat_template",
    "function_call",
    "functions",
    "moderation",
    "tool_prompt",
    "web_search_options",
)


@dataclass(frozen=True, kw_only=True)
class ChatGeneration:
    """A validated request: one generation for each choice."""

    prompt: Prompt
    requests: tuple[GenerationRequest, ...]
    # Whether the answer is searched for tool calls, and how many of them the client wants.
    parses_tool_calls: bool
    max_tool_calls: int | None
    logprobs: bool
    # Whether reasoning at the answer's beginning is told apart; a grammar leaves no room for it.
    parses_reasoning: bool = False


async def prepare(
    body: ChatBody,
    *,
    limits: RequestLimits,
    tokenizer: TokenizerPool,
    templates: ChatTemplates,
    grammars: GrammarCompiler,
) -> ChatGeneration:
    """Validate a request; a `RequestError` says what is wrong with it."""
    refuse_unsupported(body)
    samplings = choice_samplings(body, limits)
    stop = stop_sequences(body, limits)
    top_logprobs = body.top_logprobs or 0
    check_top_n_tokens(top_logprobs, limits, "top_logprobs")
    field, asked = _asked_tokens(body)
    check_positive(asked, field)

    choice = read_tool_choice(body)
    text = await render(body, templates)
    token_ids = tuple(await tokenizer.token_ids(text, add_special_tokens=False))
    if not token_ids:
        raise ValidationError("`messages` give an empty prompt", param="messages")
    max_new_tokens = resolve_max_new_tokens(
        asked, len(token_ids), limits, field=field, prompt="messages"
    )
    grammar = await _grammar(body, choice, grammars, tokenizer)
    requests = tuple(
        GenerationRequest(
            prompt_ids=token_ids,
            max_new_tokens=max_new_tokens,
            sampling=sampling,
            stop_sequences=stop,
            keep_stop_sequence=False,
            ignore_eos=bool(body.ignore_eos),
            top_n_tokens=top_logprobs,
            grammar=grammar,
        )
        for sampling in samplings
    )
    return ChatGeneration(
        prompt=Prompt(text=text, token_ids=token_ids),
        requests=requests,
        parses_tool_calls=bool(choice.tools),
        max_tool_calls=1 if body.parallel_tool_calls is False else None,
        logprobs=bool(body.logprobs),
        parses_reasoning=templates.write_reasoning and not grammar,
    )


async def render(body: ChatBody, templates: ChatTemplates) -> str:
    """The text of the prompt."""
    if not body.messages:
        raise ValidationError("`messages` cannot be empty", param="messages")
    tools = read_tool_choice(body).tools
    conversation = Conversation(
        messages=template_messages(body.messages),
        tools=template_tools(tools) if tools else None,
        documents=body.documents,
        continue_last=_continues_last(body),
        add_generation_prompt=body.add_generation_prompt is not False,
        variables=_template_variables(body),
    )
    try:
        return await templates.render(conversation)
    except TemplateVariableError as error:
        field = "documents" if error.name == "documents" else "chat_template_kwargs"
        raise ValidationError(f"`{field}`: {error}", param=field) from error
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
    if body.verbosity not in (None, "medium"):
        raise ValidationError("`verbosity` can only be medium", param="verbosity")
    if body.add_generation_prompt and body.continue_final_message:
        raise ValidationError(
            "`add_generation_prompt` and `continue_final_message` exclude each other",
            param="add_generation_prompt",
        )
    if read_format(body.response_format, "response_format") is None:
        return
    if body.tools is not None:
        raise ToolError("Grammar and tools are mutually exclusive", param="response_format")


async def _grammar(
    body: ChatBody, choice: ToolChoice, grammars: GrammarCompiler, tokenizer: TokenizerPool
) -> str:
    """What the answer must follow; empty for nothing."""
    ignore_eos = bool(body.ignore_eos)
    grammar = await compile_format(
        body.response_format, "response_format", grammars, ignore_eos=ignore_eos
    )
    if grammar:
        return grammar
    grammar = await compile_tool_choice(choice, grammars, tokenizer.added_ids)
    if grammar and ignore_eos:
        raise ToolError("enforced tools and `ignore_eos` exclude each other", param="ignore_eos")
    return grammar


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
    if body.continue_final_message is None:
        return can_continue and body.add_generation_prompt is None
    return body.continue_final_message


def _template_variables(body: ChatBody) -> dict[str, Any]:
    variables = dict(body.chat_template_kwargs or {})
    if body.reasoning_effort is not None:
        variables["reasoning_effort"] = body.reasoning_effort
    return variables
