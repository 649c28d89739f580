"""Options that this device or this model cannot honour: refused by name, with exit code 2."""

from pathlib import Path
from typing import Any

import pytest
from text_generation_shard import server
from text_generation_shard.config import ShardConfig

from tests.shard.checkpoints import Checkpoint
from tests.shard.engines import ALONE
from tests.shard.models.families import write_model


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"all_reduce": "nccl"}, "--all-reduce nccl: there is no GPU here"),
        ({"cuda_graphs": (4,)}, "--cuda-graphs 4: there is no GPU here"),
        ({"cuda_memory_fraction": 0.5}, "--cuda-memory-fraction 0.5: there is no GPU here"),
        ({"attention": "flash"}, "--attention flash: there is no GPU here"),
        ({"dtype": "float16", "quantize": "int8"}, "--dtype float16 does not go with --quantize"),
        ({"rope_scaling": "linear", "model": "gpt2"}, "--rope-scaling: gpt2 has no rotary"),
    ],
)
def test_what_cannot_be_honoured_here_ends_as_a_bad_option_does(
    checkpoint: Checkpoint,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    options: dict[str, Any],
    text: str,
) -> None:
    """The first three were without effect, and so was a data type beside quantized weights."""
    monkeypatch.setattr(server, "_listen_for_signals", lambda _: None)
    model = options.get("model")
    path = checkpoint.path if model is None else write_model(model, tmp_path).path
    options = {name: value for name, value in options.items() if name != "model"}
    config = ShardConfig(model_path=str(path), uds_path=str(tmp_path / "s"), **options)
    assert server.serve(config, ALONE) == 2
    assert any(message.startswith(text) for message in caplog.messages)
