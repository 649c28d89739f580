"""Where a JSON value in a growing text ends."""

import re

_IN_STRING = re.compile(r'["\\]')
_OUTSIDE = re.compile(r'["{}\[\]]')


class JsonExtent:
    """Finds the end of an object or list that begins at `start`; looks at every character once.

    Only strings and brackets are followed: whether it is JSON, a decoder has to say.
    """

    def __init__(self, start: int) -> None:
        self.start = start
        self._at = start
        self._depth = 0
        self._in_string = False

    def end(self, text: str) -> int | None:
        """The place after the last bracket; None while the text does not reach there."""
        while True:
            pattern = _IN_STRING if self._in_string else _OUTSIDE
            found = pattern.search(text, self._at)
            if found is None:
                # Not back: an escape may reach beyond the text.
                self._at = max(self._at, len(text))
                return None
            self._at = found.end()
            character = found[0]
            if character == "\\":
                self._at += 1
            elif character == '"':
                self._in_string = not self._in_string
            else:
                self._depth += 1 if character in "{[" else -1
                if self._depth <= 0:
                    return self._at
