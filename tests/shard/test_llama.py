"""Llama against transformers: logits, greedy text and prompt log-probabilities."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from text_generation_shard.shard import Shard

from tests.shard.checkpoints import VOCAB_SIZE, Checkpoint, write_checkpoint
from tests.shard.engines import record, running_shard, warmup_request
from tests.shard.rounded import products_round, round_activations, round_keys_and_values
from tests.shard.step_script import StepScript

PROMPT = [(7 * index * index + 3) % VOCAB_SIZE for index in range(19)]
OTHER = [(5 * index + 11) % VOCAB_SIZE for index in range(30)]


def assert_same_logits(actual: torch.Tensor, expected: torch.Tensor, *, atol: float) -> None:
    torch.testing.assert_close(actual, expected, atol=atol, rtol=1e-4)


@pytest.mark.parametrize("chunk", range(1, len(PROMPT) + 1))
def test_every_chunk_size_gives_the_same_logits(
    checkpoint: Checkpoint, shard: Shard, chunk: int
) -> None:
    script = StepScript()
    script.admit(0, PROMPT)
    script.prefill(0, chunk)
    script.decode([0], 4)
    recorded = record(shard).logits
    tokens = script.play(shard.step)[0]
    assert tokens == checkpoint.greedy(PROMPT, 5)
    expected = checkpoint.logits([*PROMPT, *tokens[:-1]])[len(PROMPT) - 1 :]
    assert_same_logits(torch.cat(recorded), expected, atol=2e-4)


def test_chunks_and_decodes_share_steps(checkpoint: Checkpoint, shard: Shard) -> None:
    script = StepScript()
    script.admit(3, PROMPT)
    script.prefill(3, 100)
    script.admit(1, OTHER)
    script.admit(2, OTHER[:9])
    script.step({1: 8, 3: 1, 2: 4})
    script.step({3: 1, 1: 8, 2: 4})
    script.step({2: 1, 1: 13, 3: 1})
    script.step({2: 1, 3: 1, 1: 1})
    script.step({1: 1, 2: 1, 3: 1})
    assert script.play(shard.step) == {
        3: checkpoint.greedy(PROMPT, 6),
        2: checkpoint.greedy(OTHER[:9], 3),
        1: checkpoint.greedy(OTHER, 2),
    }


@pytest.mark.parametrize("num_cached", [4, 12, 16])
def test_a_prefix_of_an_earlier_sequence_is_not_computed_again(
    checkpoint: Checkpoint, shard: Shard, num_cached: int
) -> None:
    script = StepScript()
    script.admit(0, PROMPT)
    script.prefill(0, 100)
    blocks = script.retire(0)[: num_cached // script.block_size]
    prompt = [*PROMPT[:num_cached], *OTHER[:5]]
    script.admit(0, prompt, sequence_id=9, block_ids=blocks, num_cached_tokens=num_cached)
    script.prefill(0, 3)
    script.decode([0], 3)
    assert script.play(shard.step)[9] == checkpoint.greedy(prompt, 4)


def test_a_preempted_sequence_goes_on_where_it_was(checkpoint: Checkpoint, shard: Shard) -> None:
    expected = checkpoint.greedy(PROMPT, 8)
    script = StepScript()
    script.admit(0, PROMPT)
    script.prefill(0, 7)
    script.decode([0], 2)
    script.retire(0)
    script.admit(5, [*PROMPT, *expected[:3]], sequence_id=0, num_emitted=3)
    script.prefill(5, 7)
    script.decode([5], 4)
    assert script.play(shard.step)[0] == expected


def test_a_slot_is_used_again(checkpoint: Checkpoint, shard: Shard) -> None:
    script = StepScript()
    script.admit(0, OTHER)
    script.prefill(0, 100)
    script.retire(0)
    script.admit(0, PROMPT[:3], sequence_id=1)
    script.prefill(0, 100)
    script.decode([0], 3)
    assert script.play(shard.step)[1] == checkpoint.greedy(PROMPT[:3], 4)


@pytest.mark.parametrize("chunk", [1, 5, 19])
def test_prompt_logprobs(checkpoint: Checkpoint, shard: Shard, chunk: int) -> None:
    script = StepScript()
    script.admit(0, PROMPT, prompt_logprobs=True, top_n_tokens=2)
    script.prefill(0, chunk)
    script.decode([0], 1)
    results = [shard.step(request) for request in script.requests]
    reports = [report for result in results for report in result.prompt_logprobs]
    positions = [
        report.first_position + index for report in reports for index in range(len(report.logprobs))
    ]
    assert positions == list(range(1, len(PROMPT)))
    logprobs = [value for report in reports for value in report.logprobs]
    assert logprobs == pytest.approx(checkpoint.prompt_logprobs(PROMPT), abs=2e-4)
    best = checkpoint.logits(PROMPT)[:-1].log_softmax(-1).topk(2)
    token_ids = [value for report in reports for value in report.top_n_token_ids]
    assert token_ids == best.indices.flatten().tolist()
    logprobs = [value for report in reports for value in report.top_n_logprobs]
    assert logprobs == pytest.approx(best.values.flatten().tolist(), abs=2e-4)


def test_prompt_logprobs_leave_out_emitted_tokens(shard: Shard) -> None:
    script = StepScript()
    script.admit(0, PROMPT, num_emitted=4, prompt_logprobs=True)
    script.prefill(0, 100)
    (report,) = shard.step(script.requests[0]).prompt_logprobs
    assert report.first_position == 1
    assert len(report.logprobs) == len(PROMPT) - 5


def test_reported_logprobs_and_top_tokens(checkpoint: Checkpoint, shard: Shard) -> None:
    script = StepScript()
    script.admit(0, PROMPT)
    script.admit(1, OTHER, top_n_tokens=3)
    script.step({0: len(PROMPT), 1: len(OTHER)})
    result = shard.step(script.requests[0])
    expected = [checkpoint.logits(ids)[-1].log_softmax(-1) for ids in (PROMPT, OTHER)]
    assert list(result.logprobs) == pytest.approx([float(row.max()) for row in expected], abs=2e-4)
    best = expected[1].topk(3)
    assert list(result.top_n_counts) == [0, 3]
    assert list(result.top_n_token_ids) == best.indices.tolist()
    assert list(result.top_n_logprobs) == pytest.approx(best.values.tolist(), abs=2e-4)


LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 4.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
VARIANTS: dict[str, dict[str, Any]] = {
    "tied": {"tie_word_embeddings": True},
    "biases": {"attention_bias": True, "mlp_bias": True},
    "head_dim": {"head_dim": 20},
    "one_kv_head": {"num_key_value_heads": 1},
    "all_kv_heads": {"num_key_value_heads": 4},
    "linear": {"rope_parameters": {"rope_type": "linear", "rope_theta": 5000.0, "factor": 3.0}},
    "dynamic": {"rope_parameters": {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}},
    "llama3": {"rope_parameters": LLAMA3},
    "mistral": {"model_type": "mistral", "sliding_window": None},
    "sliding_window": {"model_type": "mistral", "sliding_window": 7},
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_variants(variant: str, tmp_path: Path) -> None:
    checkpoint = write_checkpoint(tmp_path, **VARIANTS[variant])
    script = StepScript()
    script.admit(0, PROMPT)
    script.step({0: 11})
    script.admit(1, OTHER)
    script.step({0: 8, 1: 20})
    script.step({0: 1, 1: 10})
    script.decode([1, 0], 3)
    with running_shard(tmp_path) as shard:
        tokens = script.play(shard.step)
    assert tokens == {0: checkpoint.greedy(PROMPT, 5), 1: checkpoint.greedy(OTHER, 4)}


def test_older_spelling_of_rope_scaling(tmp_path: Path) -> None:
    checkpoint = write_checkpoint(tmp_path, rope_parameters=LLAMA3)
    path = tmp_path / "config.json"
    config = json.loads(path.read_text())
    parameters = config.pop("rope_parameters")
    config["rope_theta"] = parameters.pop("rope_theta")
    config["rope_scaling"] = parameters
    del config["head_dim"]
    config["torch_dtype"] = config.pop("dtype")
    path.write_text(json.dumps(config))
    script = StepScript()
    script.admit(0, OTHER)
    script.prefill(0, 16)
    with running_shard(tmp_path) as shard:
        assert script.play(shard.step)[0] == checkpoint.greedy(OTHER, 1)


def test_rope_flags_scale_and_lengthen(tmp_path: Path) -> None:
    scaled = {"rope_type": "linear", "rope_theta": 1e4, "factor": 2.0}
    expected = write_checkpoint(tmp_path / "scaled", rope_parameters=scaled)
    plain = write_checkpoint(tmp_path / "plain")
    script = StepScript()
    script.admit(0, OTHER)
    script.prefill(0, 16)
    script.decode([0], 3)
    with running_shard(plain.path, rope_factor=2.0) as shard:
        assert shard.info().max_position_embeddings == 1024
        assert script.play(shard.step)[0] == expected.greedy(OTHER, 4)


def test_dynamic_scaling_beyond_the_original_length(tmp_path: Path) -> None:
    """Token by token, as transformers generates: each position turns by the length it ends."""
    checkpoint = write_checkpoint(
        tmp_path,
        max_position_embeddings=16,
        rope_parameters={"rope_type": "dynamic", "rope_theta": 1e4, "factor": 4.0},
    )
    prompt = PROMPT[:14]
    with torch.inference_mode():
        output = checkpoint.reference.generate(
            torch.tensor([prompt]), max_new_tokens=12, do_sample=False, pad_token_id=0
        )
    script = StepScript()
    script.admit(0, prompt)
    script.prefill(0, 100)
    script.decode([0], 11)
    with running_shard(tmp_path, warmup=warmup_request(max_total_tokens=0)) as shard:
        assert shard.info().max_position_embeddings == 64
        assert script.play(shard.step)[0] == output[0, len(prompt) :].tolist()


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_short_data_types(tmp_path: Path, dtype: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Within the rounding of the type, and the same whatever the chunk. The reference computes in
    the wider of this type and the shard's (on CPU bfloat16 weights, keys and values, but float32
    sums).
    """
    checkpoint = write_checkpoint(tmp_path, dtype=getattr(torch, dtype))
    with running_shard(tmp_path, dtype=dtype) as shard:
        assert shard.info().dtype == dtype
        recorded = record(shard).logits
        for slot, chunk in enumerate((100, 6)):
            script = StepScript(first_block=1 + 20 * slot)
            script.admit(slot, PROMPT)
            script.prefill(slot, chunk)
            script.play(shard.step)
    checkpoint.reference.float()
    if dtype == "bfloat16":
        round_keys_and_values(monkeypatch)
        if products_round():
            round_activations(checkpoint.reference)
    expected = checkpoint.logits(PROMPT)[-1:]
    for logits in recorded:
        assert (logits - expected).abs().max() < 0.03 * expected.abs().max()
