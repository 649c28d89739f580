"""Parts of tensors, read from a file run by run."""

import pytest
import torch
from text_generation_shard.weights.tensor_part import TensorPart


@pytest.mark.parametrize(
    ("dim", "index"), [(0, None), (1, None), (2, None), (1, 3), (2, 3), (3, 3)]
)
@pytest.mark.parametrize(("start", "length", "step"), [(0, 7, 1), (2, 3, 1), (1, 3, 2), (4, 0, 1)])
@pytest.mark.parametrize("most_rows", [1, 2, 100])
def test_runs_make_up_what_is_sliced(
    dim: int, index: int | None, start: int, length: int, step: int, most_rows: int
) -> None:
    shape = (7, 7, 7) if index is None else (4, 7, 7, 7)
    whole = torch.arange(7 ** len(shape)) if index is None else torch.arange(4 * 7**3)
    whole = whole[: torch.Size(shape).numel()].view(shape)
    part = TensorPart(shape=shape, dim=dim, start=start, length=length, step=step, index=index)
    chosen = whole if index is None else whole[index]
    places = torch.arange(start, start + length * step, step)
    expected = chosen.index_select(dim if index is None else dim - 1, places)
    assert part.thinned(whole[part.window]).equal(expected)

    flat, found = whole.flatten(), torch.full_like(expected, -1)
    max_values = most_rows * 49
    for run in part.runs(max_values):
        values = flat[run.offset : run.offset + run.num_values]
        assert len(values) == run.num_values <= max_values
        found[run.first : run.first + len(run.rows)] = run.cut(values)
        assert chosen[list(run.rows)].shape[0] == len(run.rows)
    assert found.equal(expected)
