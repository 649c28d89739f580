"""The fast path of a stream: a chunk is encoded once with a placeholder for its text, and every
token's text is spliced into the bytes.
"""

import secrets
from collections.abc import Callable
from typing import Any

import msgspec

_encode_text = msgspec.json.Encoder().encode
# No client can know it, so it stands nowhere else in a chunk.
_PLACEHOLDER = secrets.token_hex(16)
_ENCODED_PLACEHOLDER = _encode_text(_PLACEHOLDER)


class ChunkTemplate:
    """The bytes of a chunk whose only varying part is one string.

    Splicing gives the same bytes as encoding the whole chunk, because that is how it was made.
    """

    __slots__ = ("_prefix", "_suffix")

    def __init__(self, build: Callable[[str], Any]) -> None:
        self._prefix, self._suffix = _encode_text(build(_PLACEHOLDER)).split(_ENCODED_PLACEHOLDER)

    def splice(self, text: str) -> bytes:
        """The JSON of the chunk with this text."""
        return b"%b%b%b" % (self._prefix, _encode_text(text), self._suffix)
