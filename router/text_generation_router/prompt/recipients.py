"""functionary's answers (v3.2): messages, each of them to a recipient, and `all` is the user.

    >>>all
    Let me see.>>>get_weather
    {"city": "Paris"}

Its template begins the first header. `tool_formats.FUNCTIONARY` is how calls look.
"""

import re

MARK = ">>>"
EVERYONE = "all"
# The line behind the mark; what is longer is none.
_NAME = re.compile(r"[\w.-]{1,64}")


class RecipientParser:
    """Takes the headers to the user out of an answer; feed it piece by piece, then `finish` it.

    What is to a function stays as it is, for the parser of calls; so does a mark that begins no
    header, such as a prompt of Python's in an example.
    """

    def __init__(self, prompt: str) -> None:
        self._held = ""
        self._in_header = opens_header(prompt)
        # The answer's own mark of a header; not the one that the prompt has.
        self._mark = ""

    def feed(self, text: str) -> str:
        """The text that became certain with this piece."""
        self._held += text
        told: list[str] = []
        while self._held and (self._read_header(told) if self._in_header else self._read(told)):
            pass
        return "".join(told)

    def finish(self) -> str:
        """What was held back, at the end of the answer; a header to the user is no part of it."""
        held, self._held = self._held, ""
        if not self._in_header:
            return held
        return "" if not self._mark and EVERYONE.startswith(held) else self._mark + held

    def _read(self, told: list[str]) -> bool:
        """Text up to the next mark; False when more is needed."""
        before, found, after = self._held.partition(MARK)
        if found:
            told.append(before)
            self._held, self._in_header, self._mark = after, True, MARK
            return True
        certain = len(self._held.rstrip(">")) if self._held.endswith(">") else len(self._held)
        told.append(self._held[:certain])
        self._held = self._held[certain:]
        return False

    def _read_header(self, told: list[str]) -> bool:
        name, ends, after = self._held.partition("\n")
        if _NAME.fullmatch(name) is None:
            told.append(self._mark)
        elif not ends:
            return False
        elif name == EVERYONE:
            self._held = after
        else:
            told.append(f"{MARK}{name}\n")
            self._held = after
        self._in_header = False
        return True


def opens_header(prompt: str) -> bool:
    """Whether a prompt ends where the model names the recipient."""
    return prompt.endswith(MARK)


def has_recipients(template: str) -> bool:
    """Whether a chat template's source tells that its model writes like this."""
    return MARK + EVERYONE in template
