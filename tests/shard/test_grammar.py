"""Grammars in the shard: whatever the model would say, the answer follows them."""

import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from llguidance import LLMatcher
from text_generation_proto import shard_pb2 as pb
from text_generation_router.grammar.marks import PLAIN_MARKS
from text_generation_router.grammar.source import JsonSchemaGrammar, serialised
from text_generation_shard.grammar import matchers
from text_generation_shard.runner.device_work import DeviceWork
from text_generation_shard.shard import Shard

from tests.fakes.byte_tokenizer import EOS, SPECIAL_TOKENS, byte_tokenizer, save_byte_tokenizer
from tests.shard.checkpoints import write_checkpoint
from tests.shard.engines import running_shard, warmup_request
from tests.shard.ranks import play_on_ranks
from tests.shard.step_script import StepScript, sampling

VOCAB_SIZE = 264
EOS_ID = SPECIAL_TOKENS.index(EOS)
TOKENIZER = byte_tokenizer()
PROMPT = TOKENIZER.encode("hello").ids
PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 6},
        "age": {"type": "integer", "minimum": 0, "maximum": 130},
    },
    "required": ["name", "age"],
}


def grammar(schema: Any) -> str:
    return serialised(JsonSchemaGrammar(schema).grammars(PLAIN_MARKS))


def regex(pattern: str) -> str:
    return LLMatcher.grammar_from_regex(pattern)


def noisy(seed: int) -> pb.SamplingParameters:
    return sampling(do_sample=True, temperature=2.0, seed=seed)


def text(token_ids: list[int]) -> str:
    """The output up to its end; after that only ends may come."""
    if EOS_ID in token_ids:
        end = token_ids.index(EOS_ID)
        assert set(token_ids[end:]) == {EOS_ID}
        token_ids = token_ids[:end]
    return TOKENIZER.decode(token_ids, skip_special_tokens=False)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model")
    write_checkpoint(path, vocab_size=VOCAB_SIZE)
    save_byte_tokenizer(path)
    return path


@pytest.fixture(scope="module")
def shard(model: Path) -> Iterator[Shard]:
    warmup = warmup_request(eos_token_ids=[EOS_ID], max_total_tokens=400)
    with running_shard(model, warmup=warmup) as shard:
        yield shard


def play(shard: Shard, script: StepScript) -> dict[int, list[int]]:
    shard.reset()
    return script.play(shard.step)


def test_steps_launched_ahead_do_not_wait_for_tokens(
    shard: Shard, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The grammars' own threads read them; the outputs are the same."""
    script = StepScript()
    script.admit(0, PROMPT, sampling=noisy(0), grammar=regex("[ab]{5,9}"))
    script.admit(1, PROMPT, sampling=noisy(1))
    script.prefill(0, len(PROMPT))
    script.prefill(1, len(PROMPT))
    script.decode([0, 1], 6)
    # Another sequence with another grammar takes the slot at once.
    script.retire(0)
    script.admit(0, PROMPT, sampling=noisy(0), grammar=regex("[cd]{5,9}"))
    script.prefill(0, len(PROMPT))
    script.decode([1, 0], 5)
    expected = script.play(shard.step)
    shard.reset()
    readers: set[str] = set()
    wait = DeviceWork.wait

    def note(work: DeviceWork) -> Any:
        readers.add(threading.current_thread().name.split("_")[0])
        return wait(work)

    monkeypatch.setattr(DeviceWork, "wait", note)
    answers = [shard.begin(request) for request in script.requests]
    assert readers == {"grammar"}
    found = iter([answer() for answer in answers])
    assert script.play(lambda _: next(found)) == expected


def test_output_follows_its_grammar_and_mates_are_not_touched(shard: Shard) -> None:
    def script(grammars: dict[int, str]) -> StepScript:
        script = StepScript()
        for slot in range(4):
            script.admit(slot, PROMPT, sampling=noisy(slot), grammar=grammars.get(slot, ""))
        for slot in range(4):
            script.prefill(slot, 3)
        script.decode(range(4), 60)
        return script

    free = play(shard, script({}))
    bound = play(shard, script({1: grammar(PERSON), 3: regex("[ab]{5,9}")}))
    jsonschema.validate(json.loads(text(bound[1])), PERSON)
    assert set(text(bound[3])) <= set("ab") and 5 <= len(text(bound[3])) <= 9
    assert [bound[slot] for slot in (0, 2)] == [free[slot] for slot in (0, 2)]


def test_a_sequence_goes_on_where_it_was_preempted(shard: Shard) -> None:
    whole = StepScript()
    whole.admit(0, PROMPT, sampling=noisy(5), grammar=grammar(PERSON))
    whole.prefill(0, 64)
    whole.decode([0], 50)
    expected = play(shard, whole)[0]
    for cut in (1, 7, expected.index(EOS_ID)):
        again = StepScript()
        again.admit(
            3,
            PROMPT + expected[:cut],
            num_emitted=cut,
            sampling=noisy(5),
            grammar=grammar(PERSON),
        )
        again.prefill(3, 4)
        again.decode([3], 10)
        assert play(shard, again)[3] == expected[cut : cut + 11]


def test_a_slot_takes_the_grammar_of_its_next_sequence(shard: Shard) -> None:
    script = StepScript()
    for number, pattern in enumerate(["a{20}", "b{20}", "", "c{20}"]):
        if number:
            script.retire(0)
        script.admit(0, PROMPT, sequence_id=number, grammar=regex(pattern) if pattern else "")
        script.prefill(0, 64)
        script.decode([0], 5)
    outputs = play(shard, script)
    assert [text(outputs[number]) for number in (0, 1, 3)] == ["aaaaaa", "bbbbbb", "cccccc"]
    assert len(set(text(outputs[2]))) > 1


def test_greedy_output_is_the_best_that_is_allowed(shard: Shard) -> None:
    script = StepScript()
    script.admit(0, PROMPT, grammar=regex("yes|no"), top_n_tokens=5)
    script.prefill(0, 64)
    script.decode([0], 4)
    shard.reset()
    results = [shard.step(request) for request in script.requests]
    assert text(script.tokens(results)[0]) in ("yes", "no")
    # Only y and n had a probability.
    assert list(results[0].top_n_counts) == [2]


@pytest.mark.parametrize("broken", ["(a", "not a grammar"])
def test_a_grammar_that_fails_harms_its_own_sequence_only(shard: Shard, broken: str) -> None:
    script = StepScript()
    script.admit(0, PROMPT, sampling=noisy(1))
    script.admit(1, PROMPT, grammar=regex(broken) if broken == "(a" else broken)
    script.admit(2, PROMPT, grammar=regex("[0-9]+"))
    script.step(dict.fromkeys(range(3), len(PROMPT)))
    script.decode(range(3), 4)
    shard.reset()
    results = [shard.step(request) for request in script.requests]
    for result in results:
        assert [failure.slot for failure in result.failures] == [1]
        assert "the grammar failed" in result.failures[0].message
    assert text(script.tokens(results)[2]).isdigit()


def test_a_grammar_that_explodes_late_harms_its_own_sequence_only(shard: Shard) -> None:
    """It compiles, and the router's check of the first token passes; then the items of the parser
    are too many.
    """
    rules = 'start: "ab" first{500}\nfirst: second{500}\nsecond: "c"'
    script = StepScript()
    script.admit(0, PROMPT, sampling=noisy(1))
    script.admit(1, PROMPT, grammar=json.dumps({"grammars": [{"lark_grammar": rules}]}))
    script.admit(2, PROMPT, grammar=regex("[0-9]+"))
    script.step(dict.fromkeys(range(3), len(PROMPT)))
    script.decode(range(3), 5)
    shard.reset()
    results = [shard.step(request) for request in script.requests]
    failed = [[failure.slot for failure in result.failures] for result in results]
    assert failed[0] == []
    assert failed[-1] == [1]
    assert "Too many items" in results[-1].failures[0].message
    assert text(script.tokens(results)[2]).isdigit()


def test_a_shared_lexer_at_its_limit_costs_no_sequence(
    shard: Shard, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those that share it go on as if each had always had its own; only its own limit ends one."""
    schema = {**PERSON, "maxProperties": 3}

    def play_all() -> tuple[dict[int, list[int]], set[int]]:
        script = StepScript()
        for slot in range(3):
            script.admit(slot, PROMPT, sampling=noisy(slot), grammar=grammar(schema))
        script.admit(3, PROMPT, sampling=noisy(3), grammar=regex("[ab]{50}"))
        script.step(dict.fromkeys(range(4), len(PROMPT)))
        script.decode(range(4), 40)
        shard.reset()
        results = [shard.step(request) for request in script.requests]
        failed = {failure.slot for result in results for failure in result.failures}
        return script.tokens(results), failed

    monkeypatch.setattr(matchers, "_MAX_SHARED_LEXER_STATES", 40)
    limited, failed = play_all()
    assert not failed
    monkeypatch.undo()
    assert play_all() == (limited, set())
    schema["maxProperties"] = 4
    monkeypatch.setattr(matchers, "_MAX_SHARED_LEXER_STATES", 40)
    monkeypatch.setattr(matchers, "_MAX_LEXER_STATES", 60)
    ended, failed = play_all()
    assert failed == {0, 1, 2}
    assert ended[3] == limited[3]


def test_without_end_tokens_nothing_is_prepared(model: Path) -> None:
    with running_shard(model) as shard:
        script = StepScript()
        script.admit(0, PROMPT, grammar=regex("a"))
        script.prefill(0, 64)
        (failure,) = shard.step(script.requests[0]).failures
        assert "not asked for" in failure.message


def test_a_tokenizer_that_cannot_be_read_is_told_at_warmup(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, vocab_size=VOCAB_SIZE)
    (tmp_path / "tokenizer.json").write_text('{"model": {}}')
    with running_shard(tmp_path) as shard:
        response = shard.warm_up(warmup_request(eos_token_ids=[EOS_ID]))
        assert "tokenizer.json" in response.grammar_error


def test_two_ranks_agree(model: Path) -> None:
    script = StepScript()
    script.admit(0, PROMPT, sampling=noisy(3), grammar=grammar(PERSON))
    script.admit(1, PROMPT, sampling=noisy(4))
    script.prefill(0, 64)
    script.prefill(1, 64)
    script.decode(range(2), 50)
    first, second = play_on_ranks(
        model, [script.requests], world_size=2, dtype="float32", eos_token_ids=[EOS_ID]
    )
    checksums = [
        [result.sampled_checksum for result in rank.results[0]] for rank in (first, second)
    ]
    assert checksums[0] == checksums[1]
    assert not any(result.failures for result in second.results[0])
    outputs = script.tokens(first.results[0])
    jsonschema.validate(json.loads(text(outputs[0])), PERSON)


SCALARS: list[dict[str, Any]] = [
    {"type": "boolean"},
    {"type": "null"},
    {"type": "integer", "minimum": -20, "maximum": 300},
    {"type": "number", "minimum": 0, "maximum": 1},
    {"type": "string", "maxLength": 5},
    {"type": "string", "pattern": "^[a-c]{2,4}$"},
    {"type": "string", "format": "date"},
    {"enum": ["red", "grün", 7, None]},
    {"const": {"a": [1, "b"]}},
]
SCHEMAS = st.recursive(
    st.sampled_from(SCALARS),
    lambda inner: st.one_of(
        st.builds(lambda items: {"type": "array", "items": items, "maxItems": 2}, inner),
        st.builds(lambda options: {"anyOf": options}, st.lists(inner, min_size=1, max_size=3)),
        st.builds(
            lambda members, required: {
                "type": "object",
                "properties": members,
                "required": [name for name in members if name in required],
            },
            st.dictionaries(st.sampled_from(["a", "b c", 'd"', "é"]), inner, max_size=3),
            st.sets(st.sampled_from(["a", "b c", 'd"', "é"])),
        ),
    ),
    max_leaves=4,
)


@given(schema=SCHEMAS, seed=st.integers(0, 2**32))
@settings(
    max_examples=25,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
def test_any_schema_holds_for_random_weights(shard: Shard, schema: Any, seed: int) -> None:
    script = StepScript()
    script.admit(0, PROMPT, sampling=noisy(seed), grammar=grammar(schema))
    script.prefill(0, 64)
    shard.reset()
    output = list(shard.step(script.requests[-1]).token_ids)
    while output[-1] != EOS_ID:
        script.decode([0], 1)
        output += shard.step(script.requests[-1]).token_ids
    jsonschema.validate(json.loads(text(output)), schema)
