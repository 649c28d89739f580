"""Numbers as shards and clients see them: 32-bit floats."""

import struct

_FLOAT32 = struct.Struct("<f")


def to_float32(value: float) -> float:
    """The nearest 32-bit float; `OverflowError` if there is none."""
    rounded: float = _FLOAT32.unpack(_FLOAT32.pack(value))[0]
    return rounded


def shortest_float32(value: float) -> float:
    """The number with the fewest decimal digits that is the same 32-bit float.

    Shards compute in 32 bits; the digits that 64 bits would add say nothing
    (-1.5351562 instead of -1.53515625116...). Not finite: unchanged (JSON shows null).
    """
    try:
        packed = _FLOAT32.pack(value)
    except OverflowError:
        return value
    shortest: float | None = None
    # Eight digits are the usual case, so the search starts there and goes down while it can.
    for digits in range(8, 0, -1):
        candidate = float(f"{value:.{digits}g}")
        if _FLOAT32.pack(candidate) != packed:
            break
        shortest = candidate
    return float(f"{value:.9g}") if shortest is None else shortest
