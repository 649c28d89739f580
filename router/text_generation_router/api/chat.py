"""OpenAI's chat dialect: from `ChatBody` to generation requests."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from text_generation_router.api.chat_grammar import AnswerShape, compile_answer
from text_generation_router.api.chat_messages import template_messages, template_tools
from text_generation_router.api.chat_types import ChatBody
from text_generation_router.api.errors import TemplateError, ToolError, ValidationError
from text_generation_router.api.generation import Prompt
from text_generation_router.api.grammars import asked_grammar
from text_generation_router.api.limits import (
    RequestLimits,
    check_positive,
    check_prompt_length,
    check_top_n_tokens,
    resolve_max_new_tokens,
)
from text_generation_router.api.openai_sampling import (
    choice_samplings,
    stop_sequences,
    stop_token_ids,
)
from text_generation_router.api.tool_choice import (
    ToolChoice,
    parameters_schema,
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
from text_generation_router.prompt.reasoning import ReasoningFormat
from text_generation_router.prompt.tokenizer import TokenizerPool
from text_generation_router.prompt.tool_formats import ToolFormat

# Fields that would change the answer and that this server does not have; and their values, beside
# null and "", that ask for nothing.
_UNSUPPORTED: Mapping[str, tuple[Any, ...]] = {
    "audio": (),
    "chat_template": (),
    "function_call": ("none", "auto"),
    "functions": ([],),
    "moderation": (),
    "web_search_options": (),
}


@dataclass(frozen=True, slots=True)
class LengthFields:
    """What a dialect calls the fields that say how long prompt and output are."""

    prompt: str
    # None: OpenAI's `max_tokens` or `max_completion_tokens`, whichever a request has.
    output: str | None = None


OPENAI_LENGTHS = LengthFields("messages")


@dataclass(frozen=True, kw_only=True)
class ChatGeneration:
    """A validated request: one generation for each choice."""

    prompt: Prompt
    requests: tuple[GenerationRequest, ...]
    logprobs: bool
    top_logprobs: int = 0
    # How the answer may call tools; None if it is not searched for calls. Then the functions that
    # the model was shown, as JSON Schemas by name, and how many calls the client wants.
    tool_format: ToolFormat | None = None
    functions: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    max_tool_calls: int | None = None
    # Whether what is no call follows a format, and may look like one without arguments.
    has_format: bool = False
    # Those functions that stand for custom tools.
    custom_tools: frozenset[str] = frozenset()
    # How reasoning at the answer's beginning is told apart; None if it is not.
    reasoning: ReasoningFormat | None = None
    # Whether the answer's messages name their recipients.
    has_recipients: bool = False


async def prepare(
    body: ChatBody,
    *,
    limits: RequestLimits,
    tokenizer: TokenizerPool,
    templates: ChatTemplates,
    grammars: GrammarCompiler,
    lengths: LengthFields = OPENAI_LENGTHS,
) -> ChatGeneration:
    """Validate a request; a `RequestError` says what is wrong with it."""
    _refuse_unsupported(body)
    samplings = choice_samplings(body, limits)
    stop = stop_sequences(body, limits)
    end_tokens = stop_token_ids(body, limits)
    top_logprobs = body.top_logprobs or 0
    check_top_n_tokens(top_logprobs, limits, "top_logprobs")
    field, asked = _asked_tokens(body)
    field = lengths.output or field
    check_positive(asked, field)

    choice = read_tool_choice(body)
    text = await _render(body, choice, templates)
    fewest = tokenizer.fewest_tokens(text)
    check_prompt_length(fewest, limits, lengths.prompt, is_counted=False)
    token_ids = tuple(await tokenizer.token_ids(text, add_special_tokens=False))
    if not token_ids:
        raise ValidationError(f"`{lengths.prompt}` gives an empty prompt", param=lengths.prompt)
    max_new_tokens = resolve_max_new_tokens(
        asked, len(token_ids), limits, field=field, prompt=lengths.prompt
    )
    shape = _answer_shape(body, choice, templates, text)
    grammar = await compile_answer(shape, grammars)
    requests = tuple(
        GenerationRequest(
            prompt_ids=token_ids,
            max_new_tokens=max_new_tokens,
            sampling=sampling,
            stop_sequences=stop,
            keep_stop_sequence=bool(body.include_stop_str_in_output),
            ignore_eos=shape.ignore_eos,
            stop_token_ids=end_tokens,
            top_n_tokens=top_logprobs,
            grammar=grammar,
        )
        for sampling in samplings
    )
    return ChatGeneration(
        prompt=Prompt(text=text, token_ids=token_ids),
        requests=requests,
        logprobs=bool(body.logprobs),
        top_logprobs=top_logprobs,
        tool_format=shape.tool_format,
        functions={each.name: parameters_schema(each) for each in choice.functions},
        custom_tools=choice.custom,
        max_tool_calls=None if choice.allows_several else 1,
        has_format=shape.asked is not None,
        reasoning=templates.reasoning,
        has_recipients=templates.has_recipients,
    )


def _answer_shape(
    body: ChatBody, choice: ToolChoice, templates: ChatTemplates, prompt: str
) -> AnswerShape:
    return AnswerShape(
        choice=choice,
        tool_format=_tool_format(templates) if choice.functions else None,
        asked=asked_grammar(body),
        reasoning=templates.reasoning,
        has_recipients=templates.has_recipients,
        prompt=prompt,
        ignore_eos=bool(body.ignore_eos),
    )


async def render(body: ChatBody, templates: ChatTemplates) -> str:
    """The text of the prompt alone; a `RequestError` says what is wrong with the request."""
    _refuse_unsupported(body)
    return await _render(body, read_tool_choice(body), templates)


async def _render(body: ChatBody, choice: ToolChoice, templates: ChatTemplates) -> str:
    if not body.messages:
        raise ValidationError("`messages` cannot be empty", param="messages")
    conversation = Conversation(
        messages=template_messages(body.messages),
        tools=template_tools(choice.functions) if choice.functions else None,
        documents=body.documents,
        tool_prompt=body.tool_prompt,
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


def _refuse_unsupported(body: ChatBody) -> None:
    """Refuse, by name, what would change the answer and cannot be honoured."""
    for name, neutral in _UNSUPPORTED.items():
        if getattr(body, name) not in (None, "", *neutral):
            raise ValidationError(f"`{name}` is not supported by this server", param=name)
    if body.modalities not in (None, ["text"]):
        raise ValidationError("`modalities` can only be text", param="modalities")
    if body.verbosity not in (None, "medium"):
        raise ValidationError("`verbosity` can only be medium", param="verbosity")
    if body.add_generation_prompt and body.continue_final_message:
        raise ValidationError(
            "`add_generation_prompt` and `continue_final_message` exclude each other",
            param="add_generation_prompt",
        )


def _tool_format(templates: ChatTemplates) -> ToolFormat:
    try:
        return templates.tool_format
    except ToolsUnsupportedError as error:
        raise ToolError(f"`tools`: {error}", param="tools") from error


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
