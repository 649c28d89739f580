"""Tiny random checkpoints, written by transformers, which is also the reference for them."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor

VOCAB_SIZE = 211


@dataclass(frozen=True)
class Checkpoint:
    path: Path
    reference: Any

    @torch.inference_mode()
    def logits(self, token_ids: list[int]) -> Tensor:
        """[tokens, vocab], float32."""
        return self.reference(torch.tensor([token_ids])).logits[0].float()

    def prompt_logprobs(self, token_ids: list[int]) -> list[float]:
        """One for each token but the first."""
        logprobs = self.logits(token_ids).log_softmax(-1)
        index = torch.arange(len(token_ids) - 1)
        return logprobs[index, torch.tensor(token_ids[1:])].tolist()

    @torch.inference_mode()
    def greedy(self, token_ids: list[int], num_tokens: int) -> list[int]:
        """The continuation, each step computed from the start."""
        known = list(token_ids)
        for _ in range(num_tokens):
            known.append(int(self.logits(known)[-1].argmax()))
        return known[len(token_ids) :]


def write_checkpoint(
    path: Path,
    *,
    model_type: str = "llama",
    dtype: torch.dtype = torch.float32,
    max_shard_size: str = "1GB",
    **settings: Any,
) -> Checkpoint:
    """A model with weights so large that greedy choices are no ties."""
    config_class, model_class = {
        "llama": (transformers.LlamaConfig, transformers.LlamaForCausalLM),
        "mistral": (transformers.MistralConfig, transformers.MistralForCausalLM),
    }[model_type]
    config = config_class(
        **{
            "vocab_size": VOCAB_SIZE,
            "hidden_size": 48,
            "intermediate_size": 80,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "max_position_embeddings": 512,
            **settings,
        }
    )
    torch.manual_seed(0)
    model = model_class(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() == 2:
                parameter.normal_(std=0.4)
            elif "norm" not in name:
                parameter.normal_(std=0.2)
            else:
                parameter.uniform_(0.5, 1.5)
    model.to(dtype).save_pretrained(path, max_shard_size=max_shard_size)
    return Checkpoint(path, model.eval())
