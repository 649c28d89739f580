"""The grammar of gpt-oss's answers: reasoning is free, the answer and calls are not."""

import pytest
from text_generation_router.grammar.harmony import HarmonyGrammar
from text_generation_router.prompt.tool_formats import HARMONY

from tests.router.grammar.test_tool_grammars import ANSWER, Checker, calls

THOUGHTS = '<|channel|>analysis<|message|>{"a": "b"}? to=functions.clock<|end|><|start|>assistant'
REMARK = "<|channel|>commentary<|message|>Let me see.<|end|><|start|>assistant"
FINAL = "<|channel|>final<|message|>"
CALL = (
    "<|channel|>commentary to=functions.get_weather <|constrain|>json<|message|>"
    '{"city": "Paris", "days": 3}'
)
every_beginning = pytest.mark.parametrize("begun", ["", THOUGHTS, THOUGHTS + REMARK])


@pytest.fixture(scope="module")
def checker() -> Checker:
    """With the marks as tokens: no gpt-oss is without them."""
    return Checker(with_tokens=True)


@every_beginning
def test_an_answer_follows_its_grammar(checker: Checker, begun: str) -> None:
    source = HarmonyGrammar(answer=ANSWER)
    assert checker.accepts(source, begun + FINAL + '{"a": 1}')
    assert not checker.accepts(source, begun + FINAL + '{"a": "b"}')
    assert not checker.accepts(source, begun + CALL)
    assert not checker.accepts(source, begun + '{"a": 1}')
    assert not checker.accepts(source, begun)


@every_beginning
def test_calls_that_must_be(checker: Checker, begun: str) -> None:
    source = HarmonyGrammar(calls=calls(HARMONY, several=False), must_call=True)
    assert checker.accepts(source, begun + CALL)
    assert not checker.accepts(source, begun + CALL.replace("3", '"3"'))
    assert not checker.accepts(source, begun + CALL.replace("weather", "whether"))
    assert not checker.accepts(source, begun + FINAL + "No.")
    assert not checker.accepts(source, begun + CALL + CALL)


@every_beginning
def test_calls_that_may_be(checker: Checker, begun: str) -> None:
    source = HarmonyGrammar(calls=calls(HARMONY))
    assert checker.accepts(source, begun + CALL)
    assert not checker.accepts(source, begun + CALL.replace("3", '"3"'))
    assert checker.accepts(source, begun + FINAL + "No.")
    both = HarmonyGrammar(calls=calls(HARMONY), answer=ANSWER)
    assert checker.accepts(both, begun + CALL)
    assert checker.accepts(both, begun + FINAL + '{"a": 1}')
    assert not checker.accepts(both, begun + FINAL + "No.")
