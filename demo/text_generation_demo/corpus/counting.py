"""Counting upwards, downwards, in steps and in words."""

from random import Random

from text_generation_demo.corpus.data_file import phrasings
from text_generation_demo.corpus.document import Exchange
from text_generation_demo.corpus.number_words import number_word
from text_generation_demo.corpus.restyle import restyle
from text_generation_demo.corpus.split import Split, choose_phrasing

_TO = phrasings("counting", "to")
_FROM_TO = phrasings("counting", "from_to")
_DOWN = phrasings("counting", "down")
_EVEN = phrasings("counting", "even")
_WORDS = phrasings("counting", "words")


def _digits(numbers: range) -> str:
    return ", ".join(str(number) for number in numbers) + "."


def _up_to(rng: Random) -> int:
    draw = rng.random()
    if draw < 0.2:
        return 10
    if draw < 0.3:
        return rng.choice((5, 15, 20))
    return rng.choice((25, 30, 40, 50, 100)) if draw > 0.94 else rng.randint(3, 20)


def counting(rng: Random, split: Split) -> Exchange:
    kind = rng.choices(("to", "from", "down", "even", "words"), weights=(50, 15, 15, 8, 8))[0]
    n = _up_to(rng) if kind == "to" else rng.randint(3, 20)
    m = rng.randint(2, 20) if rng.random() < 0.5 else rng.randint(2, 80)
    if kind == "to":
        templates, answer = _TO, _digits(range(1, n + 1))
    elif kind == "from":
        n = m + rng.randint(2, 12)
        templates, answer = _FROM_TO, _digits(range(m, n + 1))
    elif kind == "down":
        templates, answer = _DOWN, _digits(range(n, 0, -1))
    elif kind == "even":
        templates, answer = _EVEN, _digits(range(2, n + 1, 2))
    else:
        templates, answer = _WORDS, ", ".join(number_word(i) for i in range(1, n + 1)) + "."
    template = choose_phrasing(rng, split, f"count {kind} {n}", templates)
    in_words = n < 100 and rng.random() < 0.25
    question = template.format(
        m=number_word(m) if in_words else m, n=number_word(n) if in_words else n
    )
    return Exchange(restyle(rng, question) if split is Split.TRAIN else question, answer)
