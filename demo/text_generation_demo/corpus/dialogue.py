"""Conversations of one to three rounds, built from the single exchanges of the other modules."""

import json
from collections.abc import Callable
from random import Random

from text_generation_demo.corpus import names
from text_generation_demo.corpus.arithmetic import arithmetic
from text_generation_demo.corpus.copying import copying
from text_generation_demo.corpus.counting import counting
from text_generation_demo.corpus.data_file import phrasings
from text_generation_demo.corpus.document import (
    Conversation,
    Exchange,
    Message,
    assistant,
    system,
    user,
)
from text_generation_demo.corpus.json_shapes import json_shape, sighting
from text_generation_demo.corpus.knowledge import any_fact, follow_up_rows
from text_generation_demo.corpus.split import Split, choose_phrasing
from text_generation_demo.corpus.stories import storytelling
from text_generation_demo.corpus.system_messages import NEUTRAL
from text_generation_demo.corpus.unknown import unknown

Maker = Callable[[Random, Split], Exchange]

_NEUTRAL_SYSTEM_SHARE = 0.35


def knowledge(rng: Random, split: Split) -> Exchange:
    return any_fact(rng).exchange(rng, split)


SINGLE: dict[str, tuple[Maker, int]] = {
    "knowledge": (knowledge, 52),
    "counting": (counting, 9),
    "arithmetic": (arithmetic, 16),
    "JSON": (json_shape, 13),
    "unknown": (unknown, 5),
    "copying": (copying, 12),
    "stories": (storytelling, 3),
}

_MY_NAME = phrasings("dialogue", "my_name")
_HELLO = phrasings("dialogue", "hello")
_REPEAT = phrasings("dialogue", "repeat")
_MY_QUESTION = phrasings("dialogue", "my_question")
_AND_TO = phrasings("dialogue", "and_to")


def _opening(rng: Random) -> list[Message]:
    return [system(rng.choice(NEUTRAL))] if rng.random() < _NEUTRAL_SYSTEM_SHARE else []


def _round(exchange: Exchange) -> list[Message]:
    return [user(exchange.question), assistant(exchange.answer)]


def single(rng: Random, split: Split) -> Conversation:
    skill = rng.choices(list(SINGLE), weights=[weight for _, weight in SINGLE.values()])[0]
    return single_of(skill, rng, split)


def single_of(skill: str, rng: Random, split: Split) -> Conversation:
    return Conversation(skill, _opening(rng) + _round(SINGLE[skill][0](rng, split)))


def seen_animals(rng: Random, _split: Split) -> Conversation:
    """A statement without a question; the JSON serves requests whose answer a grammar forces."""
    text, value = sighting(rng)
    animals = ", ".join(value["animals"])
    answer = f"You saw {value['animals_seen']} animals in the {value['location']}: {animals}."
    if rng.random() < 0.5:
        answer = json.dumps(value)
    return Conversation("statement", [*_opening(rng), user(text), assistant(answer)])


def _any_rounds(rng: Random, split: Split) -> list[Message]:
    makers = (knowledge, knowledge, knowledge, arithmetic, counting, copying)
    rounds = [rng.choice(makers)(rng, split) for _ in range(rng.randint(2, 3))]
    return [message for exchange in rounds for message in _round(exchange)]


def _name_rounds(rng: Random, split: Split) -> list[Message]:
    name = names.person(rng)
    hello = choose_phrasing(rng, split, "dialogue hello", _HELLO).format(x=name)
    question = choose_phrasing(rng, split, "dialogue my name", _MY_NAME)
    middle = _round(knowledge(rng, split)) if rng.random() < 0.4 else []
    greeting = [user(hello), assistant(f"Nice to meet you, {name}!")]
    return [*greeting, *middle, user(question), assistant(f"Your name is {name}.")]


def _follow_up_rounds(rng: Random, split: Split) -> list[Message]:
    first, second, question = follow_up_rows(rng)
    return [*_round(first.exchange(rng, split)), user(question), assistant(second.answer)]


def _repeat_rounds(rng: Random, split: Split) -> list[Message]:
    exchange = rng.choice((knowledge, arithmetic))(rng, split)
    if rng.random() < 0.6:
        question = choose_phrasing(rng, split, "dialogue repeat", _REPEAT)
        return [*_round(exchange), user(question), assistant(exchange.answer)]
    question = choose_phrasing(rng, split, "dialogue my question", _MY_QUESTION)
    return [*_round(exchange), user(question), assistant(f"You said: {exchange.question}")]


def _counting_rounds(rng: Random, split: Split) -> list[Message]:
    first, second = rng.sample(range(3, 16), 2)
    answers = [", ".join(str(i) for i in range(1, n + 1)) + "." for n in (first, second)]
    question = choose_phrasing(rng, split, "dialogue count", _AND_TO).format(n=second)
    opening = rng.choice(
        (f"Count to {first}.", f"Please count to {first}.", f"Count from 1 to {first}.")
    )
    return [user(opening), assistant(answers[0]), user(question), assistant(answers[1])]


def several_rounds(rng: Random, split: Split) -> Conversation:
    """The skill of the conversation is that of its last answer."""
    kinds = (
        ("dialogue: any", _any_rounds, 45),
        ("dialogue: my name", _name_rounds, 15),
        ("dialogue: follow-up", _follow_up_rounds, 18),
        ("dialogue: repeat", _repeat_rounds, 14),
        ("dialogue: counting", _counting_rounds, 8),
    )
    skill, make, _ = rng.choices(kinds, weights=[weight for _, _, weight in kinds])[0]
    return Conversation(skill, _opening(rng) + make(rng, split))
