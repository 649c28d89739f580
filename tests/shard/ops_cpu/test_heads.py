"""From projected heads to queries and cached keys and values, against the torch reference."""

import pytest
import torch
from text_generation_shard.ops.cpu import library
from text_generation_shard.ops.cpu.operators import CacheFields, Operators
from text_generation_shard.ops.kv_write import UNSCALED, KVScales
from text_generation_shard.ops.norm import NormWeights
from text_generation_shard.ops.rotary import Rotation, rotation
from text_generation_shard.ops.rounded_rows import SCALE_DTYPE
from text_generation_shard.ops.write_heads import PLAIN_HEADS, HeadOptions, write_heads
from torch import Tensor

TOKENS, BLOCK_SIZE, NUM_BLOCKS = 23, 4, 9
# num_heads, num_kv_heads, head_dim, rotary_dim
SHAPES = [(4, 2, 64, 64), (3, 3, 12, 12), (5, 1, 80, 32), (4, 2, 20, 20), (6, 2, 18, 6)]


@pytest.fixture(autouse=True)
def _references(monkeypatch: pytest.MonkeyPatch) -> None:
    """The functions of `ops` are the references here."""
    monkeypatch.setattr(library, "operators", lambda: None)
    torch.manual_seed(0)


def check(
    operators: Operators,
    shape: tuple[int, int, int],
    turned: Rotation | None,
    *,
    options: HeadOptions = PLAIN_HEADS,
    temperature: Tensor | None = None,
    cache_dtype: torch.dtype = torch.float32,
) -> None:
    num_heads, num_kv_heads, head_dim = shape
    qkv = torch.randn(TOKENS, (num_heads + 2 * num_kv_heads) * head_dim)
    slots = torch.randperm(NUM_BLOCKS * BLOCK_SIZE)[:TOKENS]
    cache_shape = (2, NUM_BLOCKS, BLOCK_SIZE, num_kv_heads, head_dim)
    actual, expected = torch.randn(cache_shape).to(cache_dtype).repeat(2, 1, 1, 1, 1, 1)
    scales, expected_scales = UNSCALED, UNSCALED
    if cache_dtype is torch.int8:
        scales, expected_scales = (
            KVScales(*torch.zeros(2, NUM_BLOCKS, num_kv_heads, BLOCK_SIZE, dtype=SCALE_DTYPE))
            for _ in range(2)
        )
    query = write_heads(
        qkv.clone().view(TOKENS, -1, head_dim),
        turned,
        *expected,
        slots,
        options=options,
        temperature=temperature,
        scales=expected_scales,
    )
    keys, values = actual
    fields = scales.with_caches(keys, values)
    operators.store_heads(qkv, options, turned, temperature, fields, slots)
    made = qkv.view(TOKENS, -1, head_dim)[:, :num_heads]
    torch.testing.assert_close(made, query, atol=2e-5, rtol=1e-5)
    if cache_dtype is torch.int8:
        check_rounded(fields, expected_scales.with_caches(*expected))
        return
    tolerance = 1e-2 if cache_dtype is torch.bfloat16 else 2e-5
    torch.testing.assert_close(keys, expected[0], atol=tolerance, rtol=tolerance)
    torch.testing.assert_close(values, expected[1], atol=0, rtol=0)


def check_rounded(actual: CacheFields, expected: CacheFields) -> None:
    """The same values; of keys, whose last bits differ before they are rounded, nearly all."""
    keys, values, key_scales, value_scales = zip(actual, expected, strict=True)
    assert torch.equal(*values) and torch.equal(*value_scales)
    torch.testing.assert_close(*key_scales, atol=0, rtol=2**-7)
    differences = (keys[0].int() - keys[1].int()).abs()
    assert differences.max() <= 2 and (differences > 0).float().mean() < 0.01


def some_rotation(rotary_dim: int, *, is_interleaved: bool) -> Rotation:
    return rotation(
        torch.randint(1000, (TOKENS,)),
        torch.rand(rotary_dim // 2),
        factor=1.2,
        is_interleaved=is_interleaved,
        dtype=torch.float32,
    )


@pytest.mark.parametrize("cache_dtype", [torch.float32, torch.bfloat16, torch.int8])
@pytest.mark.parametrize("turns", ["halves", "pairs", "nothing"])
@pytest.mark.parametrize("shape", SHAPES)
def test_turned(
    operators: Operators, shape: tuple[int, int, int, int], turns: str, cache_dtype: torch.dtype
) -> None:
    turned = None
    if turns != "nothing":
        turned = some_rotation(shape[3], is_interleaved=turns == "pairs")
    check(operators, shape[:3], turned, cache_dtype=cache_dtype)


@pytest.mark.parametrize("kind", ["rms", "layer", "layer without bias"])
@pytest.mark.parametrize("norms_turned", [True, False])
@pytest.mark.parametrize("by_head", [True, False])
@pytest.mark.parametrize("shape", SHAPES)
def test_normed(
    operators: Operators,
    shape: tuple[int, int, int, int],
    norms_turned: bool,
    by_head: bool,
    kind: str,
) -> None:
    num_heads, num_kv_heads, head_dim, rotary_dim = shape

    def norm(heads: int) -> NormWeights:
        weight = torch.randn(heads, head_dim) if by_head else torch.randn(head_dim)
        bias = torch.randn(head_dim) if kind == "layer" else None
        return NormWeights(weight, 1e-6, bias, is_centred=kind != "rms")

    options = HeadOptions(0.0, norm(num_heads), norm(num_kv_heads), norms_turned)
    check(operators, shape[:3], some_rotation(rotary_dim, is_interleaved=False), options=options)


@pytest.mark.parametrize("shape", SHAPES)
def test_clipped_and_warmed(operators: Operators, shape: tuple[int, int, int, int]) -> None:
    check(
        operators,
        shape[:3],
        some_rotation(shape[3], is_interleaved=True),
        options=HeadOptions(clip=0.6),
        temperature=torch.rand(TOKENS),
    )


def test_a_number_that_is_none_stays_one(operators: Operators) -> None:
    qkv, cache = torch.full((1, 24), float("nan")), torch.zeros(2, 1, 1, 1, 8)
    options = HeadOptions(clip=1.0)
    operators.store_heads(qkv, options, None, None, (*cache, None, None), torch.tensor([0]))
    assert qkv.isnan().all() and cache.isnan().all()


@pytest.mark.parametrize("bits", [0x7FC00000, 0x7FFFFFFF, -1, -0x2000])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.int8])
def test_no_number_is_rounded_to_one(operators: Operators, dtype: torch.dtype, bits: int) -> None:
    """Whatever its low bits are: those of a damaged weight may all be set."""
    qkv = torch.ones(1, 24)
    qkv.view(torch.int32)[0, [8, 17]] = bits
    keys, values = torch.zeros(2, 1, 1, 1, 8, dtype=dtype)
    scales: tuple[Tensor, ...] | tuple[None, None] = (None, None)
    if dtype is torch.int8:
        scales = tuple(torch.zeros(2, 1, 1, 1, dtype=SCALE_DTYPE))
    fields = (keys, values, scales[0], scales[1])
    operators.store_heads(qkv, PLAIN_HEADS, None, None, fields, torch.tensor([0]))
    if dtype is torch.int8:
        assert all(scale is not None and scale.isnan().all() for scale in scales)
    else:
        assert keys[0, 0, 0].isnan().tolist() == [True] + [False] * 7
        assert values[0, 0, 0].isnan().tolist() == [False, True] + [False] * 6


@pytest.mark.parametrize(
    ("places", "weight", "text"),
    [
        ([8], torch.ones(8), "slot 8 of 8"),
        ([0], torch.ones(7), "weight must be"),
        ([0], torch.ones(2, 8), "weights must be of 1 heads"),
    ],
)
def test_refusals(operators: Operators, places: list[int], weight: Tensor, text: str) -> None:
    cache = torch.zeros(2, 2, 4, 1, 8)
    options = HeadOptions(0.0, NormWeights(weight, 1e-6))
    with pytest.raises(RuntimeError, match=text):
        operators.store_heads(
            torch.zeros(1, 24), options, None, None, (*cache, None, None), torch.tensor(places)
        )
