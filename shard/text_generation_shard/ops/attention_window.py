"""Which of the earlier tokens a query sees."""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, slots=True)
class AttentionChunk:
    """Sequences are cut into chunks of `size` tokens; a query sees its own chunk up to itself."""

    size: int


# An int is a sliding window: the tokens that a query sees, itself included. None: all before it.
Window = int | AttentionChunk | None


def first_visible(window: Window, position: int) -> int:
    """Position of the first token that a query at `position` sees.

    context          0 1 2 3 4 5 6 7 8
    None             [ . . . . . . q
    window of 4            [ . . . q
    chunks of 4      . . . . [ . . q
    """
    match window:
        case None:
            return 0
        case AttentionChunk(size):
            return position // size * size
        case _:
            return max(0, position - window + 1)


def visible(window: Window, query_positions: Tensor, key_positions: Tensor) -> Tensor:
    """True where a query may read a key: not after it, and not before what it sees."""
    is_visible = key_positions <= query_positions
    match window:
        case None:
            return is_visible
        case AttentionChunk(size):
            return is_visible & (key_positions >= query_positions // size * size)
        case _:
            return is_visible & (key_positions > query_positions - window)
