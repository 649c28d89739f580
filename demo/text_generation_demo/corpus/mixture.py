"""The training stream: which kind of document comes how often."""

from collections.abc import Callable, Iterator
from random import Random

from text_generation_demo.corpus.dialogue import seen_animals, several_rounds, single
from text_generation_demo.corpus.document import Document
from text_generation_demo.corpus.raw_text import raw_text
from text_generation_demo.corpus.split import Split
from text_generation_demo.corpus.system_messages import styled
from text_generation_demo.corpus.tools import with_tools

_MIXTURE: tuple[tuple[Callable[[Random, Split], Document], int], ...] = (
    (single, 53),
    (styled, 16),
    (with_tools, 9),
    (several_rounds, 11),
    (raw_text, 9),
    (seen_animals, 2),
)


def documents(seed: int, split: Split) -> Iterator[Document]:
    """An endless stream that depends on the seed alone."""
    rng = Random(seed)
    makers = [maker for maker, _ in _MIXTURE]
    weights = [weight for _, weight in _MIXTURE]
    while True:
        yield rng.choices(makers, weights=weights)[0](rng, split)
