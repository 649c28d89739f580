"""The dialects that become a chat (OpenAI's chat and Responses, Anthropic's Messages) share the way
to its generation requests.
"""

from text_generation_router.api import chat
from text_generation_router.api.chat_types import ChatBody
from text_generation_router.http.service import Service
from text_generation_router.observability.request_record import RequestRecord


async def prepared_chat(
    service: Service,
    record: RequestRecord,
    body: ChatBody,
    lengths: chat.LengthFields = chat.OPENAI_LENGTHS,
) -> chat.ChatGeneration:
    """Wait for the request's turn, and validate it; a `RequestError` says what is wrong with it."""
    await service.gate.turn()
    wanted = await chat.prepare(
        body,
        limits=service.limits,
        tokenizer=service.tokenizer,
        templates=service.templates,
        grammars=service.grammars,
        lengths=lengths,
    )
    record.validated(wanted.requests)
    return wanted
