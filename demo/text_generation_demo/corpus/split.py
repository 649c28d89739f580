"""The split into train and held-out phrasings.

A phrasing is held out per subject: "Define {x}." may be unseen for "gravity" and seen for "light".
The choice depends on a checksum alone, so that it stays the same when other subjects come or go.
"""

from collections.abc import Sequence
from enum import Enum
from functools import cache
from random import Random
from zlib import crc32

HELD_OUT_ONE_IN = 9


class Split(Enum):
    TRAIN = "train"
    HELD_OUT = "held-out"


def _checksum(subject: str, phrasing: str) -> int:
    return crc32(f"{subject}\x1f{phrasing}".encode())


@cache
def phrasings_of(subject: str, phrasings: tuple[str, ...], split: Split) -> tuple[str, ...]:
    """The part of the phrasings that belongs to the split.

    The first phrasing is always trained. Of the others about one in nine is held out, at least one.
    """
    if len(phrasings) < 2:
        return phrasings
    others = phrasings[1:]
    held_out = {p for p in others if _checksum(subject, p) % HELD_OUT_ONE_IN == 0}
    held_out = held_out or {min(others, key=lambda p: _checksum(subject, p))}
    wants_held_out = split is Split.HELD_OUT
    return tuple(p for p in phrasings if (p in held_out) == wants_held_out)


def choose_phrasing(rng: Random, split: Split, subject: str, phrasings: Sequence[str]) -> str:
    return rng.choice(phrasings_of(subject, tuple(phrasings), split))
