"""Log-probabilities of the tokens that a text came from, where an answer has more than that text.

Tokens and texts are not cut alike: marks are left out, and what may become one is held back. A
text is found again among the tokens that were read, in their order.
"""

from collections import deque

from text_generation_router.api.chat_answers import token_logprob
from text_generation_router.api.chat_types import TokenLogprob
from text_generation_router.engine.request import TokenOutput


class TextLogprobs:
    """Reads the tokens of an answer, and tells those of each text that comes out."""

    def __init__(self, num_top: int) -> None:
        self._num_top = num_top
        self._tokens: deque[TokenOutput] = deque()
        # What the token that was told last has beyond the text that it was told for.
        self._beyond = ""

    def add(self, output: TokenOutput) -> None:
        """A token was read; a special one is in no text."""
        if not output.special:
            self._tokens.append(output)

    def of(self, text: str) -> list[TokenLogprob]:
        """The tokens of the next text, which may begin and end within one: it is told where it
        begins. Tokens before it that have nothing in common with it are forgotten.
        """
        common = _common(self._beyond, text)
        self._beyond, text = self._beyond[common:] if common else "", text[common:]
        found: list[TokenLogprob] = []
        while text and self._tokens:
            output = self._tokens.popleft()
            for start in range(max(len(output.text), 1)):
                common = _common(output.text[start:], text)
                if common or not output.text:
                    found.append(token_logprob(output, self._num_top))
                    self._beyond, text = output.text[start + common :], text[common:]
                    break
        return found

    def forget(self) -> None:
        """What was read so far is in none of the texts to come."""
        self._tokens.clear()
        self._beyond = ""


def _common(written: str, text: str) -> int:
    """How many characters both begin with, if one is the beginning of the other; else 0."""
    length = min(len(written), len(text))
    return length if written[:length] == text[:length] else 0
