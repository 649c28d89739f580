"""Products by tile registers (AMX): where a processor has none, each instruction is emulated."""

import logging
from collections.abc import Iterator

import pytest
import torch
from text_generation_shard.ops.cpu import library
from text_generation_shard.ops.cpu.operators import Operators, PackedMatrix
from text_generation_shard.ops.cpu.self_check import disagreement
from torch import Tensor

from tests.shard.ops_cpu.tile_emulator import TileEmulator

QUANTIZED = ("int8", "int4")
# Outputs that fill no panel or tile; inputs that fill no part, two parts, a group, or a batch.
SIZES = [(1, 1), (33, 128), (40, 160), (130, 353), (100, 96), (290, 64)]
# AVX-512's, and one or two registers of rows, full or not, in one or several tiles.
ROWS = (8, 9, 16, 17, 32, 33, 70)


@pytest.fixture(autouse=True)
def _threads() -> Iterator[None]:
    torch.manual_seed(0)
    yield
    library.set_num_threads(1)


@pytest.fixture
def vectors(tile_operators: Operators) -> Operators:
    """The operators beside those with tile registers."""
    return library.operators_for("avx512_bf16")


@pytest.mark.parametrize("name", QUANTIZED)
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("num_threads", [1, 3])
def test_integer_products_are_the_same_bits(
    tile_operators: Operators,
    vectors: Operators,
    name: str,
    size: tuple[int, int],
    num_threads: int,
) -> None:
    """As those of AVX-512."""
    library.set_num_threads(num_threads)
    weight = torch.randn(size)
    own, other = tile_operators.pack(weight, name), vectors.pack(weight, name)
    bias, x = torch.randn(size[0]), torch.randn(max(ROWS), size[1])
    addend = torch.randn(max(ROWS), size[0])
    for rows in ROWS:
        some = x[:rows]
        for extra in ((None, None), (bias, None), (bias, addend[:rows])):
            assert torch.equal(own.multiply(some, *extra), other.multiply(some, *extra))


@pytest.mark.parametrize("size", [*SIZES, (20, 4099)])
@pytest.mark.parametrize("num_threads", [1, 3])
def test_bfloat16_products(
    tile_operators: Operators, size: tuple[int, int], num_threads: int
) -> None:
    """Against float64, to the rounding of float32 sums in any order."""
    library.set_num_threads(num_threads)
    outputs, inputs = size
    weight = torch.randn(size).bfloat16()
    matrix = tile_operators.pack(weight, "bfloat16")
    bias, x, addend = torch.randn(outputs), torch.randn(70, inputs), torch.randn(70, outputs)
    factors = x.bfloat16().double(), weight.double().T
    exact = factors[0] @ factors[1] + bias + addend
    magnitudes = factors[0].abs() @ factors[1].abs() + bias.abs() + addend.abs()
    for rows in (1, *ROWS):
        actual = matrix.multiply(x[:rows], bias, addend[:rows])
        bound = (inputs + 4) * 2**-24 * magnitudes[:rows]
        assert ((actual - exact[:rows]).abs() <= bound).all()


@pytest.mark.parametrize("name", ["bfloat16", *QUANTIZED])
def test_a_row_does_not_depend_on_its_company(tile_operators: Operators, name: str) -> None:
    weight = torch.randn(100, 200)
    matrix = tile_operators.pack(weight.bfloat16() if name == "bfloat16" else weight, name)
    x = torch.randn(70, 200)
    together = matrix.multiply(x, None)
    for rows in (slice(0, 1), slice(3, 5), slice(10, 27), slice(30, 70)):
        assert torch.equal(matrix.multiply(x[rows], None), together[rows])


def test_values_that_are_no_numbers(tile_operators: Operators) -> None:
    """They stay in their row; what follows the last input in memory is multiplied by none."""
    for name in ("bfloat16", *QUANTIZED):
        weight = torch.randn(40, 100)
        matrix = tile_operators.pack(weight.bfloat16() if name == "bfloat16" else weight, name)
        x = torch.randn(20, 100)
        x[17, 7] = float("nan")
        result = matrix.multiply(x, None)
        assert result[17].isnan().all()
        assert result[torch.arange(20) != 17].isfinite().all()
    weight = torch.randn(33, 34).bfloat16()
    weight[16] = float("inf")  # follows the last inputs of another panel
    result = tile_operators.pack(weight, "bfloat16").multiply(torch.randn(9, 34), None)
    assert result[:, torch.arange(33) != 16].isfinite().all()


@pytest.mark.parametrize(
    ("name", "rows", "uses_tiles"),
    [("bfloat16", 1, True), ("int8", 8, False), ("int8", 9, True), ("int4", 9, True)],
)
def test_which_products_use_tiles(
    tile_emulator: TileEmulator, tile_operators: Operators, name: str, rows: int, uses_tiles: bool
) -> None:
    weight = torch.randn(32, 64)
    matrix = tile_operators.pack(weight.bfloat16() if name == "bfloat16" else weight, name)
    before = tile_emulator.num_executed
    matrix.multiply(torch.randn(rows, 64), None)
    assert (tile_emulator.num_executed > before) is uses_tiles


def test_the_emulated_product_of_bytes(tile_emulator: TileEmulator) -> None:
    """Signed times unsigned; four of a row of a meet the four of a column of b."""
    for rows in (1, 16):
        a = torch.randint(-128, 128, (rows, 64), dtype=torch.int8)
        b = torch.randint(0, 256, (16, 16, 4), dtype=torch.uint8)
        a[0], b[:, 0] = -128, 255
        c = torch.randint(-1000, 1000, (rows, 16), dtype=torch.int32)
        expected = c + a.int() @ b.transpose(1, 2).reshape(64, 16).int()
        with tile_emulator.emulating():
            tile_emulator.multiply("multiply_bytes", c, a, b)
        assert torch.equal(c, expected)


def test_the_emulated_product_of_pairs(tile_emulator: TileEmulator) -> None:
    """First and second ones are added apart, each sum rounded; what is denormal counts as zero."""
    a, b = torch.rand(16, 16, 2).add(0.5).bfloat16(), torch.rand(16, 16, 2).sub(1.5).bfloat16()
    a[0], b[:, 0] = 1e-39, 1e10
    c = torch.rand(16, 16)
    halves = torch.zeros(16, 16, 2)
    factors = a.double(), b.double()
    factors[0][0] = 0
    for step in range(16):
        products = factors[0][:, None, step] * factors[1][None, step]
        halves = (halves.double() + products).float()
    expected = c + (halves[..., 0] + halves[..., 1])
    with tile_emulator.emulating():
        tile_emulator.multiply("multiply_pairs", c, a, b)
    assert torch.equal(c, expected)


@pytest.mark.parametrize(
    ("use", "fault"),
    [
        ("configure_nothing", "not configured"),
        ("configure_another_thread", "not configured"),
        ("use_after_release", "not configured"),
        ("use_a_tile_without_shape", "has no shape"),
        ("configure_17_rows", "too large"),
        ("configure_65_bytes", "too large"),
        ("configure_a_ninth_tile", "reserved bytes"),
        ("configure_palette_2", "no such palette"),
        ("multiply_more_rows_than_sums", "do not make a product"),
        ("multiply_more_columns_than_rows", "do not make a product"),
    ],
)
def test_what_the_emulator_refuses(tile_emulator: TileEmulator, use: str, fault: str) -> None:
    with tile_emulator.emulating():
        tile_emulator.probe(use)
        assert fault in (tile_emulator.take_fault() or "")


@pytest.mark.parametrize(
    ("features", "kept", "offered"),
    [
        (1 << 22 | 1 << 24 | 1 << 25, 0x602E7, True),
        (0xFFFFFFFF, 0x600E7, True),
        (1 << 22 | 1 << 24 | 1 << 25, 0x200E7, False),  # the system keeps shapes alone
        (1 << 22 | 1 << 24 | 1 << 25, 0xE7, False),
        (1 << 24 | 1 << 25, 0x602E7, False),  # no bfloat16
        (1 << 22 | 1 << 24, 0x602E7, False),  # no bytes
        (1 << 22 | 1 << 25, 0x602E7, False),
    ],
)
def test_which_processors_offer_tiles(
    tile_emulator: TileEmulator, features: int, kept: int, offered: bool
) -> None:
    assert tile_emulator.offers_tiles(features, kept) is offered


class WrongMatrix:
    """Products of which one element is a little off."""

    def __init__(self, matrix: PackedMatrix) -> None:
        self._matrix = matrix

    def multiply(self, x: Tensor, bias: Tensor | None) -> Tensor:
        result = self._matrix.multiply(x, bias)
        result[-1, -1] *= 1.001
        return result


class WrongOperators:
    """That are wrong with one format."""

    def __init__(self, operators: Operators, wrong_format: str) -> None:
        self._operators, self._wrong_format = operators, wrong_format

    def pack(self, source: Tensor, weight_format: str) -> PackedMatrix | WrongMatrix:
        matrix = self._operators.pack(source, weight_format)
        return WrongMatrix(matrix) if weight_format == self._wrong_format else matrix


def test_self_check(tile_operators: Operators, vectors: Operators) -> None:
    assert disagreement(tile_operators, vectors) is None
    for name in ("bfloat16", *QUANTIZED):
        assert name in (disagreement(WrongOperators(vectors, name), vectors) or "")


class LibraryWithTiles:
    """A library on a processor that has tile registers, whose products are these."""

    def __init__(self, tile_operators: object, vectors: Operators) -> None:
        self._operators = {"amx": tile_operators, "avx512_bf16": vectors}

    def instruction_sets(self) -> list[str]:
        return list(self._operators)

    def Operators(self, instruction_set: str) -> object:  # noqa: N802  a class in C++
        return self._operators[instruction_set]


def test_tiles_that_disagree_are_not_used(
    vectors: Operators, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """One warning, and the next best serves."""
    fake = LibraryWithTiles(WrongOperators(vectors, "int8"), vectors)
    monkeypatch.setattr(library, "_load", lambda: fake)
    with caplog.at_level(logging.WARNING):
        assert library.operators.__wrapped__() is vectors
        assert library.instruction_sets() == ("avx512_bf16",)
    (record,) = caplog.records
    assert "int8" in record.getMessage()


def test_tiles_that_agree_are_used(
    tile_operators: Operators, vectors: Operators, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = LibraryWithTiles(tile_operators, vectors)
    monkeypatch.setattr(library, "_load", lambda: fake)
    assert library.operators.__wrapped__() is tile_operators
