import json
import logging

import pytest
from huggingface_hub import constants
from text_generation_shard.errors import CheckpointError
from text_generation_shard.weights import download, hub
from text_generation_shard.weights.download import DownloadConfig, prepare
from text_generation_shard.weights.hub import HubError

from tests.shard.weights_download.checkpoints import (
    write_bin,
    write_config,
    write_safetensors,
    write_sharded_bin,
)

COMMIT = "a" * 40


def prepare_model(model_id, **options):
    return prepare(DownloadConfig(model_id=str(model_id), **options), {})


@pytest.fixture
def offline(monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)


def make_cache(root, write, *, revision="main"):
    """A hub cache that holds one snapshot of `founders/tiny`."""
    repository = root / "models--founders--tiny"
    snapshot = write(repository / "snapshots" / COMMIT)
    (repository / "refs").mkdir()
    (repository / "refs" / revision).write_text(COMMIT)
    return snapshot


def test_a_ready_directory_stays_as_it_is(tmp_path):
    directory = write_safetensors(tmp_path)
    before = sorted(tmp_path.iterdir())
    assert prepare_model(directory) == directory
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize("write", [write_bin, write_sharded_bin])
def test_a_directory_with_pickles_is_converted_once(tmp_path, write, caplog):
    caplog.set_level(logging.INFO)
    write(tmp_path)
    assert prepare_model(tmp_path) == tmp_path
    converted = {path: path.stat().st_mtime_ns for path in tmp_path.glob("*.safetensors")}
    assert converted
    caplog.clear()
    prepare_model(tmp_path)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.glob("*.safetensors")} == converted
    assert "Converting" not in caplog.text


def test_an_interrupted_conversion_is_done_again(tmp_path):
    write_sharded_bin(tmp_path)
    prepare_model(tmp_path)
    (tmp_path / "model-00002-of-00002.safetensors").unlink()
    prepare_model(tmp_path)
    assert (tmp_path / "model-00002-of-00002.safetensors").is_file()


def test_a_truncated_file_is_refused_by_name(tmp_path):
    path = write_safetensors(tmp_path) / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-7])
    with pytest.raises(CheckpointError, match=r"model\.safetensors: is truncated"):
        prepare_model(tmp_path)


def test_a_file_that_the_index_names_must_be_there(tmp_path):
    write_config(tmp_path)
    (tmp_path / "model.safetensors.index.json").write_text('{"weight_map": {"a": "x.safetensors"}}')
    with pytest.raises(CheckpointError, match=r"x\.safetensors: is missing"):
        prepare_model(tmp_path)


def test_directories_that_hold_no_model(tmp_path):
    with pytest.raises(CheckpointError, match=r"has no config\.json"):
        prepare_model(tmp_path)
    with pytest.raises(CheckpointError, match="has no weights"):
        prepare_model(write_config(tmp_path))
    with pytest.raises(CheckpointError, match="is a file"):
        prepare_model(tmp_path / "config.json")
    with pytest.raises(CheckpointError, match="there is no such directory"):
        prepare_model(tmp_path / "nowhere")


def test_offline_the_cache_serves(tmp_path, offline):
    snapshot = make_cache(tmp_path, write_safetensors)
    found = prepare_model("founders/tiny", huggingface_hub_cache=str(tmp_path))
    assert found == snapshot


def test_offline_a_cached_pickle_is_converted(tmp_path, offline):
    snapshot = make_cache(tmp_path, write_bin, revision="v1")
    prepare_model("founders/tiny", revision="v1", huggingface_hub_cache=str(tmp_path))
    assert (snapshot / "model.safetensors").is_file()


@pytest.mark.parametrize("write", [None, write_config])
def test_offline_without_a_whole_copy_is_refused(tmp_path, offline, write):
    if write:
        make_cache(tmp_path, write)
    with pytest.raises(HubError) as refused:
        prepare_model("founders/tiny", huggingface_hub_cache=str(tmp_path))
    text = str(refused.value)
    assert text.startswith("HF_HUB_OFFLINE is set and model founders/tiny (revision main)")
    assert str(tmp_path) in text


def test_a_commit_in_the_cache_is_not_asked_for_again(tmp_path, monkeypatch):
    monkeypatch.setattr(hub, "fetch", None)
    snapshot = make_cache(tmp_path, write_safetensors)
    options = {"revision": COMMIT, "huggingface_hub_cache": str(tmp_path)}
    assert prepare_model("founders/tiny", **options) == snapshot


def test_a_copy_without_its_code_is_not_whole_where_code_is_wanted(tmp_path, offline):
    snapshot = make_cache(tmp_path, write_safetensors)
    auto_map = {"AutoConfig": "tiny.Config", "AutoModel": "someone/else--modeling.Model"}
    (snapshot / "config.json").write_text(json.dumps({"model_type": "x", "auto_map": auto_map}))
    options = {"huggingface_hub_cache": str(tmp_path), "trust_remote_code": True}
    with pytest.raises(HubError, match="is not complete"):
        prepare_model("founders/tiny", **options)
    (snapshot / "tiny.py").touch()
    assert prepare_model("founders/tiny", **options) == snapshot


def test_a_filled_override_directory_replaces_the_hub(tmp_path, monkeypatch):
    monkeypatch.setattr(hub, "fetch", None)
    write_safetensors(tmp_path)
    assert prepare_model("founders/tiny", weights_cache_override=str(tmp_path)) == tmp_path


def test_main_logs_an_unexpected_failure_and_exits_with_one(tmp_path, monkeypatch, capsys):
    def fail(*_):
        raise ZeroDivisionError("oops")

    monkeypatch.setattr(download, "prepare", fail)
    root = logging.getLogger()
    handlers, level = root.handlers, root.level
    try:
        with pytest.raises(SystemExit) as ended:
            download.main([str(tmp_path), "--json-output"])
    finally:
        root.handlers, root.level = handlers, level
        logging.captureWarnings(False)
    assert ended.value.code == 1
    assert "ZeroDivisionError: oops" in capsys.readouterr().out
