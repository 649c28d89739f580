"""The command in a process of its own, as the launcher runs it, against a hub on the loopback."""

import json
import os
import subprocess
import sys
from pathlib import Path

from text_generation_process.logs import decode

from tests.shard.weights_download.checkpoints import write_safetensors
from tests.shard.weights_download.fake_hub import COMMIT, serve

MODEL = "founders/tiny"
PROGRAM = """
import sys
from text_generation_shard.weights.download import main
try:
    main(sys.argv[1:])
finally:
    assert "torch" not in sys.modules, "torch was imported"
"""


def run(*argv, **environment):
    inherited = {
        name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGING"))
    }
    return subprocess.run(
        [sys.executable, "-c", PROGRAM, *argv, "--json-output"],
        env={**inherited, **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def records(result):
    lines = [decode(line) for line in result.stdout.splitlines()]
    assert None not in lines, result.stdout
    return lines


def repository(tmp_path):
    source = write_safetensors(tmp_path / "source")
    files = {path.name: path.read_bytes() for path in source.iterdir()}
    return files | {
        "tokenizer.json": b"{}",
        "chat_template.jinja": b"{{ messages }}",
        "README.md": b"prose",
        "pytorch_model.bin": b"not asked for",
        "onnx/model.onnx": b"not asked for",
    }


def test_a_hub_model_is_fetched_then_found_offline(tmp_path):
    cache = tmp_path / "cache"
    with serve(MODEL, repository(tmp_path)) as endpoint:
        result = run(MODEL, "--huggingface-hub-cache", str(cache), HF_ENDPOINT=endpoint)
    assert result.returncode == 0, result.stdout + result.stderr
    assert result.stderr == ""
    lines = records(result)
    directory = lines[-1]["model_path"]
    assert directory.endswith(f"snapshots/{COMMIT}")
    assert sorted(path.name for path in Path(directory).iterdir()) == [
        "chat_template.jinja",
        "config.json",
        "model.safetensors",
        "tokenizer.json",
    ]
    drawn = [line for line in lines if "bytes_done" in line]
    assert drawn[-1]["bytes_done"] == drawn[-1]["bytes_total"] > 0
    assert drawn[-1]["progress"] == f"Downloading {MODEL}"

    again = run(MODEL, "--huggingface-hub-cache", str(cache), HF_HUB_OFFLINE="1")
    assert again.returncode == 0, again.stdout + again.stderr
    assert records(again)[-1]["model_path"] == directory

    unreachable = run(
        MODEL, "--huggingface-hub-cache", str(cache), HF_ENDPOINT="http://127.0.0.1:9"
    )
    assert unreachable.returncode == 0, unreachable.stdout + unreachable.stderr
    *_, warning, ready = records(unreachable)
    assert warning["level"] == "WARNING"
    assert "cannot be reached" in warning["message"]
    assert ready["model_path"] == directory


def test_a_model_that_does_not_exist_is_one_line(tmp_path):
    with serve(MODEL, {}) as endpoint:
        result = run(
            "--model-id",
            "founders/other",
            "--revision",
            "v2",
            "--huggingface-hub-cache",
            str(tmp_path),
            HF_ENDPOINT=endpoint,
        )
    assert result.returncode == 1
    (line,) = records(result)
    assert line["level"] == "ERROR"
    assert line["message"].startswith("model founders/other (revision v2) does not exist")
    assert result.stderr == ""


def test_a_local_directory_needs_no_hub(tmp_path):
    result = run(str(write_safetensors(tmp_path / "model")))
    assert result.returncode == 0, result.stdout + result.stderr
    assert records(result)[-1]["model_path"] == str(tmp_path / "model")


def test_usage_errors_exit_with_two(tmp_path):
    result = run("--nonsense")
    assert result.returncode == 2
    assert "--nonsense" in result.stderr
    assert json.dumps(result.stdout) == '""'


def test_an_override_directory_receives_the_files(tmp_path):
    directory = tmp_path / "override"
    with serve(MODEL, repository(tmp_path)) as endpoint:
        result = run(MODEL, "--weights-cache-override", str(directory), HF_ENDPOINT=endpoint)
    assert result.returncode == 0, result.stdout + result.stderr
    assert records(result)[-1]["model_path"] == str(directory)
    assert (directory / "model.safetensors").is_file()
    assert not (directory / "pytorch_model.bin").exists()
