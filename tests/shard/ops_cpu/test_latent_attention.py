"""Attention to latent vectors, in both of its forms, against the torch reference."""

from dataclasses import dataclass, replace
from itertools import accumulate

import pytest
import torch
from text_generation_shard.ops import latent_attention as reference
from text_generation_shard.ops.cpu import library
from text_generation_shard.ops.cpu.operators import ExpansionFields, Operators
from text_generation_shard.ops.gathered_context import Workspace
from text_generation_shard.ops.latent_attention import LatentExpansion
from text_generation_shard.ops.linear import DenseWeight, MatrixStack
from text_generation_shard.ops.norm import NormWeights
from text_generation_shard.ops.paged_attention import plan_attention
from text_generation_shard.ops.rotary import rotation
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Case:
    """A model, and a step: tokens of each request, and the tokens up to and with the last."""

    heads: int
    plain: int
    turned: int
    latent: int
    value: int
    block_size: int = 4
    is_interleaved: bool = True
    queries: tuple[int, ...] = (1, 1, 1, 5, 70, 9, 200)
    contexts: tuple[int, ...] = (1, 15, 130, 5, 100, 70, 333)


# Of wide latent vectors, the chunks of 70 and of 200 tokens are read expanded, of narrow ones none.
WIDE = Case(heads=5, plain=20, turned=10, latent=200, value=23, block_size=16)
CASES = {
    "wide": WIDE,
    "narrow": Case(heads=3, plain=40, turned=6, latent=17, value=41, is_interleaved=False),
    "one head": Case(heads=1, plain=7, turned=2, latent=33, value=5, block_size=5),
    "many heads": Case(heads=37, plain=16, turned=16, latent=48, value=16, is_interleaved=False),
    "whole lanes": Case(heads=16, plain=32, turned=16, latent=128, value=32, block_size=8),
    "decodes": replace(WIDE, queries=(1,) * 9, contexts=(1, 2, 16, 17, 31, 64, 65, 100, 333)),
    # Keys and values of two heads at a time.
    "few heads at a time": Case(
        heads=5, plain=300, turned=8, latent=600, value=200, queries=(1, 150), contexts=(9, 3001)
    ),
}


class Step:
    """Fresh random inputs; what no token of these owns in the cache is not a number."""

    def __init__(self, case: Case, cache_dtype: torch.dtype, matrix_dtype: torch.dtype) -> None:
        self.case, tokens = case, sum(case.queries)
        width = case.latent + case.turned
        self.query = torch.randn(tokens, case.heads, case.plain + case.turned)
        self.key = torch.randn(tokens, width + 3)[:, :width]
        self.norm = NormWeights(torch.rand(case.latent) + 0.5, 1e-5)
        max_blocks = -(-max(case.contexts) // case.block_size) + 1
        num_blocks = 1 + len(case.contexts) * max_blocks
        self.tables = torch.randperm(num_blocks - 1).add_(1).view(-1, max_blocks).int()
        self.cache = torch.full((num_blocks, case.block_size, 1, width), torch.nan)
        places = [self.places(request) for request in range(len(case.contexts))]
        self.cache.flatten(0, 1)[torch.cat(places)] = torch.randn(sum(map(len, places)), 1, width)
        self.cache[0] = 0
        self.cache = self.cache.to(cache_dtype)
        self.slots = torch.cat(
            [some[-count:] for some, count in zip(places, case.queries, strict=True)]
        )
        self.rotation = rotation(
            torch.randint(1000, (tokens,)),
            torch.rand(case.turned // 2),
            factor=1.2,
            is_interleaved=case.is_interleaved,
            dtype=torch.float32,
        )
        self.plan = plan_attention(
            block_tables=self.tables,
            query_lengths=case.queries,
            context_lengths=case.contexts,
            block_size=case.block_size,
            sliding_window=None,
        )
        shape = (case.heads, case.plain + case.value, case.latent)
        self.matrices = (torch.randn(shape) / case.latent**0.5).to(matrix_dtype).float()

    def places(self, request: int) -> Tensor:
        positions = torch.arange(self.case.contexts[request])
        block_size = self.case.block_size
        blocks = self.tables[request][positions // block_size]
        return blocks * block_size + positions % block_size

    @property
    def keys_and_values(self) -> tuple[Tensor, Tensor]:
        """The first are the step's to change."""
        keys = self.cache.clone()
        return keys, keys[..., : self.case.latent]

    def expected(self) -> tuple[Tensor, Tensor]:
        """Values and cache."""
        keys, values = self.keys_and_values
        space = torch.zeros(8192, 1, keys.shape[-1])
        made = reference.latent_attention(
            self.query.clone(),
            self.key,
            self.norm,
            self.rotation,
            LatentExpansion(self._dense(turned=True), None, self._dense(turned=False)),
            (keys, values),
            self.slots,
            self.plan,
            Workspace(space, space[..., : self.case.latent]),
            scale=0.2,
        )
        return made, keys

    def actual(self, operators: Operators, weight_format: str) -> tuple[Tensor, Tensor]:
        keys, values = self.keys_and_values
        made = operators.latent_attention(
            self.query.clone(),
            self.key,
            self.norm,
            self.rotation,
            self._packed(operators, weight_format),
            (keys, values),
            self.slots,
            self.plan.native,
            0.2,
        )
        return made, keys

    def _dense(self, *, turned: bool) -> MatrixStack:
        plain = self.case.plain
        dense = self.matrices[:, :plain].transpose(1, 2) if turned else self.matrices[:, plain:]
        return MatrixStack([DenseWeight(matrix) for matrix in dense], dense)

    def _packed(self, operators: Operators, weight_format: str) -> ExpansionFields:
        plain = self.case.plain
        dtype = torch.bfloat16 if weight_format == "bfloat16" else torch.float32
        to_key, from_latent = self.matrices[:, :plain], self.matrices[:, plain:]
        to_latent, to_key, from_latent = (
            library.stack(
                [
                    operators.pack(matrix.to(dtype).contiguous(), weight_format)
                    for matrix in matrices
                ]
            )
            for matrices in (to_key.transpose(1, 2), to_key, from_latent)
        )
        return to_latent, to_key, from_latent


@pytest.fixture(autouse=True)
def _references(monkeypatch: pytest.MonkeyPatch) -> None:
    """The functions of `ops` are the references here."""
    monkeypatch.setattr(library, "operators", lambda: None)
    torch.manual_seed(0)


@pytest.mark.parametrize("cache_dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", CASES)
def test_decodes_and_chunks(
    operators: Operators, name: str, cache_dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = Step(CASES[name], cache_dtype, torch.float32)
    made, written = step.actual(operators, "float32")
    expected = step.expected()[1]
    tolerance = 1e-2 if cache_dtype is torch.bfloat16 else 2e-5
    torch.testing.assert_close(written, expected, atol=tolerance, rtol=tolerance, equal_nan=True)
    # A few numbers were rounded to the other side: all of them are read as they were written.
    monkeypatch.setattr(reference, "write_keys", lambda _, keys, __: keys.copy_(written))
    torch.testing.assert_close(made, step.expected()[0], atol=2e-5, rtol=2e-5)


@pytest.mark.parametrize(
    ("weight_format", "error"),
    [("float32", 2e-6), ("bfloat16", 0.005), ("int8", 0.015), ("int4", 0.15)],
)
def test_weight_formats(operators: Operators, weight_format: str, error: float) -> None:
    """Of decode rows, absorbed chunks and expanded ones: all differ by as much rounding."""
    step = Step(WIDE, torch.float32, torch.bfloat16)
    made, expected = step.actual(operators, weight_format)[0], step.expected()[0]
    counts = list(WIDE.queries)
    for rows, exact in zip(made.split(counts), expected.split(counts), strict=True):
        assert (rows - exact).norm() < error * exact.norm()


def test_a_row_is_the_same_in_any_company(operators: Operators) -> None:
    """Of decode rows and of chunks: to the last bit, whatever else the step computes."""
    step = Step(WIDE, torch.bfloat16, torch.float32)
    together, _ = step.actual(operators, "bfloat16")
    ends = list(accumulate(WIDE.queries))
    for request, end in enumerate(ends):
        count = WIDE.queries[request]
        rows = slice(end - count, end)
        alone = plan_attention(
            block_tables=step.tables[request : request + 1],
            query_lengths=[count],
            context_lengths=[WIDE.contexts[request]],
            block_size=WIDE.block_size,
            sliding_window=None,
        )
        turned = step.rotation._replace(
            cos=step.rotation.cos[rows], signed_sin=step.rotation.signed_sin[rows]
        )
        made = operators.latent_attention(
            step.query[rows].clone(),
            step.key[rows],
            step.norm,
            turned,
            step._packed(operators, "bfloat16"),
            step.keys_and_values,
            step.slots[rows],
            alone.native,
            0.2,
        )
        assert torch.equal(made, together[rows])


def test_any_number_of_threads_computes_the_same(operators: Operators) -> None:
    step = Step(CASES["few heads at a time"], torch.bfloat16, torch.float32)
    expected = step.actual(operators, "float32")
    try:
        library.set_num_threads(3)
        made = step.actual(operators, "float32")
    finally:
        library.set_num_threads(1)
    assert torch.equal(made[0], expected[0])
    torch.testing.assert_close(made[1], expected[1], atol=0, rtol=0, equal_nan=True)


def test_rows_that_fill_up_a_step(operators: Operators) -> None:
    """They write to the scrap block, and read there what they wrote."""
    case = replace(WIDE, queries=(1, 1, 1), contexts=(1, 1, 40))
    step = Step(case, torch.float32, torch.float32)
    step.tables[:2], step.slots[:2] = 0, 0
    (made, written), (expected, keys) = step.actual(operators, "float32"), step.expected()
    torch.testing.assert_close(made[2], expected[2], atol=2e-5, rtol=2e-5)
    assert torch.isfinite(made).all()
    torch.testing.assert_close(written[1:], keys[1:], atol=2e-5, rtol=2e-5, equal_nan=True)


def test_what_does_not_fit_is_refused(operators: Operators) -> None:
    step = Step(WIDE, torch.float32, torch.float32)
    whole = step.slots.clone()
    step.slots[3] = step.cache.shape[0] * WIDE.block_size
    with pytest.raises(RuntimeError, match="slot"):
        step.actual(operators, "float32")
    step.slots = whole
    step.query = step.query[:, 1:].contiguous()
    with pytest.raises(RuntimeError, match="to_latent must be 4 matrices"):
        step.actual(operators, "float32")
