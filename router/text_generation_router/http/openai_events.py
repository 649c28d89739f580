"""How the streams of OpenAI's dialects end."""

from collections.abc import Callable, Sequence

from text_generation_router.engine.request import Finished
from text_generation_router.http.errors import ErrorAnswer

_DONE = b"[DONE]"


def openai_tail(
    usage_chunk: Callable[[Sequence[Finished]], bytes] | None,
) -> Callable[[Sequence[Finished]], Sequence[bytes]]:
    """After the last token: the usage, if it was asked for, and the mark of the end."""

    def tail(ends: Sequence[Finished]) -> Sequence[bytes]:
        return (_DONE,) if usage_chunk is None else (usage_chunk(ends), _DONE)

    return tail


def openai_error_events(answer: ErrorAnswer) -> Sequence[bytes]:
    """After a failure: the error and the mark of the end, which some clients wait for."""
    return (answer.openai_event(), _DONE)
