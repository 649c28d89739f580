"""Sums, differences and products of small numbers."""

from dataclasses import dataclass
from random import Random

from text_generation_demo.corpus.data_file import phrasings
from text_generation_demo.corpus.document import Exchange
from text_generation_demo.corpus.number_words import number_word
from text_generation_demo.corpus.restyle import restyle
from text_generation_demo.corpus.split import Split, choose_phrasing

_PHRASINGS = phrasings("arithmetic", "phrasings")


@dataclass(frozen=True)
class _Operation:
    sign: str
    words: tuple[str, ...]


_PLUS = _Operation("+", ("+", "+", "plus"))
_MINUS = _Operation("-", ("-", "-", "minus"))
_TIMES = _Operation("*", ("*", "times", "x", "*"))


def arithmetic(rng: Random, split: Split) -> Exchange:
    operation = rng.choices((_PLUS, _MINUS, _TIMES), weights=(45, 25, 30))[0]
    if operation is _PLUS:
        a, b = rng.randint(0, 20), rng.randint(0, 20)
        result = a + b
    elif operation is _MINUS:
        a = rng.randint(0, 20)
        b = rng.randint(0, a)
        result = a - b
    else:
        a, b = rng.randint(0, 10), rng.randint(0, 10)
        result = a * b
    template = choose_phrasing(rng, split, f"{a}{operation.sign}{b}", _PHRASINGS)
    word = rng.choice(operation.words)
    spelled = word.isalpha() and word != "x" and rng.random() < 0.5
    first, second = (number_word(a), number_word(b)) if spelled else (str(a), str(b))
    question = template.format(a=first, op=word, b=second)
    question = restyle(rng, question) if split is Split.TRAIN else question
    return Exchange(question, f"{a} {operation.sign} {b} = {result}.", str(result))
