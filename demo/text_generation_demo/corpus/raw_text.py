"""Texts without chat template, for requests that send a bare prompt."""

import json
from random import Random

from text_generation_demo.corpus import names
from text_generation_demo.corpus.counting import counting
from text_generation_demo.corpus.data_file import read_data
from text_generation_demo.corpus.document import RawText
from text_generation_demo.corpus.json_shapes import sighting
from text_generation_demo.corpus.knowledge import any_fact, concepts
from text_generation_demo.corpus.split import Split
from text_generation_demo.corpus.stories import story

_LIKES = ("like", "love", "enjoy")
_THINGS = (
    "music",
    "books",
    "long walks",
    "chess",
    "cooking",
    "the sea",
    "computers",
    "languages",
    "cats",
    "dogs",
)


def _cut(rng: Random, skill: str, text: str) -> RawText:
    """A text cut after a few of its words, where a user may have stopped to write."""
    words = text.split(" ")
    num_given = rng.randint(1, min(6, len(words) - 1))
    prompt = " ".join(words[:num_given])
    return RawText(skill, prompt, text[len(prompt) :])


def _question(rng: Random, split: Split) -> RawText:
    exchange = counting(rng, split)
    if rng.random() < 0.85:
        exchange = any_fact(rng).exchange(rng, split)
    draw = rng.random()
    if draw < 0.65:
        return RawText("raw: question", exchange.question, f"\n\n{exchange.answer}")
    if draw < 0.80:
        return RawText(
            "raw: question", f"Question: {exchange.question}\nAnswer:", f" {exchange.answer}"
        )
    if draw < 0.92:
        return RawText("raw: question", f"Q: {exchange.question}\nA:", f" {exchange.answer}")
    return RawText("raw: question", f"{exchange.question}\n", exchange.answer)


def _sentence(rng: Random, _split: Split) -> RawText:
    fact = rng.choice(concepts()) if rng.random() < 0.8 else any_fact(rng)
    return _cut(rng, "raw: sentence", fact.answer)


def _story(rng: Random, _split: Split) -> RawText:
    return _cut(rng, "raw: story", story(rng, rng.choice(read_data("stories")["animals"])))


def _person(rng: Random, _split: Split) -> RawText:
    name, city, age = names.person(rng), names.city(rng), rng.randint(8, 90)
    liked = rng.sample(_THINGS, 2)
    text = (
        f"My name is {name} and I {rng.choice(_LIKES)} {liked[0]}. I am {age} years old, "
        f"I live in {city}, and on Sundays I think about {liked[1]}."
    )
    return _cut(rng, "raw: person", text)


def _numbers(rng: Random, _split: Split) -> RawText:
    last = rng.randint(5, 20)
    return _cut(rng, "raw: numbers", ", ".join(str(i) for i in range(1, last + 1)) + ".")


def _sighting(rng: Random, _split: Split) -> RawText:
    text, value = sighting(rng)
    return RawText("raw: sighting", text, "\n\n" + json.dumps(value))


def raw_text(rng: Random, split: Split) -> RawText:
    makers = (_question, _sentence, _story, _person, _numbers, _sighting)
    return rng.choices(makers, weights=(50, 20, 8, 8, 5, 9))[0](rng, split)
