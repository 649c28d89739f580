"""Sequences share the lexer of their grammar; nobody can tell from the masks."""

import functools
import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from llguidance import LLMatcher, LLTokenizer
from text_generation_proto import shard_pb2 as pb
from text_generation_router.grammar.marks import PLAIN_MARKS
from text_generation_router.grammar.source import JsonSchemaGrammar, serialised
from text_generation_shard.grammar import matchers, table
from text_generation_shard.grammar.matchers import MatcherPool, SequenceMatcher
from text_generation_shard.grammar.table import GrammarTable
from text_generation_shard.grammar.tokenizer import GrammarTokenizer

from tests.fakes.byte_tokenizer import EOS, SPECIAL_TOKENS, byte_tokenizer

VOCAB_SIZE = 264
EOS_ID = SPECIAL_TOKENS.index(EOS)


def grammar(schema: Any) -> str:
    return serialised(JsonSchemaGrammar(schema).grammars(PLAIN_MARKS))


def regex(pattern: str) -> str:
    return LLMatcher.grammar_from_regex(pattern)


GRAMMARS = [
    grammar(
        {
            "type": "object",
            "properties": {
                "name": {"type": "string", "maxLength": 6},
                "age": {"type": "integer", "minimum": 0, "maximum": 130},
                "mood": {"enum": ["good", "bad", "grün"]},
            },
            "required": ["age"],
        }
    ),
    grammar({"type": "array", "items": {"anyOf": [{"type": "number"}, {"type": "string"}]}}),
    grammar({"type": "object"}),
    grammar({"type": "string", "format": "date-time"}),
    regex("(ab|ba){3,9}c?"),
    regex(".*[xyz].{4}"),
]


@functools.cache
def tokenizer() -> LLTokenizer:
    return LLTokenizer(byte_tokenizer().to_str(), n_vocab=VOCAB_SIZE, eos_token=[EOS_ID])


def fresh_mask(text: str, token_ids: list[int]) -> bytes:
    """Of a matcher that knows nothing but these tokens."""
    matcher = LLMatcher(tokenizer(), text, log_level=0)
    for token_id in token_ids:
        assert matcher.consume_token(token_id)
    mask = matcher.compute_bitmask()
    assert not matcher.is_error()
    return mask


def mask(pool: MatcherPool, sequence: SequenceMatcher) -> bytes:
    """As the table walks: what fails beside a shared lexer gets one of its own."""
    found = sequence.matcher.compute_bitmask()
    if sequence.error():
        pool.separate(sequence)
        found = sequence.matcher.compute_bitmask()
    return found


def step(pool: MatcherPool, sequence: SequenceMatcher, source: random.Random) -> None:
    """Compare a mask with a fresh matcher's, and take a random token that it allows."""
    found = mask(pool, sequence)
    assert sequence.error() == ""
    assert found == fresh_mask(sequence.grammar, sequence.token_ids)
    allowed = [i for i in range(VOCAB_SIZE) if found[i // 8] >> i % 8 & 1]
    # Ends are rare, so that walks are long.
    token_id = source.choice([i for i in allowed if i != EOS_ID] or allowed)
    if EOS_ID in allowed and source.random() < 0.05:
        token_id = EOS_ID
    sequence.token_ids.append(token_id)
    sequence.matcher.consume_token(token_id)


@pytest.mark.parametrize("max_states", [1, 40, 150, 10_000])
@given(seed=st.integers(0, 2**32), data=st.data())
@settings(max_examples=12, deadline=None, derandomize=True)
def test_masks_are_those_of_fresh_matchers(max_states: int, seed: int, data: st.DataObject) -> None:
    """Whatever the others did with the lexer before and in between, its limit included."""
    source = random.Random(seed)
    chosen = data.draw(st.lists(st.sampled_from(GRAMMARS), min_size=1, max_size=2))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(matchers, "_MAX_SHARED_LEXER_STATES", max_states)
        pool = MatcherPool(tokenizer())
        for _ in range(2):  # the second finds warm lexers
            sequences = [pool.begin(source.choice(chosen), []) for _ in range(4)]
            for _ in range(60):
                sequence = source.choice(sequences)
                step(pool, sequence, source)
                if source.random() < 0.05:
                    # Preempted, and admitted again with what it emitted.
                    sequences.remove(sequence)
                    sequences.append(pool.begin(sequence.grammar, sequence.token_ids))


def test_a_lexer_that_ran_into_its_limit_fails_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """All who share it get their own; whoever comes after them shares a new one."""
    monkeypatch.setattr(matchers, "_MAX_SHARED_LEXER_STATES", 40)
    pool = MatcherPool(tokenizer())
    source = random.Random(0)
    sequences = [pool.begin(GRAMMARS[0], []) for _ in range(3)]
    assert len({id(sequence.shared) for sequence in sequences}) == 1
    for _ in range(40):
        for sequence in sequences:
            step(pool, sequence, source)
    assert [sequence.shared for sequence in sequences] == [None] * 3
    later = pool.begin(GRAMMARS[0], [])
    assert later.shared is not None
    step(pool, later, source)


def test_the_limit_of_a_lexer_of_ones_own_is_final(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(matchers, "_MAX_SHARED_LEXER_STATES", 40)
    monkeypatch.setattr(matchers, "_MAX_LEXER_STATES", 60)
    pool = MatcherPool(tokenizer())
    sequence = pool.begin(GRAMMARS[0], [])
    for token_id in byte_tokenizer().encode('{"name":"a","age":12').ids[1:]:
        sequence.token_ids.append(token_id)
        sequence.matcher.consume_token(token_id)
        mask(pool, sequence)
    assert sequence.shared is None
    assert "too many states" in sequence.error()


def test_a_grammar_is_compiled_once_while_it_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    compiled: list[str] = []
    compile_grammar = MatcherPool._compile

    def note(pool: MatcherPool, text: str, max_states: int) -> LLMatcher:
        compiled.append(text)
        return compile_grammar(pool, text, max_states)

    monkeypatch.setattr(MatcherPool, "_compile", note)
    monkeypatch.setattr(matchers, "_MAX_KEPT", 2)
    pool = MatcherPool(tokenizer())
    for number in [0, 1, 0, 0, 1, 2, 1, 0]:
        pool.begin(GRAMMARS[number], [])
    # The third took the place of the first, which had not been used for longest.
    assert compiled == [GRAMMARS[number] for number in [0, 1, 2, 0]]


def test_a_grammar_that_does_not_compile_is_told() -> None:
    sequence = MatcherPool(tokenizer()).begin(regex("(a"), [])
    assert sequence.error() != ""


@pytest.mark.parametrize("numbers", [[0, 0, 0, 0], [0, 1, 0, 1]])
def test_any_number_of_threads_writes_the_masks(
    monkeypatch: pytest.MonkeyPatch, numbers: list[int]
) -> None:
    """Rows that share one lexer are walked by one of them, others by all."""
    monkeypatch.setattr(table, "_num_walkers", lambda: 4)
    grammars = GrammarTable(GrammarTokenizer(tokenizer()), num_slots=len(numbers))
    texts = [GRAMMARS[number] for number in numbers]
    grammars.admit(pb.Admission(slot=i, grammar=text) for i, text in enumerate(texts))
    slots = list(range(len(numbers)))
    written: list[list[int]] = [[] for _ in slots]
    source = random.Random(0)
    for _ in range(20):
        found = grammars.masks(slots)
        assert found is not None and not grammars.failures(slots)
        sampled: list[int] = []
        for row, text in enumerate(texts):
            mask_bytes = found.allowed[row].numpy().tobytes()
            assert (
                mask_bytes[: VOCAB_SIZE // 8] == fresh_mask(text, written[row])[: VOCAB_SIZE // 8]
            )
            allowed = [i for i in range(VOCAB_SIZE) if mask_bytes[i // 8] >> i % 8 & 1]
            sampled.append(source.choice(allowed))
            written[row].append(sampled[-1])
        grammars.advance(slots, functools.partial(list, sampled))
