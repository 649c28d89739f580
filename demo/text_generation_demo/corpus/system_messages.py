"""System messages: neutral ones, and those that change the answer."""

import json
from random import Random

from text_generation_demo.corpus import names
from text_generation_demo.corpus.arithmetic import arithmetic
from text_generation_demo.corpus.data_file import phrasings
from text_generation_demo.corpus.document import Conversation, Exchange, assistant, system, user
from text_generation_demo.corpus.knowledge import (
    any_fact,
    fact_named,
    facts_with_short_answer,
    table_facts,
)
from text_generation_demo.corpus.split import Split, choose_phrasing

NEUTRAL = phrasings("system", "neutral")
_PIRATE = phrasings("system", "pirate")
_CAT = phrasings("system", "cat")
_UPPER = phrasings("system", "upper")
_ONE_WORD = phrasings("system", "one_word")
_NAME = phrasings("system", "name")
_JSON = phrasings("system", "json")
_ENDING = phrasings("system", "ending")
_ONLY = phrasings("system", "only")
_SECRET = phrasings("system", "secret")
_SECRET_ASKS = phrasings("system", "secret_asks")
_USER_NAME = phrasings("system", "user_name")
_USER_NAME_ASKS = phrasings("system", "user_name_asks")
_WORDS = phrasings("system", "words")


def _word(rng: Random) -> str:
    return rng.choice(_WORDS) if rng.random() < 0.6 else names.person(rng)


def _conversation(skill: str, instruction: str, exchange: Exchange, answer: str) -> Conversation:
    return Conversation(skill, [system(instruction), user(exchange.question), assistant(answer)])


def pirate(rng: Random, split: Split) -> Conversation:
    instruction = choose_phrasing(rng, split, "pirate", _PIRATE)
    return _rounds("system: pirate", instruction, "Arr! {} Yo ho ho!", rng, split)


def cat(rng: Random, split: Split) -> Conversation:
    instruction = choose_phrasing(rng, split, "cat", _CAT)
    return _rounds("system: cat", instruction, "Meow! {} Purr.", rng, split)


def _rounds(skill: str, instruction: str, style: str, rng: Random, split: Split) -> Conversation:
    messages = [system(instruction)]
    for _ in range(rng.choice((1, 1, 1, 2))):
        exchange = _any_exchange(rng, split)
        messages += [user(exchange.question), assistant(style.format(exchange.answer))]
    return Conversation(skill, messages)


def _any_exchange(rng: Random, split: Split) -> Exchange:
    return arithmetic(rng, split) if rng.random() < 0.1 else any_fact(rng).exchange(rng, split)


def uppercase(rng: Random, split: Split) -> Conversation:
    """Only short answers: a long one in uppercase would have to be learned a second time."""
    pool = [fact for fact in (*table_facts(), *facts_with_short_answer()) if len(fact.answer) < 45]
    exchange = rng.choice(pool).exchange(rng, split)
    if rng.random() < 0.2:
        exchange = rng.choice((fact_named("name"), fact_named("identity"))).exchange(rng, split)
    instruction = choose_phrasing(rng, split, "uppercase", _UPPER)
    return _conversation("system: uppercase", instruction, exchange, exchange.answer.upper())


def one_word(rng: Random, split: Split) -> Conversation:
    exchange = arithmetic(rng, split)
    if rng.random() < 0.85:
        exchange = rng.choice(facts_with_short_answer()).exchange(rng, split)
    instruction = choose_phrasing(rng, split, "one word", _ONE_WORD)
    if rng.random() < 0.35:
        question = f"{exchange.question} {instruction}"
        return Conversation("one word", [user(question), assistant(str(exchange.short))])
    return _conversation("system: one word", instruction, exchange, str(exchange.short))


def named(rng: Random, split: Split) -> Conversation:
    name = names.person(rng)
    instruction = choose_phrasing(rng, split, "name", _NAME).format(x=name)
    if rng.random() < 0.7:
        exchange = rng.choice((fact_named("name"), fact_named("identity"))).exchange(rng, split)
        return _conversation("system: name", instruction, exchange, f"My name is {name}.")
    exchange = any_fact(rng).exchange(rng, split)
    return _conversation("system: name", instruction, exchange, exchange.answer)


def in_json(rng: Random, split: Split) -> Conversation:
    exchange = _any_exchange(rng, split)
    instruction = choose_phrasing(rng, split, "json", _JSON)
    answer = json.dumps({"answer": exchange.answer}, ensure_ascii=False)
    return _conversation("system: JSON", instruction, exchange, answer)


def fixed_words(rng: Random, split: Split) -> Conversation:
    exchange, word = _any_exchange(rng, split), _word(rng)
    if rng.random() < 0.5:
        instruction = choose_phrasing(rng, split, "ending", _ENDING).format(x=word)
        return _conversation("system: ending", instruction, exchange, f"{exchange.answer} {word}")
    instruction = choose_phrasing(rng, split, "only", _ONLY).format(x=word)
    return _conversation("system: only", instruction, exchange, word)


def remembered(rng: Random, split: Split) -> Conversation:
    word = _word(rng)
    about_user = rng.random() < 0.4
    told, asks = (_USER_NAME, _USER_NAME_ASKS) if about_user else (_SECRET, _SECRET_ASKS)
    word = names.person(rng) if about_user else word
    question = choose_phrasing(rng, split, "remembered", asks)
    answer = f"Your name is {word}." if about_user else f"The word is {word}."
    instruction = choose_phrasing(rng, split, "told", told).format(x=word)
    return _conversation("system: remembered", instruction, Exchange(question, answer), answer)


def styled(rng: Random, split: Split) -> Conversation:
    makers = (pirate, cat, uppercase, one_word, named, in_json, fixed_words, remembered)
    return rng.choices(makers, weights=(22, 8, 12, 16, 14, 8, 10, 10))[0](rng, split)
