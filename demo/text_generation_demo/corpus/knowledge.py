"""Questions with one fixed answer: concepts, single facts, and tables such as capitals."""

from dataclasses import dataclass
from functools import cache
from random import Random
from typing import Any

from text_generation_demo.corpus.data_file import phrasings, read_data
from text_generation_demo.corpus.document import Exchange
from text_generation_demo.corpus.restyle import restyle
from text_generation_demo.corpus.split import Split, choose_phrasing


@dataclass(frozen=True)
class Fact:
    """An answer with every way to ask for it; `never_trained` are phrasings kept for evaluation."""

    subject: str
    asks: tuple[str, ...]
    answer: str
    short: str | None = None
    never_trained: tuple[str, ...] = ()

    def exchange(self, rng: Random, split: Split) -> Exchange:
        question = choose_phrasing(rng, split, self.subject, self.asks)
        if split is Split.TRAIN:
            question = restyle(rng, question)
        return Exchange(question, self.answer, self.short)


def _sentence(text: str) -> str:
    return text[0].upper() + text[1:]


def _concept(entry: dict[str, Any]) -> Fact:
    term = entry["term"]
    words = {"x": term, "be": "is", "do": "does"}
    asks = [_sentence(template.format(**words)) for template in phrasings("knowledge", "concept")]
    held_out = phrasings("knowledge", "concept_held_out")
    never_trained = tuple(template.format(**words) for template in held_out)
    asks += entry.get("asks", [])
    return Fact(term, tuple(dict.fromkeys(asks)), entry["answer"], None, never_trained)


@cache
def concepts() -> tuple[Fact, ...]:
    return tuple(_concept(entry) for entry in read_data("concepts")["concept"])


@cache
def single_facts() -> tuple[Fact, ...]:
    return tuple(
        Fact(
            entry.get("id", entry["answer"]),
            tuple(entry["asks"]),
            entry["answer"],
            entry.get("short"),
        )
        for entry in read_data("facts")["fact"]
    )


def fact_named(subject: str) -> Fact:
    return next(fact for fact in single_facts() if fact.subject == subject)


def _row_fact(table: dict[str, Any], row: list[str]) -> Fact:
    words = {"a": row[0], "b": row[1]}
    asks = tuple(_sentence(ask.format(**words)) for ask in table["asks"])
    answer = _sentence(table["answer"].format(**words))
    return Fact(
        f"{table['name']}/{row[0]}", asks, answer, _sentence(table["short"].format(**words))
    )


@cache
def tables() -> dict[str, tuple[Fact, ...]]:
    return {
        table["name"]: tuple(_row_fact(table, row) for row in table["rows"])
        for table in read_data("tables")["table"]
    }


@cache
def table_facts() -> tuple[Fact, ...]:
    return tuple(fact for facts in tables().values() for fact in facts)


@cache
def facts_with_short_answer() -> tuple[Fact, ...]:
    return tuple(fact for fact in single_facts() + table_facts() if fact.short is not None)


def any_fact(rng: Random) -> Fact:
    """Single facts least often: there are fewest of them."""
    pool = rng.choices((concepts(), single_facts(), table_facts()), weights=(32, 22, 46))[0]
    return rng.choice(pool)


def follow_up_rows(rng: Random) -> tuple[Fact, Fact, str]:
    """Two rows of one table, and a follow-up question for the second one ("And of Italy?")."""
    table = rng.choice(read_data("tables")["table"])
    first, second = rng.sample(table["rows"], 2)
    question = rng.choice(table["follow_up"]).format(a=second[0], b=second[1])
    return _row_fact(table, first), _row_fact(table, second), question
