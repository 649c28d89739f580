"""How the marks that a model writes between the parts of an answer stand in a grammar.

A mark that the tokenizer has as a token of its own is that token and no text: llguidance keeps the
two apart. Any other mark is text like all else.
"""

import functools
import re
from collections.abc import Collection, Mapping, Sequence
from itertools import pairwise

import msgspec

_ANYTHING = "/(?s:.*)/"


class MarkSpelling:
    """What is known of a tokenizer's own tokens; immutable.

    added_ids: texts that always are one token, and its id. special_ids: those among the tokens that
    are no text, and so no part of one. num_tokens: ids from 0 on that stand for something; a
    tokenizer may have more than the model.
    """

    def __init__(
        self,
        added_ids: Mapping[str, int] | None = None,
        special_ids: Collection[int] = (),
        num_tokens: int = 0,
    ) -> None:
        self._added_ids = {t: i for t, i in (added_ids or {}).items() if i < num_tokens}
        self._special_ids = frozenset(i for i in special_ids if i < num_tokens)
        self._num_tokens = num_tokens

    @property
    def added_texts(self) -> Collection[str]:
        """Texts that always are one token, but for white space: other tokens write that too."""
        return [text for text in self._added_ids if not text.isspace()]

    def is_token(self, mark: str) -> bool:
        """Whether a mark is a token of its own."""
        return mark in self._added_ids

    def text(self, text: str) -> str:
        """An expression of Lark for a text in which marks may stand; nothing for no text."""
        if not text:
            return ""
        parts = [part for part in self._splitter.split(text) if part] if self._added_ids else [text]
        return " ".join(self._part(part) for part in parts)

    def thoughts(self, name: str, mark: str) -> list[str]:
        """Rules for text up to the first of a mark, which belongs to it; no special tokens."""
        if not self.is_token(mark):
            return [f"{name}[lazy]: {_ANYTHING} {quoted(mark)}"]
        others = self._ids_without({*self._special_ids, self._added_ids[mark]})
        return [f"{name}: {others}* {self._part(mark)}"]

    def lead(self, name: str, mark: str, opening: str) -> list[str]:
        """Rules for whatever comes before calls, and their opening, which begins with a mark.

        Where the mark is no token of its own, all of the opening makes a beginning: text may have
        the mark in it for other reasons.
        """
        if self.is_token(mark):
            return [f"{name}: {self._ids_without({self._added_ids[mark]})}* {self.text(opening)}"]
        lead = f"{name}_text[lazy]: {_ANYTHING} {quoted(opening)}"
        return [f"{name}: {sequence(self._parts_of_text(), f'{name}_text')}", lead]

    def rest(self, name: str, mark: str) -> list[str]:
        """Rules for whatever comes where no more calls do."""
        if self.is_token(mark):
            return [f"{name}: {self._ids_without({self._added_ids[mark]})}*"]
        return [f"{name}: {sequence(self._parts_of_text(), 'REST')}"]

    def rest_unlike(self, name: str, beginnings: Sequence[str], mark: str) -> list[str]:
        """Rules for whatever does not begin like this; it ends where a mark that is a token comes.

        Only the text up to the first special token is judged.
        """
        ids = self._special_ids - {self._added_ids.get(mark)}
        more = f" ({_token_set(ids)} REST)*" if ids else ""
        unlike = " | ".join(map(quoted, beginnings))
        return [f"{name}: UNLIKE{more}", f"UNLIKE: {_ANYTHING} & ~(({unlike}) {_ANYTHING})"]

    def common_rules(self) -> list[str]:
        """Rules that the others refer to."""
        return [f"REST: {_ANYTHING}"]

    def _parts_of_text(self) -> str:
        """Texts that each end with a special token."""
        return f"(REST {_token_set(self._special_ids)})*" if self._special_ids else ""

    def _ids_without(self, excluded: Collection[int]) -> str:
        bounds = [-1, *sorted(excluded), self._num_tokens]
        gaps = [(a + 1, b - 1) for a, b in pairwise(bounds) if b - a > 1]
        return _token_ranges(gaps)

    def _part(self, text: str) -> str:
        token_id = self._added_ids.get(text)
        return quoted(text) if token_id is None else _token_set({token_id})

    @functools.cached_property
    def _splitter(self) -> re.Pattern[str]:
        longest_first = sorted(self._added_ids, key=len, reverse=True)
        return re.compile(f"({'|'.join(map(re.escape, longest_first))})")


# All marks as text, for a check without the model's vocabulary.
PLAIN_MARKS = MarkSpelling()


def sequence(*parts: str) -> str:
    """Expressions one after the other; empty ones are none."""
    return " ".join(filter(None, parts))


def quoted(text: str) -> str:
    """A text as a string of Lark, which is one of JSON."""
    return msgspec.json.encode(text).decode()


def _token_set(ids: Collection[int]) -> str:
    ranges: list[tuple[int, int]] = []
    for token_id in sorted(ids):
        if ranges and ranges[-1][1] == token_id - 1:
            ranges[-1] = (ranges[-1][0], token_id)
        else:
            ranges.append((token_id, token_id))
    return _token_ranges(ranges)


def _token_ranges(ranges: Sequence[tuple[int, int]]) -> str:
    """Token ids, first and last, as llguidance writes a set of them: <[1-5,9]>."""
    return f"<[{','.join(str(a) if a == b else f'{a}-{b}' for a, b in ranges)}]>"
