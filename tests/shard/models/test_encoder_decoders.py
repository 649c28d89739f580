"""Encoder-decoders against transformers: logits, greedy text, company, preemption, ranks."""

import re
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from text_generation_proto import shard_pb2 as pb
from text_generation_shard.errors import CapacityError, CheckpointError
from text_generation_shard.layers.relative_bias import Buckets
from text_generation_shard.models.t5_config import MT5Config, T5Config
from text_generation_shard.ops.cpu import library
from text_generation_shard.shard import Shard
from transformers.models.t5.modeling_t5 import T5Attention

from tests.shard.engines import record, running_shard, warmup_request
from tests.shard.models.encoder_decoders import (
    COMMON,
    ENCODER_DECODERS,
    NUM_GREEDY,
    START,
    TEXTS,
    Seq2SeqCheckpoint,
    alone_script,
    crowded_script,
    reread_script,
    write_encoder_decoder,
)
from tests.shard.models.rank_groups import play_models_on_ranks
from tests.shard.rounded import products_round, round_activations, round_keys_and_values
from tests.shard.step_script import StepScript

ALL = range(len(TEXTS))
ON_RANKS = [*((name, 2) for name in ENCODER_DECODERS), ("t5-1.1", 4)]


class Reference:
    """A checkpoint, and what transformers makes of it."""

    def __init__(self, checkpoint: Seq2SeqCheckpoint) -> None:
        self.checkpoint = checkpoint
        self.greedy = cache(lambda text: checkpoint.greedy(TEXTS[text], NUM_GREEDY))

    def scripts(self) -> list[StepScript]:
        return [*map(alone_script, ALL), crowded_script(self.greedy(0))]

    def check(self, scripts: list[StepScript], results: list[list[pb.StepResult]]) -> None:
        *alone, crowded = (
            script.tokens(answers) for script, answers in zip(scripts, results, strict=True)
        )
        assert alone == [{0: self.greedy(text)} for text in ALL]
        assert crowded.keys() == set(ALL)
        for sequence, tokens in crowded.items():
            assert tokens == self.greedy(sequence)[: len(tokens)], f"sequence {sequence}"


@pytest.fixture(scope="session")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Reference]:
    """By name, each made once."""
    return cache(lambda name: Reference(write_encoder_decoder(name, tmp_path_factory.mktemp(name))))


@pytest.mark.parametrize("is_native", [True, False])
@pytest.mark.parametrize("name", ENCODER_DECODERS)
def test_parity(
    name: str,
    is_native: bool,
    reference: Callable[[str], Reference],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if not is_native:
        monkeypatch.setattr(library, "operators", lambda: None)
    model = reference(name)
    with running_shard(model.checkpoint.path) as shard:
        assert shard.info().decoder_start_token_id == START
        for text in ALL:
            check_logits(model, text, shard)
        scripts, results = model.scripts(), []
        for script in scripts:
            shard.reset()
            results.append([shard.step(request) for request in script.requests])
    model.check(scripts, results)


def check_logits(model: Reference, text: int, shard: Shard) -> None:
    """Of every step, and of the output read again in chunks."""
    greedy = model.greedy(text)
    expected = model.checkpoint.logits(TEXTS[text], [START, *greedy])
    tolerance = 2e-5 * float(expected.abs().max())
    recorded = record(shard).logits
    shard.reset()
    alone_script(text).play(shard.step)
    torch.testing.assert_close(torch.cat(recorded), expected[:-1], atol=tolerance, rtol=1e-4)
    for chunk in (100, 7, 2):
        recorded = record(shard).logits
        shard.reset()
        reread_script(text, greedy, chunk).play(shard.step)
        torch.testing.assert_close(torch.cat(recorded), expected[-1:], atol=tolerance, rtol=1e-4)


@pytest.fixture(scope="module")
def answers(
    reference: Callable[[str], Reference],
) -> Callable[[int], Mapping[str, list[list[pb.StepResult]] | str]]:
    """By the number of ranks, those of one group of processes for all models that are tried."""

    def play(world_size: int) -> Mapping[str, list[list[pb.StepResult]] | str]:
        models = {
            name: (
                reference(name).checkpoint.path,
                [script.requests for script in reference(name).scripts()],
            )
            for name, count in ON_RANKS
            if count == world_size
        }
        return play_models_on_ranks(models, world_size=world_size)

    return cache(play)


@pytest.mark.parametrize(("name", "world_size"), ON_RANKS)
def test_several_ranks(
    name: str,
    world_size: int,
    reference: Callable[[str], Reference],
    answers: Callable[[int], Mapping[str, list[list[pb.StepResult]] | str]],
) -> None:
    results = answers(world_size)[name]
    assert not isinstance(results, str), results
    reference(name).check(reference(name).scripts(), results)


@pytest.mark.parametrize("is_native", [True, False])
@pytest.mark.parametrize("name", ["t5", "t5-1.1"])
def test_bfloat16(
    name: str, is_native: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On CPU the weights are kept in it and sums are wider: the numbers are the same."""
    if not is_native:
        monkeypatch.setattr(library, "operators", lambda: None)
    checkpoint = write_encoder_decoder(name, tmp_path, torch.bfloat16)
    if products_round():
        round_activations(checkpoint.reference)
    model = Reference(checkpoint)
    with running_shard(tmp_path, kv_cache_dtype="float32") as shard:
        assert alone_script(0).play(shard.step) == {0: model.greedy(0)}


@pytest.mark.parametrize("is_native", [True, False])
@pytest.mark.parametrize("name", ["t5", "t5-1.1"])
def test_keys_and_values_in_bfloat16(
    name: str, is_native: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The encoder's for the decoder, and the decoder's own, are rounded when they are written."""
    if not is_native:
        monkeypatch.setattr(library, "operators", lambda: None)
    round_keys_and_values(monkeypatch)
    model = Reference(write_encoder_decoder(name, tmp_path))
    with running_shard(tmp_path, kv_cache_dtype="bfloat16") as shard:
        assert alone_script(0).play(shard.step) == {0: model.greedy(0)}


def test_warmup_measures_the_longest_text_and_several_short_ones(
    reference: Callable[[str], Reference],
) -> None:
    path = reference("t5").checkpoint.path
    for total, step in ((400, 64), (40, 200)):
        warmup = warmup_request(max_slots=20, max_total_tokens=total, max_step_tokens=step)
        with running_shard(path, warmup=warmup) as shard:
            response = shard.warm_up(warmup)
        assert response.max_total_tokens == total
        assert set(zip(response.measured_tokens, response.measured_decodes, strict=True)) >= {
            (1, 1),
            (16, 0),
            (8, 8),
        }


def test_float16_is_refused_by_name(reference: Callable[[str], Reference]) -> None:
    path = reference("t5").checkpoint.path
    with (
        pytest.raises(CapacityError, match="--dtype float16"),
        running_shard(path, dtype="float16"),
    ):
        pass


def test_checkpoints_with_the_embedding_under_all_its_names(
    reference: Callable[[str], Reference], tmp_path: Path
) -> None:
    """As on the hub, where there is also a table that nothing reads."""
    model = reference("t5")
    write_encoder_decoder("t5", tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    for name in ("encoder.embed_tokens", "decoder.embed_tokens", "lm_head"):
        tensors[f"{name}.weight"] = tensors["shared.weight"].clone()
    unused = "decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight"
    tensors[unused] = torch.ones(8, 4)
    save_file(tensors, tmp_path / "model.safetensors")
    with running_shard(tmp_path) as shard:
        assert alone_script(0).play(shard.step) == {0: model.greedy(0)}


@pytest.mark.parametrize(("num_buckets", "max_distance"), [(32, 128), (8, 20), (6, 7), (40, 1000)])
def test_buckets(num_buckets: int, max_distance: int) -> None:
    buckets = Buckets(num_buckets, max_distance)
    settings = {"num_buckets": num_buckets, "max_distance": max_distance}
    positions = torch.arange(-3 * max_distance, 3 * max_distance + 1)
    before = positions[positions <= 0].flip(0)
    expected = T5Attention._relative_position_bucket(before, bidirectional=False, **settings)
    assert torch.equal(buckets.before()[before.neg().clamp(max=max_distance)], expected)
    expected = T5Attention._relative_position_bucket(positions, bidirectional=True, **settings)
    around = buckets.around()[positions.clamp(-max_distance, max_distance) + max_distance]
    assert torch.equal(around, expected)


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"feed_forward_proj": "gated-tanh"}, "feed_forward_proj 'tanh' is not supported"),
        ({"feed_forward_proj": "double-relu"}, "feed_forward_proj 'double-relu'"),
        ({"decoder_start_token_id": -1}, "decoder_start_token_id must be"),
        ({"d_ff": None}, "d_ff is missing"),
        ({"num_heads": 0}, "num_heads must be a positive integer"),
    ],
)
def test_refusals_name_the_setting(settings: dict[str, object], text: str) -> None:
    with pytest.raises(CheckpointError, match=re.escape(text)):
        T5Config.from_hf({"model_type": "t5", **COMMON, **settings})


def test_what_config_json_does_not_say() -> None:
    """Defaults of transformers, and which models scale their logits."""
    settings = {"model_type": "t5", "d_model": 64, **COMMON, "pad_token_id": 3}
    del settings["decoder_start_token_id"]
    first = T5Config.from_hf(settings)
    assert (first.decoder_start_token_id, first.is_gated) == (3, False)
    assert first.logit_scale == 48**-0.5
    second = T5Config.from_hf({**settings, "tie_word_embeddings": False})
    saved = T5Config.from_hf({**settings, "scale_decoder_outputs": False})
    assert second.logit_scale == saved.logit_scale == 1.0
    third = MT5Config.from_hf({**settings, "model_type": "mt5"})
    assert (third.logit_scale, third.is_gated, third.activation) == (1.0, True, "gelu_tanh")
