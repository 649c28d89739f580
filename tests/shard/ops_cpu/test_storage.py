"""Whole engines with packed weights, and without the operators."""

import copy
import statistics
from pathlib import Path

import pytest
import torch
import transformers
from text_generation_shard.errors import CapacityError
from text_generation_shard.ops.cpu import library
from torch import Tensor

from tests.shard.checkpoints import VOCAB_SIZE, Checkpoint, write_checkpoint
from tests.shard.engines import record, running_shard
from tests.shard.models.families import write_model
from tests.shard.rounded import products_round, round_activations, round_keys_and_values
from tests.shard.step_script import StepScript

PROMPTS = [
    [((7 + 2 * number) * index * index + 3 + number) % VOCAB_SIZE for index in range(40)]
    for number in range(12)
]
PROMPT = PROMPTS[0]
SHORT_PROMPTS = [prompt[:12] for prompt in PROMPTS[:9]]

# Of the spread of the logits: what quantized weights and activations may cost here, on average over
# prompts. These weights are random and large, so that softmax picks single tokens: a trained model
# loses far less (docs/performance.md), and one prompt loses ten times as much as another. Measured:
# 0.12 and 0.64 in groups of 128 inputs; 0.10 and 0.59 in the groups of 64 and 32 of before.
LOGIT_ERROR = {"int8": 0.13, "int4": 0.7}

# Of the same spread: what the rounding of activations alone may cost.
ACTIVATION_ERROR = 0.1

INSTRUCTION_SETS = library.instruction_sets() if library.operators() is not None else ()
needs_operators = pytest.mark.skipif(library.operators() is None, reason="no CPU operators here")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    """In bfloat16, tied, of a size that fills no panel."""
    written = write_checkpoint(
        tmp_path_factory.mktemp("bfloat16"),
        dtype=torch.bfloat16,
        hidden_size=72,
        intermediate_size=200,
        num_attention_heads=6,
        tie_word_embeddings=True,
    )
    widened = transformers.AutoModelForCausalLM.from_pretrained(written.path, dtype=torch.float32)
    return Checkpoint(written.path, widened.eval())


def logits_of(
    path: Path, chunk: int = 100, prompt: list[int] = PROMPT, **settings: object
) -> Tensor:
    """Of the last prompt token: [1, vocab]."""
    script = StepScript()
    script.admit(0, prompt)
    script.prefill(0, chunk)
    with running_shard(path, **settings) as shard:
        recorded = record(shard).logits
        script.play(shard.step)
    return recorded[-1]


@pytest.mark.parametrize("instruction_set", [*INSTRUCTION_SETS, None])
@pytest.mark.parametrize("dtype", [None, "float32", "bfloat16"])
def test_a_bfloat16_checkpoint(
    checkpoint: Checkpoint,
    dtype: str | None,
    instruction_set: str | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Weights stay in bfloat16 or are widened: the same numbers, but where the processor multiplies
    bfloat16 alone. None: without the operators. Keys and values are kept wide: what was rounded
    once may round to the other side the second time, for a last bit of a sum.
    """
    operators = instruction_set and library.operators_for(instruction_set)
    monkeypatch.setattr(library, "operators", lambda: operators)
    reference = copy.deepcopy(checkpoint.reference)
    if dtype != "float32" and products_round():
        round_activations(reference)
    expected = Checkpoint(checkpoint.path, reference).logits(PROMPT)[-1:]
    actual = logits_of(checkpoint.path, dtype=dtype, kv_cache_dtype="float32")
    torch.testing.assert_close(actual, expected, atol=3e-4, rtol=1e-4)


@pytest.mark.parametrize("instruction_set", [*INSTRUCTION_SETS, None])
def test_keys_and_values_in_bfloat16(
    checkpoint: Checkpoint, instruction_set: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As if the reference rounded its own, whatever the chunks: where a last bit decides to which
    side one is rounded, the logits of a prompt are others, so most prompts have to be the same.
    Operators that multiply bfloat16 pairs round queries and weights as well, which takes most
    prompts less far than keys and values do.
    """
    operators = instruction_set and library.operators_for(instruction_set)
    monkeypatch.setattr(library, "operators", lambda: operators)
    rounded = copy.deepcopy(checkpoint.reference)
    if products_round():
        round_activations(rounded)
    reference = Checkpoint(checkpoint.path, rounded)
    plain = [reference.logits(prompt)[-1:] for prompt in SHORT_PROMPTS]
    round_keys_and_values(monkeypatch)
    expected = [reference.logits(prompt)[-1:] for prompt in SHORT_PROMPTS]
    rounding = list(map(greatest_difference, plain, expected))
    assert min(rounding) > 0.01
    for chunk in (100, 5, 1):
        actual = [logits_of(checkpoint.path, chunk, prompt) for prompt in SHORT_PROMPTS]
        differences = list(map(greatest_difference, actual, expected))
        is_exact = operators is None or not operators.rounds_to_bfloat16
        assert statistics.median(differences) < (1e-4 if is_exact else statistics.median(rounding))


def greatest_difference(a: Tensor, b: Tensor) -> float:
    return float((a - b).abs().max())


@pytest.mark.parametrize("is_native", [pytest.param(True, marks=needs_operators), False])
@pytest.mark.parametrize(
    ("settings", "stored_dtype"),
    [
        ({}, torch.bfloat16),
        ({"dtype": "bfloat16"}, torch.bfloat16),
        ({"dtype": "float32"}, torch.float32),
        ({"dtype": "float16"}, torch.float16),
        ({"kv_cache_dtype": "float32"}, torch.float32),
        ({"dtype": "float32", "kv_cache_dtype": "bfloat16"}, torch.bfloat16),
        ({"kv_cache_dtype": "fp8_e5m2"}, torch.float8_e5m2),
    ],
    ids=str,
)
def test_what_keys_and_values_are_kept_in(
    checkpoint: Checkpoint,
    settings: dict[str, str],
    stored_dtype: torch.dtype,
    is_native: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Also without the operators, so that both compute the same numbers."""
    if not is_native:
        monkeypatch.setattr(library, "operators", lambda: None)
    with running_shard(checkpoint.path, **settings) as shard:
        assert shard._loaded.model.cache_spec.stored_dtype == stored_dtype


@needs_operators
@pytest.mark.parametrize("quantize", ["int8", "int4"])
def test_quantized_weights_keep_the_checkpoints_keys_and_values(
    checkpoint: Checkpoint, quantize: str
) -> None:
    with running_shard(checkpoint.path, quantize=quantize) as shard:
        assert shard._loaded.model.cache_spec.stored_dtype == torch.bfloat16


def test_a_cache_that_no_kernel_reads_is_refused(checkpoint: Checkpoint) -> None:
    with (
        pytest.raises(CapacityError, match="--kv-cache-dtype float16"),
        running_shard(checkpoint.path, kv_cache_dtype="float16"),
    ):
        pass


@needs_operators
@pytest.mark.parametrize("quantize", ["int8", "int4"])
def test_quantized_logits(checkpoint: Checkpoint, quantize: str) -> None:
    errors = []
    for prompt in PROMPTS:
        expected = checkpoint.logits(prompt)[-1:]
        actual = logits_of(checkpoint.path, prompt=prompt, quantize=quantize)
        errors.append(float((actual - expected).std() / expected.std()))
    assert statistics.fmean(errors) < LOGIT_ERROR[quantize]


@needs_operators
@pytest.mark.parametrize("quantize", ["int8", "int4"])
def test_quantized_logits_are_those_of_the_stored_weights(
    checkpoint: Checkpoint, quantize: str
) -> None:
    """Against transformers on the very weights that are stored: what is left is the rounding of
    activations to 8 bits, the same for both formats. The table of a tied head keeps 8 bits.
    """
    expected = stored(checkpoint, quantize).logits(PROMPT)[-1:]
    actual = logits_of(checkpoint.path, quantize=quantize)
    assert (actual - expected).std() < ACTIVATION_ERROR * expected.std()


@needs_operators
@pytest.mark.parametrize("quantize", ["int8", "int4"])
def test_a_quantized_state_space(tmp_path: Path, quantize: str) -> None:
    """As above; decay rates, convolution and states stay in float32."""
    checkpoint = write_model("mamba", tmp_path)
    expected = stored(checkpoint, quantize).logits(PROMPT)[-1:]
    actual = logits_of(checkpoint.path, chunk=7, quantize=quantize)
    assert (actual - expected).std() < ACTIVATION_ERROR * expected.std()


def stored(checkpoint: Checkpoint, quantize: str) -> Checkpoint:
    """With the weights that the engine stores."""
    operators = library.operators()
    assert operators is not None
    reference = copy.deepcopy(checkpoint.reference)
    with torch.no_grad():
        for name, weight in reference.named_parameters():
            if weight.dim() == 2 and name.endswith(".weight"):
                weight_format = "int8" if "embed" in name else quantize
                packed = operators.pack(weight.detach().clone(), weight_format)
                weight.copy_(packed.rows(torch.arange(len(weight))))
    return Checkpoint(checkpoint.path, reference)


@needs_operators
@pytest.mark.parametrize("quantize", ["int8", "int4"])
def test_quantized_logits_hardly_depend_on_chunks(checkpoint: Checkpoint, quantize: str) -> None:
    """Products are the same bits; only attention's order of sums differs."""
    whole = logits_of(checkpoint.path, quantize=quantize)
    parts = logits_of(checkpoint.path, chunk=7, quantize=quantize)
    assert (whole - parts).std() < 0.02 * whole.std()


@needs_operators
def test_memory_of_the_formats(checkpoint: Checkpoint) -> None:
    sizes = {}
    for name, settings in {
        "float32": {"dtype": "float32"},
        "bfloat16": {"dtype": "bfloat16"},
        "int8": {"quantize": "int8"},
        "int4": {"quantize": "int4"},
    }.items():
        with running_shard(checkpoint.path, **settings) as shard:
            sizes[name] = shard._loaded.weight_bytes
    assert sizes["bfloat16"] < 0.6 * sizes["float32"]
    assert sizes["int8"] < sizes["bfloat16"]
    assert sizes["int4"] < sizes["int8"]


def test_quantize_without_operators_is_refused(
    checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(library, "operators", lambda: None)
    with (
        pytest.raises(CapacityError, match="--quantize int4 needs the CPU operators"),
        running_shard(checkpoint.path, quantize="int4"),
    ):
        pass
