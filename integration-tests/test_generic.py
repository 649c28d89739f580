"""Architectures without a family: served on transformers' code, refused with one line otherwise."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import save_file
from tokenizers import Tokenizer

from benchmarks.vocabulary import write_tokenizer

VOCAB_SIZE = 512
PROMPT = "some words of a prompt"
SETTINGS = {
    "vocab_size": VOCAB_SIZE,
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "eos_token_id": 2,
}
CODE = """
from transformers import Olmo2Config, Olmo2ForCausalLM

class TinyConfig(Olmo2Config):
    model_type = "tiny_of_its_own"

class TinyForCausalLM(Olmo2ForCausalLM):
    config_class = TinyConfig
"""
AUTO_MAP = {"AutoConfig": "modeling.TinyConfig", "AutoModelForCausalLM": "modeling.TinyForCausalLM"}


@pytest.fixture(scope="module")
def olmo2(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """A model's directory, and the same model in transformers."""
    folder = tmp_path_factory.mktemp("olmo2")
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(transformers.Olmo2Config(**SETTINGS))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(std=0.4)
    model.save_pretrained(folder)
    write_tokenizer(folder, VOCAB_SIZE, 512)
    return folder, model.eval()


def expected_tokens(model: Any, prompt: list[int], count: int) -> list[int]:
    ids = torch.tensor([prompt])
    output = model.generate(
        ids, attention_mask=torch.ones_like(ids), max_new_tokens=count, do_sample=False
    )
    return output[0, len(prompt) :].tolist()


@pytest.mark.parametrize("num_shard", [1, 2])
def test_served_as_transformers_computes_it(
    launch: Any, olmo2: tuple[Path, Any], num_shard: int
) -> None:
    folder, model = olmo2
    with launch("--model-id", str(folder), "--num-shard", str(num_shard)) as server:
        answer = server.generate(PROMPT, max_new_tokens=12, details=True)
        tokens = [token["id"] for token in answer["details"]["tokens"]]
        prompt = Tokenizer.from_file(str(folder / "tokenizer.json")).encode(PROMPT).ids
        assert tokens == expected_tokens(model, prompt, 12)[: len(tokens)]
        again = server.generate(PROMPT, max_new_tokens=12)
        assert again["generated_text"] == answer["generated_text"]
        server.wait_until(lambda: "cached_tokens=16 " in server.logs(), "found in the cache")
        stream = server.post(
            "/generate_stream", {"inputs": PROMPT, "parameters": {"max_new_tokens": 12}}
        )
        assert [event["token"]["id"] for event in stream.events()] == tokens
        server.wait_until_idle()
        assert server.logs().count("Olmo2ForCausalLM has no family here") == 1


def test_code_of_a_model_needs_the_flag(
    launch: Any, refuse: Any, free_port: Any, olmo2: tuple[Path, Any], tmp_path: Path
) -> None:
    _, model = olmo2
    write_tokenizer(tmp_path, VOCAB_SIZE, 512)
    (tmp_path / "modeling.py").write_text(CODE)
    config = {"model_type": "tiny_of_its_own", "auto_map": AUTO_MAP, **SETTINGS}
    (tmp_path / "config.json").write_text(json.dumps(config))
    save_file(model.state_dict(), tmp_path / "model.safetensors", metadata={"format": "pt"})
    flags = ("--model-id", str(tmp_path))
    ports = ("--port", str(free_port()), "--master-port", str(free_port()))
    assert "--trust-remote-code" in refuse(*flags, *ports).stdout
    with launch(*flags, "--trust-remote-code") as server:
        details = server.generate(PROMPT, max_new_tokens=4, details=True)["details"]
        assert len(details["tokens"]) == 4


def test_an_architecture_that_nobody_knows(refuse: Any, free_port: Any, tmp_path: Path) -> None:
    write_tokenizer(tmp_path, VOCAB_SIZE, 512)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "no_such", **SETTINGS}))
    save_file({}, tmp_path / "model.safetensors")
    ports = ("--port", str(free_port()), "--master-port", str(free_port()))
    assert "'no_such' is unknown" in refuse("--model-id", str(tmp_path), *ports).stdout
