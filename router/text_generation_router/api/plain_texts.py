"""Several requests of any dialect, answered with one text each: what cloud platforms ask for."""

from collections.abc import Sequence

from text_generation_router.api import chat, native, native_answers
from text_generation_router.api.chat_types import ChatBody
from text_generation_router.api.cloud_types import InferBody, InferInput, VertexInputs
from text_generation_router.api.errors import ValidationError
from text_generation_router.api.generation import FinishedGeneration
from text_generation_router.api.limits import RequestLimits
from text_generation_router.api.native_types import GenerateBody, GenerateParameters
from text_generation_router.engine.request import GenerationRequest
from text_generation_router.grammar.compiler import GrammarCompiler
from text_generation_router.prompt.conversation import ChatTemplates
from text_generation_router.prompt.tokenizer import TokenizerPool

Wanted = native.NativeGeneration | chat.ChatGeneration


async def prepare_instance(
    body: VertexInputs | ChatBody,
    *,
    limits: RequestLimits,
    tokenizer: TokenizerPool,
    templates: ChatTemplates,
    grammars: GrammarCompiler,
) -> Wanted:
    """Validate an instance of /vertex; a `RequestError` says what is wrong with it."""
    if isinstance(body, ChatBody):
        if body.n not in (None, 1):
            raise ValidationError("`n` must be 1: an instance has one prediction", param="n")
        return await chat.prepare(
            body, limits=limits, tokenizer=tokenizer, templates=templates, grammars=grammars
        )
    return await native.prepare(
        generate_body(body.inputs, body.parameters),
        limits=limits,
        tokenizer=tokenizer,
        grammars=grammars,
        stream=False,
    )


def generate_body(inputs: str, parameters: GenerateParameters | None) -> GenerateBody:
    """TGI's request; no parameters mean sampling, as they do there."""
    if parameters is None:
        return GenerateBody(inputs=inputs)
    return GenerateBody(inputs=inputs, parameters=parameters)


def infer_texts(body: InferBody) -> list[str]:
    """The prompts of /v2/.../infer."""
    if not body.inputs:
        raise ValidationError("`inputs` cannot be empty", param="inputs")
    if body.outputs is not None and len(body.outputs) != len(body.inputs):
        raise ValidationError(
            f"`outputs` must be as many as `inputs`. Given: {len(body.outputs)} `outputs` and "
            f"{len(body.inputs)} `inputs`",
            param="outputs",
        )
    return [_text(given, f"inputs[{i}].data") for i, given in enumerate(body.inputs)]


def all_requests(wanted: Sequence[Wanted]) -> list[GenerationRequest]:
    """Every generation of every instance, next to each other."""
    return [request for instance in wanted for request in instance.requests]


def texts(wanted: Sequence[Wanted], generations: Sequence[FinishedGeneration]) -> list[str]:
    """The text of each instance; `generations` are those of `all_requests`."""
    found: list[str] = []
    rest = list(generations)
    for instance in wanted:
        own, rest = rest[: len(instance.requests)], rest[len(instance.requests) :]
        best = own[native_answers.best_candidate(own)].end.generated_text
        before = instance.text_before if isinstance(instance, native.NativeGeneration) else ""
        found.append(before + best)
    return found


def _text(given: InferInput, place: str) -> str:
    written = [entry for entry in given.data if isinstance(entry, str)]
    if len(written) == 1 and len(given.data) == 1:
        return written[0]
    if written:
        raise ValidationError(f"`{place}` must be bytes as numbers, or one text", param=place)
    try:
        return bytes(entry for entry in given.data if isinstance(entry, int)).decode()
    except UnicodeDecodeError as error:
        raise ValidationError(f"`{place}` is not UTF-8: {error}", param=place) from error
