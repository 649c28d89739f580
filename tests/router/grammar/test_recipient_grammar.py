"""Grammars of functionary's answers: what its parser reads, behind the mark or with it."""

import pytest
from text_generation_router.grammar.recipients import RecipientGrammar
from text_generation_router.prompt.tool_formats import FUNCTIONARY

from tests.router.grammar.test_tool_grammars import ANSWER, OTHER, Checker, calls
from tests.router.prompt.answers import ARGUMENTS

CALL = f"get_weather\n{ARGUMENTS}"
BAD = CALL.replace(": 3", ': "3"')


@pytest.fixture(scope="module", params=[False, True], ids=["text", "tokens"])
def checker(request: pytest.FixtureRequest) -> Checker:
    return Checker(with_tokens=request.param)


@pytest.mark.parametrize("is_begun", [True, False])
def test_what_answers_look_like(checker: Checker, is_begun: bool) -> None:
    mark = "" if is_begun else ">>>"

    def accepts(text: str, **parts: object) -> bool:
        source = RecipientGrammar(is_begun=is_begun, **parts)  # type: ignore[arg-type]
        return checker.accepts(source, mark + text)

    required, optional = calls(FUNCTIONARY), calls(FUNCTIONARY, optional=True)
    one = calls(FUNCTIONARY, several=False)
    for known in (required, optional):
        assert accepts(CALL, calls=known)
        assert accepts(f"{CALL}>>>clock\n{{}}", calls=known)
        assert not accepts(BAD, calls=known)
    assert accepts(CALL, calls=one)
    assert not accepts(f"{CALL}>>>clock\n{{}}", calls=one)
    assert not accepts("all\nHello", calls=required)
    for text in ("Hello", "", ">>> 1 + 1\n2\n", "a >>>get_weather b", f"Well.>>>{CALL}"):
        assert accepts(f"all\n{text}", calls=optional), text
    assert not accepts(f"all\nWell.>>>{BAD}", calls=optional)
    assert accepts('all\n{"a": 1}', answer=ANSWER)
    assert not accepts('{"a": 1}', answer=ANSWER)
    assert accepts('all\n{"a": 1}', answer=ANSWER, calls=required)
    assert accepts(CALL, answer=ANSWER, calls=required)
    assert not accepts('all\n{"a": "b"}', answer=ANSWER, calls=required)


def test_special_tokens_of_text_are_allowed() -> None:
    checker = Checker(with_tokens=True)
    source = RecipientGrammar(is_begun=True, calls=calls(FUNCTIONARY, optional=True))
    assert checker.accepts(source, f"all\na{OTHER}b{OTHER}>>>{CALL}")
    assert not checker.accepts(source, f"all\na{OTHER}b{OTHER}>>>{BAD}")
