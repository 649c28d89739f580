"""What one rendering of a chat template may cost.

Between two looks at the clock lies one operation on values within the bounds, so a rendering ends
soon after its time is over. Operations that could multiply (a repetition, a width, `replace`,
`join`) are judged before they are made, all others after.
"""

import re
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import jinja2

# Characters of one text, entries of one list.
MAX_SIZE = 4_000_000
# The sum over all that is made, also what is made only to be made longer.
MAX_TOTAL_SIZE = 500_000_000
# Texts of fewer characters may be made without being counted.
SMALL = 256
_MAX_NUMBER_BITS = 4096
_MAX_WIDTH = 1000

_WIDTH_METHODS = ("center", "expandtabs", "indent", "ljust", "rjust", "tojson", "wordwrap", "zfill")
# A width or precision of four digits or more, or one that comes from the values.
_WIDE_PERCENT = re.compile(r"%[-#0 +]*(\d{4,}|\d*\.\d{4,}|\d*\.?\*)")
_WIDE_BRACES = re.compile(r"{[^{}]*([:.][^{}]*\d{4,}|{)")


class TemplateLimitError(jinja2.TemplateError):
    """A rendering takes more than it may."""


class TemplateTimeError(TemplateLimitError):
    """A rendering takes too long."""


class _Allowance:
    """What is left to the rendering under way."""

    def __init__(self, seconds: float) -> None:
        self.deadline = time.monotonic() + seconds
        self._size = MAX_TOTAL_SIZE

    def spend(self, size: int) -> None:
        self._size -= size
        if self._size < 0:
            raise TemplateLimitError("the template makes too much text")


_allowance: ContextVar[_Allowance | None] = ContextVar("template_allowance", default=None)


@contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """What is rendered in this block may take so long."""
    token = _allowance.set(_Allowance(seconds))
    try:
        yield
    finally:
        _allowance.reset(token)


def check_time() -> None:
    """`TemplateTimeError` if the time of the rendering is over."""
    allowance = _allowance.get()
    if allowance is not None and time.monotonic() > allowance.deadline:
        raise TemplateTimeError("the template takes too long for this conversation")


def within_limits(value: Any) -> Any:
    """The value that was made, if it is not too large."""
    if isinstance(value, str | list | tuple | dict):
        require_size(len(value))
        allowance = _allowance.get()
        if allowance is not None:
            allowance.spend(len(value))
    return value


def require_size(size: int) -> None:
    """Refuse a text or list before it is made."""
    if size > MAX_SIZE:
        raise TemplateLimitError(f"the template makes a text or list of more than {MAX_SIZE}")


def check_operator(operator: str, left: Any, right: Any) -> None:
    """`*`, `**` and `%`, before they are computed."""
    if operator == "%" and isinstance(left, str):
        check_layout(left, _WIDE_PERCENT)
    elif isinstance(left, int) and isinstance(right, int):
        bits = left.bit_length() * right if operator == "**" else left.bit_length()
        bits += right.bit_length() if operator == "*" else 0
        if bits > _MAX_NUMBER_BITS:
            raise TemplateLimitError("the template makes too large a number")
    elif operator == "*":
        for sequence, count in ((left, right), (right, left)):
            if isinstance(sequence, str | list | tuple) and isinstance(count, int):
                require_size(len(sequence) * count)


def check_method(name: str, value: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
    """A method of a text or a filter of the same name, before it is called."""
    given = [*args, *kwargs.values()]
    if name == "replace" and len(given) > 1:
        require_size(str(value).count(str(given[0])) * len(str(given[1])))
    elif name == "join":
        is_method = isinstance(value, str) and bool(given)
        parts, separator = (given[0], value) if is_method else (value, given[0] if given else "")
        if isinstance(parts, list | tuple):
            require_size(sum(len(str(part)) + len(str(separator)) for part in parts))
    elif name in _WIDTH_METHODS:
        for width in given:
            if isinstance(width, int) and abs(width) > _MAX_WIDTH:
                raise TemplateLimitError(f"the template asks for a width of {width}")
        if name == "indent":
            widths = [len(width) if isinstance(width, str) else width for width in given]
            require_size(str(value).count("\n") * max([4, *widths]))
    elif name in ("format", "format_map"):
        check_layout(str(value).replace("{{", "").replace("}}", ""), _WIDE_BRACES)
        check_layout(str(value), _WIDE_PERCENT)


def check_layout(layout: str, too_wide: re.Pattern[str]) -> None:
    """A layout of `%` or `format`, before it is filled."""
    if too_wide.search(layout):
        raise TemplateLimitError(f"the template asks for a width above {_MAX_WIDTH - 1}")
