"""gpt-oss's channels: the same result however the answer is cut into pieces."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from text_generation_router.prompt.call_reader import CallPiece, whole_calls
from text_generation_router.prompt.harmony import HarmonyParser, with_thinking
from text_generation_router.prompt.tool_calls import AnswerText, ToolCallParser
from text_generation_router.prompt.tool_formats import HARMONY

PROMPT = "<|start|>user<|message|>hi<|end|><|start|>assistant"
THOUGHTS = "<|channel|>analysis<|message|>Hm. <|end|>"
NEXT = "<|start|>assistant"
FINAL = "<|channel|>final<|message|>"
REMARK = "<|channel|>commentary<|message|>Let me see.<|end|>"
CALL = '<|channel|>commentary to=functions.clock <|constrain|>json<|message|>{"a": 1}<|call|>'


def parse(pieces: list[str], *, prompt: str = PROMPT, has_tools: bool = False) -> tuple[str, str]:
    """Reasoning and text."""
    parser = HarmonyParser(prompt, has_tools=has_tools)
    splits = [parser.feed(piece) for piece in pieces] + [parser.finish()]
    return "".join(s.reasoning for s in splits), "".join(s.text for s in splits)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (THOUGHTS + NEXT + FINAL + "Yes.\n", ("Hm. ", "Yes.\n")),
        (FINAL + "Yes.<|return|>", ("", "Yes.")),
        (THOUGHTS + NEXT + REMARK + NEXT + FINAL + "Yes.", ("Hm. ", "Let me see.\n\nYes.")),
        (THOUGHTS + NEXT + THOUGHTS, ("Hm. \n\nHm. ", "")),
        (THOUGHTS[:-7], ("Hm. ", "")),
        (THOUGHTS + NEXT + "<|channel|>fin", ("Hm. ", "")),
        ("<|channel|>final <|constrain|>json<|message|>{}", ("", "{}")),
        ("Yes. <|maybe|> <", ("", "Yes. <|maybe|> <")),
        (" Yes.", ("", " Yes.")),
        ("", ("", "")),
        ("<|start|>" + "x" * 300, ("", "<|start|>" + "x" * 300)),
        (CALL, ("", '{"a": 1}')),
    ],
)
def test_answers(text: str, expected: tuple[str, str]) -> None:
    assert parse([text]) == parse(list(text)) == expected


def test_a_continued_answer_has_no_header() -> None:
    assert parse(["es.", "<|end|>"], prompt=PROMPT + FINAL + "Y") == ("", "es.")


@pytest.mark.parametrize(
    "header",
    [
        "<|channel|>commentary to=functions.clock <|constrain|>json<|message|>",
        "<|channel|>commentary to=functions.clock<|constrain|>json<|message|>",
        "<|channel|>commentary to=functions.clock json<|message|>",
        " to=functions.clock<|channel|>commentary <|constrain|>json<|message|>",
        "<|start|>assistant to=functions.clock<|channel|>commentary json<|message|>",
        "<|channel|>analysis to=functions.clock<|message|>",
    ],
)
def test_calls_however_the_header_is_spelled(header: str) -> None:
    text = header + '{"a": "<|"}<|call|>'
    for pieces in ([text], list(text)):
        parser, calls = HarmonyParser(PROMPT, has_tools=True), ToolCallParser(HARMONY, {})
        parts = [part for piece in pieces for part in calls.feed(parser.feed(piece).text)]
        parts += calls.feed(parser.finish().text) + calls.finish()
        assert not any(isinstance(part, AnswerText) for part in parts)
        found = whole_calls(part for part in parts if isinstance(part, CallPiece))
        assert found == [CallPiece("clock", '{"a": "<|"}', is_last=True)]


def test_a_call_without_arguments() -> None:
    text = CALL.replace('{"a": 1}', "")
    assert parse([text], has_tools=True)[1].endswith("<|message|>{}")


@given(
    st.lists(
        st.sampled_from(
            [THOUGHTS, NEXT, FINAL, REMARK, CALL, "<|start|>", "<|mess", "<|", "a", " ", "é😀"]
        ),
        max_size=8,
    ).map("".join),
    st.booleans(),
    st.data(),
)
def test_every_split_gives_the_same(text: str, has_tools: bool, data: st.DataObject) -> None:
    cuts = data.draw(st.lists(st.integers(0, len(text)), max_size=12).map(sorted))
    pieces = [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    expected = parse([text], has_tools=has_tools)
    assert parse(pieces, has_tools=has_tools) == expected
    assert parse(list(text), has_tools=has_tools) == expected


def test_tokens_of_the_reasoning_are_counted() -> None:
    pieces = ["<|channel|>", "analysis", "<|message|>", "Hm", ".", "<|end|>", "<|start|>"]
    parser = HarmonyParser(PROMPT, has_tools=False)
    counts = []
    for piece in [*pieces, "assistant", "<|channel|>", "final", "<|message|>", "Yes"]:
        parser.feed(piece)
        counts.append(parser.num_reasoned)
    assert counts == [0, 0, 3, 4, 5, 6, 6, 6, 6, 6, 6, 6]


def test_reasoning_before_a_call_is_shown_to_the_template() -> None:
    message = {"role": "assistant", "content": "", "tool_calls": [{}], "reasoning_content": "Hm."}
    assert with_thinking(message)["thinking"] == "Hm."
    for other in ({"content": "So."}, {"tool_calls": []}, {"reasoning_content": None}):
        assert "thinking" not in with_thinking({**message, **other})
