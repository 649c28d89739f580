"""A step's contexts, cut into pieces of one length, which the device works out by itself.

    contexts   | row 0 ........... | row 1 | row 2 ........ |
    pieces     | 0   | 1   | 2   | 3       | 4   | 5   | 6  |      the last of a row may be shorter

A program takes a piece. How long one is follows from all contexts: as many pieces as fill the
device share the step's tokens, so that a long context among short ones does not keep the others
waiting, and a captured graph serves every mixture (Flash-Decoding, Dao et al., 2023). At most one
piece per row is not whole, so there are no more than `num_pieces`; programs beyond end at once.
"""

import triton
import triton.language as tl

from text_generation_shard.ops.triton.attend import first_visible

# Context tokens that are worth a program of their own.
MIN_PIECE = 256
_MIN_LENGTH = tl.constexpr(MIN_PIECE)
# Programs per multiprocessor that hide each other's latency.
_PROGRAMS_PER_MULTIPROCESSOR = 2
# Contexts that are looked at in one pass.
_MANY_ROWS = tl.constexpr(256)


def pieces_per_row(
    num_rows: int, programs_per_piece: int, max_context: int, num_multiprocessors: int
) -> int:
    """Pieces of a row, were all contexts equal: enough to fill the device, where contexts may be
    that long. 0: no context is worth two, and a program per row takes all of it.

    max_context: of a layer, in any step, so that all of its steps are one kernel: what a step's
    contexts are, the device finds out.
    """
    programs = num_rows * programs_per_piece
    wanted = triton.cdiv(_PROGRAMS_PER_MULTIPROCESSOR * num_multiprocessors, programs)
    useful = triton.cdiv(max_context, MIN_PIECE)
    return 0 if useful <= 1 else min(wanted, useful)


def num_pieces(num_rows: int, per_row: int) -> int:
    """The most pieces that there can be, for what `pieces_per_row` says."""
    return num_rows * (per_row + 1)


@triton.jit
def _tokens_of_rows(contexts, rows, num_rows, WINDOW: tl.constexpr, IS_CHUNKED: tl.constexpr):
    """Tokens that each of these rows sees, [rows]; 0 where there is no row."""
    context = tl.load(contexts + rows, mask=rows < num_rows, other=0)
    return context - first_visible(context - 1, WINDOW, IS_CHUNKED)


@triton.jit
def _pieces_of_rows(visible, rows, num_rows, length):
    """How many each of these rows has: one at least."""
    return tl.where(rows < num_rows, tl.maximum(tl.cdiv(visible, length), 1), 0)


@triton.jit
def piece_length(
    contexts, num_rows, per_row, WINDOW: tl.constexpr, IS_CHUNKED: tl.constexpr, TILE: tl.constexpr
):
    """Tokens of a piece, a multiple of TILE."""
    total = tl.full([], 0, tl.int64)
    for first in range(0, num_rows, _MANY_ROWS):
        rows = first + tl.arange(0, _MANY_ROWS)
        total += tl.sum(_tokens_of_rows(contexts, rows, num_rows, WINDOW, IS_CHUNKED))
    share = tl.cdiv(total, num_rows * per_row).to(tl.int32)
    return tl.maximum(tl.cdiv(share, TILE) * TILE, _MIN_LENGTH)


@triton.jit
def row_of_piece(contexts, num_rows, piece, length, WINDOW: tl.constexpr, IS_CHUNKED: tl.constexpr):
    """The row that a piece belongs to, and the row's first piece; num_rows if there is no such
    piece.
    """
    row = tl.full([], 0, tl.int32)
    first_piece = tl.full([], 0, tl.int32)
    before = tl.full([], 0, tl.int32)
    for first in range(0, num_rows, _MANY_ROWS):
        rows = first + tl.arange(0, _MANY_ROWS)
        visible = _tokens_of_rows(contexts, rows, num_rows, WINDOW, IS_CHUNKED)
        pieces = _pieces_of_rows(visible, rows, num_rows, length)
        ends = before + tl.cumsum(pieces)
        is_before = (ends <= piece) & (rows < num_rows)
        row += tl.sum(is_before.to(tl.int32))
        first_piece += tl.sum(tl.where(is_before, pieces, 0))
        before += tl.sum(pieces)
    return row, first_piece


@triton.jit
def pieces_of_row(contexts, num_rows, row, length, WINDOW: tl.constexpr, IS_CHUNKED: tl.constexpr):
    """A row's first piece, and how many it has."""
    first_piece = tl.full([], 0, tl.int32)
    count = tl.full([], 0, tl.int32)
    for first in range(0, num_rows, _MANY_ROWS):
        rows = first + tl.arange(0, _MANY_ROWS)
        visible = _tokens_of_rows(contexts, rows, num_rows, WINDOW, IS_CHUNKED)
        pieces = _pieces_of_rows(visible, rows, num_rows, length)
        first_piece += tl.sum(tl.where(rows < row, pieces, 0))
        count += tl.sum(tl.where(rows == row, pieces, 0))
    return first_piece, count


@triton.jit
def locate_piece(
    parts,
    contexts,
    num_rows,
    per_row,
    piece,
    WINDOW: tl.constexpr,
    IS_CHUNKED: tl.constexpr,
    TILE: tl.constexpr,
):
    """A piece's row, as `row_of_piece` has it, the row's first piece, and the length of pieces.
    Without parts a row is one piece, longer than any context.
    """
    row, first_piece, length = piece, piece, 1 << 30
    if parts is not None:
        length = piece_length(contexts, num_rows, per_row, WINDOW, IS_CHUNKED, TILE)
        row, first_piece = row_of_piece(contexts, num_rows, piece, length, WINDOW, IS_CHUNKED)
    return row, first_piece, length
