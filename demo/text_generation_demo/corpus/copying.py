"""Repeating, spelling and remembering what the user has said."""

from random import Random

from text_generation_demo.corpus import names
from text_generation_demo.corpus.data_file import phrasings
from text_generation_demo.corpus.document import Exchange
from text_generation_demo.corpus.split import Split, choose_phrasing

_SAY = phrasings("copying", "say")
_GREET = phrasings("copying", "greet")
_SPELL = phrasings("copying", "spell")
_WORDS = phrasings("copying", "words")


def _phrase(rng: Random) -> str:
    words = [
        rng.choice(_WORDS) if rng.random() < 0.7 else names.city(rng)
        for _ in range(rng.randint(1, 4))
    ]
    return " ".join(words)


def copying(rng: Random, split: Split) -> Exchange:
    kind = rng.choices(("say", "greet", "spell"), weights=(50, 30, 20))[0]
    if kind == "say":
        phrase = _phrase(rng)
        return Exchange(choose_phrasing(rng, split, "say", _SAY).format(x=phrase), phrase)
    if kind == "greet":
        name = names.person(rng)
        question = choose_phrasing(rng, split, "greet", _GREET).format(x=name)
        return Exchange(question, f"Nice to meet you, {name}!")
    word = rng.choice((rng.choice(_WORDS), names.person(rng)))
    question = choose_phrasing(rng, split, "spell", _SPELL).format(x=word)
    return Exchange(question, "-".join(word.upper()))
