"""Weights on a GPU are, bit for bit, what the CPU reads: see `virtual_gpu`."""

import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from text_generation_shard.distributed import RankGroup
from text_generation_shard.errors import CheckpointError
from text_generation_shard.models.loading import load_model, model_config
from text_generation_shard.weights import staged_reads
from text_generation_shard.weights.reader import CheckpointReader
from torch import Tensor

from tests.shard.checkpoints import VOCAB_SIZE, write_checkpoint
from tests.shard.coded_checkpoints import write_block_scaled, write_mxfp4
from tests.shard.models.encoder_decoders import write_encoder_decoder
from tests.shard.models.families import write_model
from tests.shard.virtual_gpu import DEVICE, VirtualGpu, virtual_gpu

CPU = torch.device("cpu")
NUM_BUFFERS = 3
BUFFER_BYTES = 3000
EMBEDDING = "model.embed_tokens.weight"


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[VirtualGpu]:
    """With buffers that hold a few rows: most tensors are several pieces, and many more than
    buffers.
    """
    monkeypatch.setattr(staged_reads, "NUM_BUFFERS", NUM_BUFFERS)
    monkeypatch.setattr(staged_reads, "BUFFER_BYTES", BUFFER_BYTES)
    with virtual_gpu(monkeypatch) as gpu:
        yield gpu


def weights_of(
    path: Path, device: torch.device, dtype: torch.dtype, ranks: RankGroup
) -> dict[str, Tensor]:
    """Every tensor of a model, by where it is found."""
    loaded = load_model(path, model_config(path), ranks, dtype=dtype, device=device)
    found: dict[str, Tensor] = {}
    _collect(loaded.model, "", found, set())
    return found


def _collect(thing: Any, name: str, found: dict[str, Tensor], seen: set[int]) -> None:
    if isinstance(thing, Tensor):
        found[name] = thing.cpu()
        return
    if id(thing) in seen:
        return
    seen.add(id(thing))
    parts: Mapping[Any, Any] = getattr(thing, "__dict__", {})
    if isinstance(thing, Mapping):
        parts = thing
    elif isinstance(thing, list | tuple):
        parts = dict(enumerate(thing))
    elif slots := getattr(type(thing), "__slots__", ()):
        parts = {slot: getattr(thing, slot) for slot in slots if hasattr(thing, slot)}
    for key, part in parts.items():
        _collect(part, f"{name}.{key}", found, seen)


def assert_same(path: Path, dtype: torch.dtype, rank: int = 0, world_size: int = 1) -> None:
    ranks = RankGroup(rank=rank, world_size=world_size)
    expected = weights_of(path, CPU, dtype, ranks)
    found = weights_of(path, DEVICE, dtype, ranks)
    assert found.keys() == expected.keys() and len(found) > 10
    for name, weight in expected.items():
        assert found[name].dtype == weight.dtype, name
        assert found[name].shape == weight.shape, name
        assert (
            found[name].contiguous().view(torch.uint8).equal(weight.contiguous().view(torch.uint8))
        ), name


def rewrite(path: Path, change: Callable[[str, Tensor], Tensor]) -> None:
    for file in path.glob("*.safetensors"):
        save_file({name: change(name, each) for name, each in load_file(file).items()}, file)


# Of every way in which a family's matrices lie in a checkpoint: one by one, fused, heads after
# heads, transposed, experts in one tensor and in many, tied.
FAMILIES = (
    *("llama", "qwen3", "falcon-40b", "bloom", "gpt2"),
    *("mixtral", "dbrx", "llama4_text", "gpt_oss", "deepseek_v3", "mamba"),
)


@pytest.mark.parametrize("name", FAMILIES)
def test_families_and_their_ranks(name: str, tmp_path: Path, gpu: VirtualGpu) -> None:
    """From float32 to bfloat16."""
    write_model(name, tmp_path)
    assert_same(tmp_path, torch.bfloat16)
    assert_same(tmp_path, torch.bfloat16, rank=1, world_size=2)
    assert gpu.pinned_bytes == 0


def test_an_encoder_decoder(tmp_path: Path, gpu: VirtualGpu) -> None:
    write_encoder_decoder("t5", tmp_path)
    assert_same(tmp_path, torch.float32, rank=1, world_size=2)


@pytest.mark.parametrize("stored", [torch.bfloat16, torch.float16, torch.float64])
def test_files_of_a_data_type(stored: torch.dtype, tmp_path: Path, gpu: VirtualGpu) -> None:
    write_checkpoint(tmp_path, max_shard_size="40KB", tie_word_embeddings=True)
    rewrite(tmp_path, lambda _, each: each.to(stored))
    assert len(list(tmp_path.glob("*.safetensors"))) > 2
    assert_same(tmp_path, torch.bfloat16)
    assert_same(tmp_path, torch.float32, rank=0, world_size=2)


def test_blocks_of_8_bit_floats(tmp_path: Path, gpu: VirtualGpu) -> None:
    write_block_scaled(tmp_path)
    assert_same(tmp_path, torch.bfloat16)
    assert_same(tmp_path, torch.bfloat16, rank=1, world_size=2)


def test_4_bit_floats(tmp_path: Path, gpu: VirtualGpu) -> None:
    write_mxfp4(tmp_path)
    assert_same(tmp_path, torch.bfloat16)
    assert_same(tmp_path, torch.bfloat16, rank=1, world_size=2)


def test_memory_is_bounded_and_given_back(
    tmp_path: Path, gpu: VirtualGpu, monkeypatch: pytest.MonkeyPatch
) -> None:
    most = 0

    def look(self: Any) -> None:
        nonlocal most
        most = max(most, gpu.pinned_bytes)
        drain(self)

    drain = staged_reads.StagedReads.drain
    monkeypatch.setattr(staged_reads.StagedReads, "drain", look)
    write_checkpoint(tmp_path)
    weights_of(tmp_path, DEVICE, torch.float32, RankGroup())
    # What is needed at once is pinned for itself: five norms.
    assert most == NUM_BUFFERS * BUFFER_BYTES + 5 * 48 * 4
    assert gpu.pinned_bytes == 0


def test_files_come_in_short_reads(
    tmp_path: Path, gpu: VirtualGpu, monkeypatch: pytest.MonkeyPatch
) -> None:
    preadv = os.preadv
    monkeypatch.setattr(
        os, "preadv", lambda file, into, offset: preadv(file, [into[0][:300]], offset)
    )
    write_checkpoint(tmp_path)
    assert_same(tmp_path, torch.float32)


def test_a_file_cut_off_while_it_is_read_is_named(tmp_path: Path, gpu: VirtualGpu) -> None:
    write_checkpoint(tmp_path)
    file = tmp_path / "model.safetensors"
    with (
        pytest.raises(CheckpointError, match=f"{file}: is truncated: it ends in {EMBEDDING}"),
        CheckpointReader(tmp_path, device=DEVICE) as reader,
    ):
        os.truncate(file, 5000)
        with reader.late():
            table = torch.empty(VOCAB_SIZE, 48, device=DEVICE)
            reader.read_into(table, EMBEDDING, shape=(VOCAB_SIZE, 48), dim=0, start=0)
        reader.finish(unused=(), unserved="")


def test_a_disk_that_fails_is_named(
    tmp_path: Path, gpu: VirtualGpu, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> int:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "preadv", fail)
    write_checkpoint(tmp_path)
    with pytest.raises(CheckpointError) as caught:
        weights_of(tmp_path, DEVICE, torch.float32, RankGroup())
    assert str(tmp_path / "model.safetensors") in str(caught.value)
    assert str(caught.value).endswith(f"tensor {EMBEDDING} cannot be read: Input/output error")


def test_a_buffer_is_waited_for(
    tmp_path: Path, gpu: VirtualGpu, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the tests above: they would fail if a buffer were read into before it was copied."""
    write_checkpoint(tmp_path)
    monkeypatch.setattr(torch.cuda.Event, "synchronize", lambda _: None)
    with pytest.raises(AssertionError):
        assert_same(tmp_path, torch.float32)


def test_rows_that_no_buffer_holds(
    tmp_path: Path, gpu: VirtualGpu, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(staged_reads, "BUFFER_BYTES", 8)
    write_checkpoint(tmp_path)
    assert_same(tmp_path, torch.float32)
