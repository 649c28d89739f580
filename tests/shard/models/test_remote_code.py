"""A model that brings its own code: run only if it is trusted, and only if it can be served."""

import json
import re
import textwrap
from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import save_file
from text_generation_shard.errors import CheckpointError
from transformers import dynamic_module_utils

from tests.shard.checkpoints import VOCAB_SIZE, Checkpoint
from tests.shard.engines import running_shard
from tests.shard.models.families import randomize
from tests.shard.models.test_families import Reference, check_parity

# Llama with a norm of its own before the head; `flaw` is what cannot be served.
CODE = """
import torch.nn.functional as F
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.models.llama.modeling_llama import LlamaModel


class TinyConfig(LlamaConfig):
    model_type = "tiny_of_its_own"
    flaw: str | None = None


class TinyModel(LlamaModel):
    config_class = TinyConfig

    def forward(self, input_ids=None, position_ids=None, **kwargs):
        kwargs.pop("inputs_embeds", None)
        x = self.embed_tokens(input_ids)
        if self.config.flaw == "looks at the token before":
            x = x + F.pad(x, (0, 0, 1, -1))
        elif self.config.flaw == "counts positions itself":
            position_ids = None
        elif self.config.flaw == "attends with a bias":
            kwargs["position_bias"] = x.new_ones(1)
        elif self.config.flaw == "attends to what comes":
            kwargs["is_causal"] = False
        return super().forward(inputs_embeds=x, position_ids=position_ids, **kwargs)


class TinyForCausalLM(LlamaForCausalLM):
    config_class = TinyConfig

    def __init__(self, config):
        super().__init__(config)
        self.model = TinyModel(config)
        self.lm_head = nn.Sequential(
            nn.LayerNorm(config.hidden_size), nn.Linear(config.hidden_size, config.vocab_size)
        )
        self.post_init()
"""
CONFIG = {
    "model_type": "tiny_of_its_own",
    "auto_map": {
        "AutoConfig": "modeling_tiny.TinyConfig",
        "AutoModelForCausalLM": "modeling_tiny.TinyForCausalLM",
    },
    "vocab_size": VOCAB_SIZE,
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
}


@pytest.fixture(autouse=True)
def modules(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where transformers copies the code to before it imports it."""
    monkeypatch.setattr(
        dynamic_module_utils, "HF_MODULES_CACHE", str(tmp_path_factory.mktemp("modules"))
    )


def write_remote(path: Path, **settings: object) -> Checkpoint:
    (path / "modeling_tiny.py").write_text(textwrap.dedent(CODE))
    (path / "config.json").write_text(json.dumps(CONFIG | settings))
    config = transformers.AutoConfig.from_pretrained(path, trust_remote_code=True)
    torch.manual_seed(0)
    reference = transformers.AutoModelForCausalLM.from_config(
        config, trust_remote_code=True, attn_implementation="eager"
    )
    randomize(reference, std=0.4)
    save_file(reference.state_dict(), path / "model.safetensors", metadata={"format": "pt"})
    return Checkpoint(path, reference.eval())


def test_parity_of_trusted_code(tmp_path: Path) -> None:
    check_parity(Reference(write_remote(tmp_path)), trust_remote_code=True)


def test_code_is_not_run_without_the_flag(tmp_path: Path) -> None:
    write_remote(tmp_path)
    (tmp_path / "modeling_tiny.py").write_text("raise SystemExit('it ran')")
    with (
        pytest.raises(CheckpointError, match="pass --trust-remote-code to run it"),
        running_shard(tmp_path),
    ):
        pass


@pytest.mark.parametrize(
    ("reference", "reason"),
    [
        ("someone/else--modeling_tiny.TinyForCausalLM", "lies in another repository"),
        ("modeling_huge.TinyForCausalLM", "modeling_huge.py"),
        ("modeling_tiny.HugeForCausalLM", "HugeForCausalLM"),
    ],
)
def test_code_that_is_not_there(reference: str, reason: str, tmp_path: Path) -> None:
    write_remote(tmp_path)
    auto_map = CONFIG["auto_map"] | {"AutoModelForCausalLM": reference}
    (tmp_path / "config.json").write_text(json.dumps(CONFIG | {"auto_map": auto_map}))
    with (
        pytest.raises(CheckpointError, match=re.escape(reason)),
        running_shard(tmp_path, trust_remote_code=True),
    ):
        pass


@pytest.mark.parametrize(
    ("flaw", "reason"),
    [
        ("looks at the token before", "computed in steps, it does not give what it gives at once"),
        ("counts positions itself", "computed in steps, it does not give what it gives at once"),
        ("attends with a bias", "asks for position_bias, which is not supported"),
        ("attends to what comes", "its mask is neither causal nor a sliding window"),
    ],
)
def test_flaws_are_found(flaw: str, reason: str, tmp_path: Path) -> None:
    write_remote(tmp_path, flaw=flaw)
    with (
        pytest.raises(CheckpointError, match=reason),
        running_shard(tmp_path, trust_remote_code=True),
    ):
        pass


def test_a_known_architecture_goes_before_code(tmp_path: Path) -> None:
    """Code beside a model that transformers knows is not run, trusted or not."""
    write_remote(tmp_path)
    (tmp_path / "modeling_tiny.py").write_text("raise SystemExit('it ran')")
    (tmp_path / "config.json").write_text(json.dumps(CONFIG | {"model_type": "olmo2"}))
    with (
        pytest.raises(CheckpointError, match="tensor"),
        running_shard(tmp_path, trust_remote_code=True),
    ):
        pass
