"""What a grammar enforces of a chat answer.

- `response_format`: the answer follows it.
- Tools that must be called: the answer is calls.
- Tools that may be called: the model writes what it likes, or follows `response_format`; what it
  begins as a call has a name and arguments that fit. A schema that cannot be enforced leaves that
  function's arguments free, unless it is `strict`: then it is refused.
- Reasoning comes before all of this and is free.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from text_generation_router.api.errors import ToolError
from text_generation_router.api.grammars import AskedGrammar, compile_asked
from text_generation_router.api.tool_choice import ToolChoice, parameters_schema
from text_generation_router.grammar.answer import CallsOrAnswer, ReasonedGrammar
from text_generation_router.grammar.compiler import GrammarCompiler
from text_generation_router.grammar.errors import GrammarError
from text_generation_router.grammar.harmony import HarmonyGrammar
from text_generation_router.grammar.recipients import RecipientGrammar
from text_generation_router.grammar.source import GrammarSource, JsonSchemaGrammar
from text_generation_router.grammar.tool_calls import ToolCallGrammar
from text_generation_router.prompt import tool_formats
from text_generation_router.prompt.harmony import opens_turn
from text_generation_router.prompt.reasoning import HARMONY, ReasoningFormat
from text_generation_router.prompt.recipients import opens_header
from text_generation_router.prompt.tool_formats import ToolFormat

_ANY_ARGUMENTS: Mapping[str, Any] = {"type": "object"}


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerShape:
    """All that decides what an answer must look like."""

    choice: ToolChoice
    # None without tools.
    tool_format: ToolFormat | None
    # What the answer must follow, if anything.
    asked: AskedGrammar | None
    reasoning: ReasoningFormat | None
    # Whether the answer's messages name their recipients.
    has_recipients: bool
    # As the template wrote it: it may begin the reasoning, or end it.
    prompt: str
    ignore_eos: bool


async def compile_answer(shape: AnswerShape, grammars: GrammarCompiler) -> str:
    """The grammar of the answer; empty where the model is free."""
    asked = shape.asked
    calls = await _tool_calls(shape, grammars)
    if asked is None or shape.choice.is_required:
        if calls is None:
            return ""
        return await _compile_tools(_reasoned(calls, shape), grammars)
    # By itself first, so that a refusal names the field that it is about.
    await compile_asked(asked, grammars, ignore_eos=shape.ignore_eos)
    answer: GrammarSource = asked.source
    if calls is not None:
        if calls.format.is_bare:
            _check_beside(calls, asked, shape.choice)
        calls = replace(calls, is_optional=False, is_beside_json=calls.format.is_bare)
        answer = CallsOrAnswer(calls=calls, answer=answer)
    whole = AskedGrammar(asked.field, _reasoned(answer, shape))
    return await compile_asked(whole, grammars, ignore_eos=False)


def _check_beside(calls: ToolCallGrammar, asked: AskedGrammar, choice: ToolChoice) -> None:
    """Bare calls are told from an answer by nothing but their beginning, as JSON."""
    source, reason = asked.source, ""
    if not isinstance(source, JsonSchemaGrammar):
        reason = "is not JSON"
    elif any(each.strict for each in choice.functions) and calls.may_begin(source.schema):
        reason = "allows an answer that begins like a call of a `strict` function"
    if reason:
        raise ToolError(
            f"`{asked.field}` {reason}: it excludes `tools` with the tool call format of this "
            "model, unless `tool_choice` is required or none",
            param=asked.field,
        )


def _reasoned(answer: GrammarSource, shape: AnswerShape) -> GrammarSource:
    reasoning = shape.reasoning
    if shape.has_recipients:
        return _to_recipients(answer, is_begun=opens_header(shape.prompt))
    if reasoning is HARMONY:
        return _in_channels(answer) if opens_turn(shape.prompt) else answer
    if reasoning is None or reasoning.is_closed_by(shape.prompt):
        return answer
    is_open = reasoning.is_opened_by(shape.prompt)
    return ReasonedGrammar(reasoning=reasoning, is_open=is_open, answer=answer)


def _in_channels(answer: GrammarSource) -> GrammarSource:
    """Calls are messages of their own there, and all else is in the channel of the answer."""
    if isinstance(answer, CallsOrAnswer):
        return HarmonyGrammar(calls=answer.calls, answer=answer.answer)
    if isinstance(answer, ToolCallGrammar) and answer.format is tool_formats.HARMONY:
        calls = replace(answer, is_optional=False)
        return HarmonyGrammar(calls=calls, must_call=not answer.is_optional)
    return HarmonyGrammar(answer=answer)


def _to_recipients(answer: GrammarSource, *, is_begun: bool) -> GrammarSource:
    """Calls are messages of their own there, and all else is said to the user."""
    if isinstance(answer, CallsOrAnswer):
        calls, text = answer.calls, answer.answer
        assert isinstance(calls, ToolCallGrammar)
        return RecipientGrammar(calls=calls, answer=text, is_begun=is_begun)
    if isinstance(answer, ToolCallGrammar):
        is_known = answer.format is tool_formats.FUNCTIONARY
        return RecipientGrammar(calls=answer, is_begun=is_begun) if is_known else answer
    return RecipientGrammar(answer=answer, is_begun=is_begun)


async def _tool_calls(shape: AnswerShape, grammars: GrammarCompiler) -> ToolCallGrammar | None:
    """The calls of the answer; None where nothing of them is enforced."""
    choice = shape.choice
    if shape.tool_format is None:
        return None
    must_hold = choice.is_required or any(function.strict for function in choice.functions)
    if shape.ignore_eos and must_hold:
        raise ToolError("enforced tools and `ignore_eos` exclude each other", param="ignore_eos")
    if not must_hold and (shape.ignore_eos or grammars.refusal):
        return None
    calls = ToolCallGrammar(
        format=shape.tool_format,
        functions=[(each.name, parameters_schema(each)) for each in choice.functions],
        allows_several=choice.allows_several,
        is_optional=not choice.is_required,
    )
    if choice.is_required or await _can_enforce(calls, grammars):
        return calls
    calls = replace(calls, functions=await _enforceable(calls, choice, grammars))
    # What every function allows may be too much for all together.
    return calls if must_hold or await _can_enforce(calls, grammars) else None


async def _enforceable(
    calls: ToolCallGrammar, choice: ToolChoice, grammars: GrammarCompiler
) -> Sequence[tuple[str, Mapping[str, Any]]]:
    """The functions, with any arguments where their schema cannot be enforced."""
    functions: list[tuple[str, Mapping[str, Any]]] = []
    for function, definition in zip(calls.functions, choice.functions, strict=True):
        alone = replace(calls, functions=[function])
        can = definition.strict or await _can_enforce(alone, grammars)
        functions.append(function if can else (function[0], _ANY_ARGUMENTS))
    return functions


async def _can_enforce(source: GrammarSource, grammars: GrammarCompiler) -> bool:
    try:
        await grammars.compile(source)
    except GrammarError:
        return False
    return True


async def _compile_tools(source: GrammarSource, grammars: GrammarCompiler) -> str:
    try:
        return await grammars.compile(source)
    except GrammarError as error:
        raise ToolError(f"`tools`: {error}", param="tools") from error
