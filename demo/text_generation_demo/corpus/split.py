"""The split into train and held-out phrasings.

A phrasing is held out per subject: "Define {x}." may be unseen for "gravity" and seen for "light".
The choice depends on a checksum alone, so that it stays the same when other subjects come or go.
"""

import re
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


def _plain(phrasing: str) -> str:
    """Phrasings that differ in case or punctuation only count as the same."""
    return " ".join(re.sub(r"[^\w{}\s]", " ", phrasing.lower()).split())


@cache
def phrasings_of(subject: str, phrasings: tuple[str, ...], split: Split) -> tuple[str, ...]:
    """The part of the phrasings that belongs to the split; the held-out part may be empty.

    The first phrasing is always trained. Of the others about one in nine is not, at least one.
    """
    if len(phrasings) < 2:
        return phrasings if split is Split.TRAIN else ()
    others = phrasings[1:]
    untrained = {p for p in others if _checksum(subject, p) % HELD_OUT_ONE_IN == 0}
    untrained = untrained or {min(others, key=lambda p: _checksum(subject, p))}
    trained = tuple(p for p in phrasings if p not in untrained)
    if split is Split.TRAIN:
        return trained
    seen = {_plain(p) for p in trained}
    return tuple(p for p in phrasings if p in untrained and _plain(p) not in seen)


def choose_phrasing(rng: Random, split: Split, subject: str, phrasings: Sequence[str]) -> str:
    """A subject without any held-out phrasing gives its first one for both splits."""
    candidates = phrasings_of(subject, tuple(phrasings), split)
    return rng.choice(candidates or phrasings[:1])
