"""Where a JSON value in a growing text ends."""

import re

_IN_STRING = re.compile(r'["\\]')
_OUTSIDE = re.compile(r'["{}\[\]]')


class JsonExtent:
    """Finds the end of an object or list, piece by piece; looks at every character once.

    Only strings and brackets are followed: whether it is JSON, a decoder has to say.
    """

    def __init__(self) -> None:
        self._depth = 0
        self._in_string = False
        # The last piece ended between a backslash and what it escapes.
        self._is_escaped = False

    def end(self, piece: str) -> int | None:
        """The place in the next piece after the last bracket; None if the value goes on."""
        if not piece:
            return None
        at = 1 if self._is_escaped else 0
        self._is_escaped = False
        while True:
            pattern = _IN_STRING if self._in_string else _OUTSIDE
            found = pattern.search(piece, at)
            if found is None:
                return None
            at = found.end()
            character = found[0]
            if character == "\\":
                self._is_escaped = at == len(piece)
                at += 1
            elif character == '"':
                self._in_string = not self._in_string
            else:
                self._depth += 1 if character in "{[" else -1
                if self._depth <= 0:
                    return at
