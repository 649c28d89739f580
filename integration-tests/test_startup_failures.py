"""Starts that must fail: quickly, with one clear line, with an exit code."""

import json
import shutil
import socket
from pathlib import Path
from typing import Any

import pytest

from benchmarks.checkpoint import SHAPES, write_checkpoint


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model that would start."""
    folder = tmp_path_factory.mktemp("model")
    write_checkpoint(folder, SHAPES["tiny"], dtype="float32")
    return folder


@pytest.fixture
def flags(free_port: Any) -> list[str]:
    return ["--port", str(free_port()), "--master-port", str(free_port())]


def test_unknown_flag(refuse: Any) -> None:
    assert "--no-such-flag" in refuse("--no-such-flag").stdout


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        (("--port", "http"), "port"),
        (("--num-shard", "0"), "num-shard"),
        (("--max-input-tokens", "100", "--max-total-tokens", "50"), "max-input-tokens"),
        (("--dtype", "int3"), "dtype"),
    ],
)
def test_bad_value_names_the_flag(
    refuse: Any, flags: list[str], wrong: tuple[str, ...], named: str
) -> None:
    assert named in refuse(*flags, *wrong).stdout.replace("_", "-")


def test_missing_model(refuse: Any, flags: list[str], tmp_path: Path) -> None:
    missing = str(tmp_path / "nothing")
    assert missing in refuse(*flags, "--model-id", missing).stdout


def test_folder_without_a_model(refuse: Any, flags: list[str], tmp_path: Path) -> None:
    assert "config.json" in refuse(*flags, "--model-id", str(tmp_path)).stdout


def test_truncated_weights(refuse: Any, flags: list[str], checkpoint: Path, tmp_path: Path) -> None:
    broken = tmp_path / "model"
    shutil.copytree(checkpoint, broken)
    weights = broken / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[: weights.stat().st_size // 2])
    assert "model.safetensors" in refuse(*flags, "--model-id", str(broken)).stdout


def test_weights_that_are_something_else(
    refuse: Any, flags: list[str], checkpoint: Path, tmp_path: Path
) -> None:
    broken = tmp_path / "model"
    shutil.copytree(checkpoint, broken)
    (broken / "model.safetensors").write_bytes(b"version https://git-lfs.github.com/spec/v1\n" * 9)
    assert "model.safetensors" in refuse(*flags, "--model-id", str(broken)).stdout


@pytest.mark.parametrize(
    ("setting", "other", "named"),
    [
        ("model_type", "not_a_model", "not_a_model"),
        ("num_key_value_heads", 3, "num_key_value_heads"),
        ("hidden_size", 65, "hidden_size"),
        ("intermediate_size", 48, "mlp."),
        ("num_hidden_layers", 1, "model.layers.1."),
    ],
)
def test_settings_that_contradict_each_other_or_the_weights(
    refuse: Any,
    flags: list[str],
    checkpoint: Path,
    tmp_path: Path,
    setting: str,
    other: Any,
    named: str,
) -> None:
    broken = tmp_path / "model"
    shutil.copytree(checkpoint, broken)
    config = json.loads((broken / "config.json").read_text())
    config.pop("head_dim", None)
    (broken / "config.json").write_text(json.dumps(config | {setting: other}))
    assert named in refuse(*flags, "--model-id", str(broken)).stdout


def test_missing_tensor(refuse: Any, flags: list[str], checkpoint: Path, tmp_path: Path) -> None:
    """config.json promises one layer more than the weights have."""
    broken = tmp_path / "model"
    shutil.copytree(checkpoint, broken)
    config = broken / "config.json"
    config.write_text(
        config.read_text().replace('"num_hidden_layers": 2', '"num_hidden_layers": 3')
    )
    assert "model.layers.2." in refuse(*flags, "--model-id", str(broken)).stdout


def test_port_in_use(refuse: Any, free_port: Any) -> None:
    with socket.socket() as taken:
        taken.bind(("0.0.0.0", 0))
        taken.listen()
        port = taken.getsockname()[1]
        done = refuse("--port", str(port), "--master-port", str(free_port()))
    assert str(port) in done.stdout
