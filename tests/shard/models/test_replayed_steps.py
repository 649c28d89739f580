"""Decode steps replayed on the CPU, against the same steps computed one operator at a time."""

import json
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from llguidance import LLMatcher
from text_generation_proto import shard_pb2 as pb
from text_generation_shard.batch import bias_table
from text_generation_shard.engine import Engine
from text_generation_shard.models.decoder import Decoder
from text_generation_shard.ops.cpu import library
from text_generation_shard.runner import graph_policy
from text_generation_shard.runner.graph_policy import ON_CPU, SamplingKind
from text_generation_shard.sampling import native
from torch import Tensor

from tests.fakes.byte_tokenizer import EOS, SPECIAL_TOKENS, save_byte_tokenizer
from tests.shard.checkpoints import VOCAB_SIZE, Checkpoint, write_checkpoint
from tests.shard.engines import running_shard, warmup_request
from tests.shard.models.families import MODELS, write_model
from tests.shard.step_script import StepScript, sampling

pytestmark = pytest.mark.skipif(library.operators() is None, reason="no C++ operators")

PROMPTS = [
    [(7 * index * index + 3 * slot) % VOCAB_SIZE for index in range(3 + 2 * slot)]
    for slot in range(9)
]


@pytest.fixture(scope="module")
def checkpoint_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Checkpoint]:
    return cache(lambda name: write_model(name, tmp_path_factory.mktemp(name)))


@contextmanager
def engine_of(checkpoint: Checkpoint, monkeypatch: Any, **settings: Any) -> Iterator[Engine]:
    """One that records a graph as soon as a step wants it."""
    warmup = warmup_request(max_total_tokens=96)
    with engine_of_path(checkpoint.path, monkeypatch, warmup, **settings) as engine:
        yield engine


@contextmanager
def engine_of_path(
    path: Path, monkeypatch: Any, warmup: pb.WarmupRequest, **settings: Any
) -> Iterator[Engine]:
    monkeypatch.setattr(graph_policy, "ON_CPU", replace(ON_CPU, patience=0))
    with running_shard(path, warmup=warmup, **settings) as shard:
        assert shard._engine is not None
        yield shard._engine


def script_of(num_rows: Sequence[int]) -> StepScript:
    """Steps of so many rows, a few of each number: sequences enter and leave, and rows change
    places; contexts grow across the borders of blocks. Contexts ascend: so rows lie in the same
    order in steps that are not replayed, where torch computes the last numbers of a tensor in
    another way than the others.
    """
    script = StepScript()
    running: list[int] = []
    for count in num_rows:
        while len(running) > count:
            script.retire(running.pop(0))
        for slot in range(9):
            if len(running) < count and slot not in running:
                script.admit(slot, PROMPTS[slot], sampling=_sampling(slot))
                script.step({slot: len(PROMPTS[slot])})
                running.append(slot)
        for _ in range(6):
            running.sort(key=script.num_computed)
            script.decode(running, 1)
    return script


def _sampling(slot: int) -> pb.SamplingParameters:
    """Greedy, drawn and filtered rows."""
    match slot % 4:
        case 1:
            return sampling(do_sample=True, seed=slot, temperature=0.7)
        case 2:
            return sampling(do_sample=True, seed=2**63 + slot, top_k=7, top_p=0.9)
        case 3:
            return sampling(repetition_penalty=1.3)
    return sampling()


def play(engine: Engine, script: StepScript, *, with_graphs: bool) -> list[pb.StepResult]:
    """The results, without their times and what they say of recordings."""
    graphs = engine._graphs
    engine.reset()
    try:
        if not with_graphs:
            engine._graphs = None
        results = [engine.step(request) for request in script.requests]
    finally:
        engine._graphs = graphs
    assert not with_graphs or results[-1].num_graphs == len(recorded(engine))
    for result in results:
        result.ClearField("forward_us")
        result.ClearField("total_us")
        result.ClearField("num_graphs")
        assert with_graphs or not result.is_replayed
        result.ClearField("is_replayed")
    return results


def check_same(engine: Engine, script: StepScript) -> None:
    """To the last bit, and twice: what is recorded in the first run is replayed in the second."""
    expected = play(engine, script, with_graphs=False)
    assert play(engine, script, with_graphs=True) == expected
    assert play(engine, script, with_graphs=True) == expected


def recorded(engine: Engine) -> set[tuple[int, SamplingKind]]:
    assert engine._graphs is not None
    return {(key.bucket, key.kind) for key in engine._graphs._graphs}


@pytest.mark.parametrize("name", MODELS)
def test_every_family(
    name: str, checkpoint_of: Callable[[str], Checkpoint], monkeypatch: pytest.MonkeyPatch
) -> None:
    with engine_of(checkpoint_of(name), monkeypatch) as engine:
        check_same(engine, script_of([2, 1, 3]))
        assert {rows for rows, _ in recorded(engine)} == {1, 2, 3}


def test_a_recurrent_state_starts_from_zeros(
    checkpoint_of: Callable[[str], Checkpoint], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also in a step that looks like all others: the first token of a prompt of one."""
    script = script_of([2])
    script.retire(0)
    script.admit(0, PROMPTS[0][:1], sequence_id=7)
    for _ in range(4):
        script.decode([0, 1], 1)
    with engine_of(checkpoint_of("mamba"), monkeypatch) as engine:
        check_same(engine, script)
        assert {rows for rows, _ in recorded(engine)} == {1, 2}


def test_what_the_host_decides_is_not_recorded_and_works(
    checkpoint_of: Callable[[str], Checkpoint],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A model that looks at its numbers says so once, by the operator, and computes as ever."""
    logits = Decoder.logits

    def looked_at(self: Decoder, hidden: Tensor) -> Tensor | None:
        assert max(hidden.flatten().tolist()) < math.inf
        return logits(self, hidden)

    monkeypatch.setattr(Decoder, "logits", looked_at)
    caplog.set_level("INFO")
    with engine_of(checkpoint_of("llama"), monkeypatch) as engine:
        check_same(engine, script_of([2]))
        assert recorded(engine) == set()
        said = [each.message for each in caplog.records if "not recorded" in each.message]
        assert len(said) == 1
        assert "Tensor.tolist reads a tensor on the host" in said[0]


@pytest.mark.parametrize(
    "settings",
    [
        {"dtype": "float32"},
        {"dtype": "bfloat16"},
        {"dtype": "bfloat16", "kv_cache_dtype": "float32"},
        {"dtype": "bfloat16", "kv_cache_dtype": "int8"},
        {"quantize": "int8"},
        {"quantize": "int4"},
    ],
    ids=lambda settings: "-".join(settings.values()),
)
def test_all_numbers_of_rows(
    settings: dict[str, str],
    checkpoint_of: Callable[[str], Checkpoint],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with engine_of(checkpoint_of("llama"), monkeypatch, **settings) as engine:
        check_same(engine, script_of([1, 2, 3, 4, 5, 6, 7, 8, 9, 4, 1]))
        assert {rows for rows, _ in recorded(engine)} == set(range(1, 10))


def test_what_the_sampler_does_outside(
    checkpoint_of: Callable[[str], Checkpoint], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bias of too many tokens, and top-n; then rows that ask for neither, whose last token is
    known all the same.
    """
    monkeypatch.setattr(bias_table, "_CAPACITY", 2)
    script = StepScript()
    bias = sampling(logit_bias_ids=[3, 5, 8], logit_bias_values=[9.0, 8.0, -7.0])
    script.admit(0, PROMPTS[0], sampling=bias)
    script.admit(1, PROMPTS[1], top_n_tokens=2)
    script.step({0: len(PROMPTS[0]), 1: len(PROMPTS[1])})
    script.decode([0], 3)
    script.decode([1], 3)
    script.retire(0)
    script.admit(2, PROMPTS[2])
    script.step({2: len(PROMPTS[2]), 1: 1})
    script.decode([2], 3)
    with engine_of(checkpoint_of("llama"), monkeypatch) as engine:
        check_same(engine, script)
        assert recorded(engine) == {(1, SamplingKind.OUTSIDE), (1, SamplingKind.NATIVE)}


@pytest.fixture(scope="module")
def tokenized(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint whose tokens grammars know."""
    path = tmp_path_factory.mktemp("tokenized")
    write_checkpoint(path, vocab_size=264)
    save_byte_tokenizer(path)
    return path


GRAMMARS = warmup_request(max_total_tokens=96, eos_token_ids=[SPECIAL_TOKENS.index(EOS)])


def test_what_changes_scores_is_recorded(tokenized: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Biases, penalties and grammars in changing company: to the last bit as one operator at a
    time, and the same tokens as by torch.
    """
    with engine_of_path(tokenized, monkeypatch, GRAMMARS) as engine:
        script = script_of_changes()
        check_same(engine, script)
        kinds = {kind for rows, kind in recorded(engine) if rows > 1}
        assert kinds == {SamplingKind.NATIVE}
        replayed = play(engine, script, with_graphs=True)
        monkeypatch.setattr(native, "can_change", lambda _: False)
        by_torch = play(engine, script, with_graphs=False)
        assert [one.token_ids for one in replayed] == [one.token_ids for one in by_torch]


def script_of_changes() -> StepScript:
    """The grammar of slot 1 begins with what allows one token only."""
    digits, forced = (LLMatcher.grammar_from_regex(each) for each in ("[0-9]+", "abcabc[de]+"))
    free = sampling(do_sample=True, seed=4)
    admissions: list[tuple[pb.SamplingParameters, str]] = [
        (sampling(logit_bias_ids=[7, 99], logit_bias_values=[3.5, -2.0], presence_penalty=0.7), ""),
        (sampling(repetition_penalty=1.4), forced),
        (sampling(do_sample=True, seed=9, temperature=1.5, frequency_penalty=-0.3), digits),
        (sampling(presence_penalty=1.9), digits),
        (sampling(logit_bias_ids=[50], logit_bias_values=[100.0], frequency_penalty=9.5), ""),
        (free, ""),
    ]
    script = StepScript()
    for slot, (parameters, grammar) in enumerate(admissions):
        script.admit(slot, PROMPTS[0], sampling=parameters, grammar=grammar)
    script.step(dict.fromkeys(range(6), len(PROMPTS[0])))
    script.decode([0, 1, 2, 4, 5], 6)
    script.decode([5, 4, 2], 4)
    script.retire(2)
    script.admit(2, PROMPTS[0], sampling=free)
    script.step({2: len(PROMPTS[0]), 5: 1})
    script.decode([2, 4, 5], 4)
    script.decode([1, 3, 2], 8)
    return script


def test_a_grammar_that_fails_while_a_replay_waits(
    tokenized: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its sequence ends, with any token; the others go on as if it were not there."""
    rules = 'start: "ab" first{500}\nfirst: second{500}\nsecond: "c"'
    exploding = json.dumps({"grammars": [{"lark_grammar": rules}]})
    script = StepScript()
    script.admit(0, PROMPTS[0], sampling=sampling(do_sample=True, seed=4))
    script.admit(1, PROMPTS[0], grammar=exploding)
    script.admit(2, PROMPTS[0], grammar=LLMatcher.grammar_from_regex("[0-9]+"))
    script.step(dict.fromkeys(range(3), len(PROMPTS[0])))
    script.decode(range(3), 6)
    with engine_of_path(tokenized, monkeypatch, GRAMMARS) as engine:
        expected = script.tokens(play(engine, script, with_graphs=False))
        for _ in range(2):
            results = play(engine, script, with_graphs=True)
            failed = [[failure.slot for failure in result.failures] for result in results]
            assert failed[0] == [] and failed[-1] == [1]
            found = script.tokens(results)
            assert [found[slot] for slot in (0, 2)] == [expected[slot] for slot in (0, 2)]


def test_scores_that_are_no_numbers(
    checkpoint_of: Callable[[str], Checkpoint], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their sequences fail, as they do in a step that is not replayed."""
    with engine_of(checkpoint_of("llama"), monkeypatch) as engine:
        script = script_of([2, 1])
        check_same(engine, script)
        engine._model._norm.weights.weight.fill_(math.nan)  # type: ignore[attr-defined]
        results = [play(engine, script, with_graphs=on) for on in (True, False)]
        assert [list(each.failures) for each in results[0]] == [
            list(each.failures) for each in results[1]
        ]
        assert len(results[0][-1].failures) == len(results[0][-1].token_ids)


def test_a_recording_that_fails_leaves_the_engine_working(
    checkpoint_of: Callable[[str], Checkpoint],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    with engine_of(checkpoint_of("llama"), monkeypatch) as engine:
        script = script_of([1, 2])
        expected = play(engine, script, with_graphs=False)

        def break_off(self: object, hidden: object) -> None:
            raise RuntimeError("can't allocate memory")

        assert engine._graphs is not None
        recorder = engine._graphs._recorder
        record = type(recorder).record

        def fail(self: Any, compute: Callable[[], None]) -> Any:
            with monkeypatch.context() as patch:
                patch.setattr(type(engine._model), "logits", break_off)
                return record(self, compute)

        monkeypatch.setattr(type(recorder), "record", fail)
        assert play(engine, script, with_graphs=True) == expected
        assert {rows for rows, _ in recorded(engine)} == {1}
        warnings = [each.message for each in caplog.records if each.levelname == "WARNING"]
        assert len(warnings) == 1
        assert "recording one failed (can't allocate memory)" in warnings[0]


def test_the_option_turns_it_off(
    checkpoint_of: Callable[[str], Checkpoint], monkeypatch: pytest.MonkeyPatch
) -> None:
    with engine_of(checkpoint_of("llama"), monkeypatch, cuda_graphs=(0,)) as engine:
        assert engine._graphs is None
