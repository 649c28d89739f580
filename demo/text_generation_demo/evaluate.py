"""Measures how often the greedy answer of the exported model is right, by skill.

    python -m text_generation_demo.evaluate

Held-out means that the phrasing of the question was never trained for that subject. An answer is
right when it equals the expected one, JSON when fields, types and all values named in the question
agree. Stories and other free texts have no single right answer and are not counted.
"""

import argparse
import json
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from text_generation_demo import MODEL_DIR
from text_generation_demo.chat_template import render_chat
from text_generation_demo.corpus.document import Document, RawText, user
from text_generation_demo.corpus.json_shapes import agrees_with_request
from text_generation_demo.corpus.knowledge import (
    Fact,
    concepts,
    single_facts,
    table_facts,
)
from text_generation_demo.corpus.mixture import documents
from text_generation_demo.corpus.split import Split, phrasings_of
from text_generation_demo.generation import GreedyGenerator

SEED = 4242
NUM_SCANNED = 12_000
MAX_NEW_TOKENS = 340
FREE_SKILLS = ("stories", "raw: sentence", "raw: story", "raw: person", "raw: numbers", "statement")


@dataclass(frozen=True)
class Case:
    skill: str
    prompt: str
    request: str
    expected: str


def chat_prompt(question: str) -> str:
    return render_chat([user(question)], [], add_generation_prompt=True)


def _case_of(document: Document) -> Case:
    """The last answer of a document is what is asked for."""
    if isinstance(document, RawText):
        return Case(document.skill, document.prompt, document.prompt, document.completion)
    before = document.messages[:-1]
    prompt = render_chat(before, document.tools, add_generation_prompt=True)
    whole = render_chat(document.messages, document.tools, add_generation_prompt=False)
    expected = whole[len(prompt) :].removesuffix("<|im_end|>\n")
    return Case(document.skill, prompt, before[-1]["content"], expected)


def skill_cases(max_per_skill: int) -> list[Case]:
    """Up to `max_per_skill` held-out documents of each skill."""
    by_skill: dict[str, list[Case]] = defaultdict(list)
    stream = documents(SEED, Split.HELD_OUT)
    for _ in range(NUM_SCANNED):
        case = _case_of(next(stream))
        is_wanted = case.skill not in FREE_SKILLS and len(by_skill[case.skill]) < max_per_skill
        if is_wanted:
            by_skill[case.skill].append(case)
    return [case for skill in sorted(by_skill) for case in by_skill[skill]]


def _cases_of_fact(kind: str, fact: Fact) -> Iterator[Case]:
    yield Case(f"{kind}, first phrasing", chat_prompt(fact.asks[0]), fact.asks[0], fact.answer)
    for ask in phrasings_of(fact.subject, fact.asks, Split.HELD_OUT):
        yield Case(f"{kind}, held-out phrasings", chat_prompt(ask), ask, fact.answer)
    for ask in fact.never_trained:
        yield Case(f"{kind}, held-out templates", chat_prompt(ask), ask, fact.answer)


def knowledge_cases() -> list[Case]:
    """Every fact with its first phrasing and with all held-out ones."""
    kinds = {"concepts": concepts(), "single facts": single_facts(), "tables": table_facts()}
    return [
        case
        for kind, facts in kinds.items()
        for fact in facts
        for case in _cases_of_fact(kind, fact)
    ]


def is_right(case: Case, answer: str) -> bool:
    if case.skill in ("JSON", "raw: sighting"):
        return agrees_with_request(answer, case.expected, case.request)
    if case.skill in ("tools: call", "tools: second call"):
        return bool(_parsed_call(answer) == _parsed_call(case.expected))
    return answer.strip() == case.expected.strip()


def _parsed_call(text: str) -> Any:
    try:
        return json.loads(text.replace("<tool_call>", "").replace("</tool_call>", ""))
    except json.JSONDecodeError:
        return text


@dataclass(frozen=True)
class Outcome:
    case: Case
    answer: str
    right: bool


def run_cases(generator: GreedyGenerator, cases: list[Case]) -> list[Outcome]:
    answers = generator.answers([case.prompt for case in cases], MAX_NEW_TOKENS)
    return [
        Outcome(case, answer, is_right(case, answer))
        for case, answer in zip(cases, answers, strict=True)
    ]


def table(outcomes: list[Outcome]) -> str:
    by_skill: dict[str, list[bool]] = defaultdict(list)
    for outcome in outcomes:
        by_skill[outcome.case.skill].append(outcome.right)
    rows = ["| Skill | Questions | Right |", "|---|---|---|"]
    rows += [
        f"| {skill} | {len(rights)} | {100 * sum(rights) / len(rights):.1f}% |"
        for skill, rights in by_skill.items()
    ]
    return "\n".join(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, default=MODEL_DIR)
    parser.add_argument(
        "--failures", type=int, default=0, help="print so many wrong answers per skill"
    )
    parser.add_argument("--max-per-skill", type=int, default=100)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    started = time.monotonic()
    cases = knowledge_cases() + skill_cases(arguments.max_per_skill)
    outcomes = run_cases(GreedyGenerator(arguments.model), cases)
    print(table(outcomes))
    print(f"\n{len(outcomes)} questions in {time.monotonic() - started:.0f} s")
    shown: dict[str, int] = defaultdict(int)
    for outcome in outcomes:
        case = outcome.case
        if not outcome.right and shown[case.skill] < arguments.failures:
            shown[case.skill] += 1
            print(f"\n[{case.skill}] {case.prompt[-300:]!r}\n  expected {case.expected!r}")
            print(f"  answered {outcome.answer!r}")


if __name__ == "__main__":
    main()
