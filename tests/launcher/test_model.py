"""Local models, and what is none."""

import json

import pytest
import text_generation_demo
from text_generation_launcher.errors import LaunchError
from text_generation_launcher.model import Model, find_local, num_attention_heads


@pytest.fixture
def directory(tmp_path):
    """A directory that looks like a model."""
    path = tmp_path / "model"
    path.mkdir()
    (path / "config.json").write_text(json.dumps({"num_attention_heads": 6}))
    (path / "model.safetensors").touch()
    return path


def test_a_directory_is_used_as_it_is(directory):
    assert find_local(str(directory)) == Model(directory, str(directory))


def test_a_relative_directory_as_well(directory, monkeypatch):
    monkeypatch.chdir(directory.parent)
    assert find_local("model") == Model(directory, "model")


def test_weights_in_another_format_are_prepared(directory):
    (directory / "model.safetensors").unlink()
    (directory / "pytorch_model.bin").touch()
    assert find_local(str(directory)) is None


@pytest.mark.parametrize("name", ["tokenizer.model", "vocab.txt"])
def test_a_tokenizer_in_older_files_is_prepared(directory, name):
    (directory / name).touch()
    assert find_local(str(directory)) is None
    (directory / "tokenizer.json").touch()
    assert find_local(str(directory)) is not None


def test_a_directory_without_weights(directory):
    (directory / "model.safetensors").unlink()
    with pytest.raises(LaunchError, match=f"--model-id {directory}: .*no weights"):
        find_local(str(directory))


def test_a_directory_without_config(directory):
    (directory / "config.json").unlink()
    with pytest.raises(LaunchError, match=f"--model-id {directory}: .*no config.json"):
        find_local(str(directory))


@pytest.mark.parametrize("model_id", ["/no/such", "./no", "~/no/such", "a/b/c", "a b", "-x"])
def test_what_is_neither_a_directory_nor_a_name(model_id):
    with pytest.raises(LaunchError, match="there is no such directory"):
        find_local(model_id)


def test_a_file_is_no_model(directory):
    with pytest.raises(LaunchError, match="is a file"):
        find_local(str(directory / "config.json"))


@pytest.mark.parametrize("model_id", ["gpt2", "bigscience/bloom-560m", "a_b/C.d-1"])
def test_a_name_of_the_hub_is_prepared(model_id):
    assert find_local(model_id) is None


def test_without_a_model_the_demo_is_served(directory, monkeypatch):
    monkeypatch.setattr(text_generation_demo, "MODEL_DIR", directory)
    assert find_local(None) == Model(directory, "tgi-demo")


def test_an_incomplete_demo_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr(text_generation_demo, "MODEL_DIR", tmp_path)
    with pytest.raises(LaunchError, match=r"demo model is not complete .* --model-id"):
        find_local(None)


def test_attention_heads(directory):
    model = Model(directory, "m")
    assert num_attention_heads(model) == 6
    (directory / "config.json").write_text(json.dumps({"n_head": 4}))
    assert num_attention_heads(model) == 4
    (directory / "config.json").write_text(json.dumps({"heads": 6}))
    assert num_attention_heads(model) is None
    (directory / "config.json").write_text("{")
    with pytest.raises(LaunchError, match=r"config\.json is not JSON"):
        num_attention_heads(model)
