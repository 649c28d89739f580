"""Weights with NaN or infinity in them: a request that they reach fails, and no other.

The bugs: its tokens were streamed (those of id 0), and the C++ attention took what is no number for
a small one, so that damaged queries and keys gave text.
"""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file
from text_generation_proto import shard_pb2 as pb
from text_generation_shard.ops.cpu import library
from text_generation_shard.runner import graph_policy
from torch import Tensor

from tests.shard.checkpoints import Checkpoint
from tests.shard.engines import running_shard, warmup_request
from tests.shard.models.families import write_model
from tests.shard.step_script import StepScript, sampling

# In the prompt of the sequence that fails alone.
DAMAGED_TOKEN = 9
ASKED: dict[str, dict[str, Any]] = {
    "greedy": {},
    "drawn": {"sampling": sampling(do_sample=True, seed=3)},
    "filtered": {"sampling": sampling(do_sample=True, seed=3, top_k=20, top_p=0.9)},
    "typical": {"sampling": sampling(do_sample=True, seed=3, typical_p=0.8)},
    "penalised": {"sampling": sampling(repetition_penalty=1.3)},
    "listed": {"top_n_tokens": 3},
}


@pytest.fixture(params=["operators", "torch"])
def computes(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """By the C++ operators, whose decode steps are replayed, or by torch's."""
    if request.param == "torch":
        monkeypatch.setattr(library, "operators", lambda: None)
    elif library.operators() is None:
        pytest.skip("no C++ operators")
    eager = graph_policy.replace(graph_policy.ON_CPU, patience=0)
    monkeypatch.setattr(graph_policy, "ON_CPU", eager)
    return str(request.param)


def damaged(source: Path, target: Path, damage: Callable[[dict[str, Tensor]], None]) -> Path:
    """The model in another directory, with some of its numbers changed; its head on its own."""
    target.mkdir()
    config = json.loads((source / "config.json").read_text())
    config["tie_word_embeddings"] = False
    (target / "config.json").write_text(json.dumps(config))
    tensors = load_file(source / "model.safetensors")
    damage(tensors)
    save_file(tensors, target / "model.safetensors", metadata={"format": "pt"})
    return target


def play(path: Path, script: StepScript, **settings: Any) -> list[pb.StepResult]:
    with running_shard(path, warmup=warmup_request(max_total_tokens=96), **settings) as shard:
        return [shard.step(request) for request in script.requests]


def failed_slots(results: list[pb.StepResult]) -> list[list[int]]:
    return [[failure.slot for failure in result.failures] for result in results]


@pytest.mark.parametrize(
    ("model", "asked"), [("mamba", "drawn"), *(("llama", asked) for asked in ASKED)]
)
def test_a_sequence_fails_alone(tmp_path: Path, computes: str, model: str, asked: str) -> None:
    """Also in steps that are replayed, which must not be computed twice for its sake: a recurrent
    state of another sequence would advance two tokens.
    """

    def damage(tensors: dict[str, Tensor]) -> None:
        (embedding,) = (name for name in tensors if "embed" in name)
        tensors.setdefault("lm_head.weight", tensors[embedding].clone())
        tensors[embedding][DAMAGED_TOKEN] = math.nan

    (tmp_path / "whole").mkdir()
    write_model(model, tmp_path / "whole")
    path = damaged(tmp_path / "whole", tmp_path / "damaged", damage)
    script = StepScript()
    script.admit(0, [5, 6, 7, 8], **ASKED[asked])
    script.admit(1, [5, DAMAGED_TOKEN, 7], **ASKED[asked])
    script.step({0: 4, 1: 3})
    script.decode([0, 1], 6)
    expected = script.tokens(play(tmp_path / "whole", script))[0]
    results = play(path, script)
    assert failed_slots(results) == [[1]] * 7
    assert results[0].failures[0].message.startswith("the model's scores are not numbers")
    assert script.tokens(results)[0] == expected
    if computes == "operators" and asked in ("drawn", "penalised"):
        assert results[-1].is_replayed


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("model.layers.0.self_attn.q_proj.weight", math.nan),
        ("model.layers.0.self_attn.q_proj.weight", math.inf),
        ("model.layers.1.self_attn.k_proj.weight", math.nan),
        ("model.layers.1.self_attn.v_proj.weight", math.inf),
        ("model.layers.0.mlp.gate_proj.weight", math.nan),
        ("model.layers.0.input_layernorm.weight", math.inf),
        ("model.norm.weight", math.nan),
        ("lm_head.weight", math.nan),
    ],
)
def test_one_damaged_weight_fails_a_request(
    checkpoint: Checkpoint, tmp_path: Path, computes: str, name: str, value: float
) -> None:
    assert computes

    def damage(tensors: dict[str, Tensor]) -> None:
        tensors[name].view(-1)[7] = value

    path = damaged(checkpoint.path, tmp_path / "damaged", damage)
    script = StepScript()
    script.admit(0, [5, 6, 7, 8, 9])
    script.step({0: 3})
    script.step({0: 2})
    script.decode([0], 3)
    assert failed_slots(play(path, script)) == [[]] + [[0]] * 4


@pytest.mark.parametrize(
    "settings",
    [{"kv_cache_dtype": "int8"}, {"dtype": "bfloat16"}, {"quantize": "int8"}, {"quantize": "int4"}],
    ids=str,
)
def test_nor_do_roundings_hide_it(
    checkpoint: Checkpoint, tmp_path: Path, settings: dict[str, str]
) -> None:
    """The scale of rounded numbers is what says that they are none."""
    if library.operators() is None and "quantize" in settings:
        pytest.skip("no C++ operators")

    def damage(tensors: dict[str, Tensor]) -> None:
        tensors["model.layers.1.self_attn.k_proj.weight"].view(-1)[7] = math.nan

    path = damaged(checkpoint.path, tmp_path / "damaged", damage)
    script = StepScript()
    script.admit(0, [5, 6, 7, 8, 9])
    script.step({0: 5})
    script.decode([0], 3)
    assert failed_slots(play(path, script, **settings)) == [[0]] * 4
