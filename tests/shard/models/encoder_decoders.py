"""Tiny encoder-decoders, and the steps that each of them is tried on."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor

from tests.shard.checkpoints import VOCAB_SIZE
from tests.shard.step_script import StepScript

START = 0
NUM_GREEDY = 32
# What the encoders read: longer than the farthest distance, than a bucket, and of a block's length.
TEXTS = (
    [(7 * index * index + 3) % VOCAB_SIZE for index in range(45)],
    [(5 * index + 11) % VOCAB_SIZE for index in range(9)],
    [(3 * index + 2) % VOCAB_SIZE for index in range(4)],
    [(11 * index + 1) % VOCAB_SIZE for index in range(70)],
)

COMMON: dict[str, Any] = {
    "vocab_size": VOCAB_SIZE,
    "d_model": 48,
    "d_kv": 16,
    "d_ff": 80,
    "num_layers": 2,
    "num_heads": 4,
    "relative_attention_num_buckets": 8,
    "relative_attention_max_distance": 20,
    "decoder_start_token_id": START,
}


@dataclass(frozen=True)
class Seq2SeqModel:
    """A configuration class of transformers, what is set in it, and whether the head is its own."""

    config: str
    settings: dict[str, Any]
    has_own_head: bool = False


# The name begins with the model_type.
ENCODER_DECODERS: dict[str, Seq2SeqModel] = {
    "t5": Seq2SeqModel("T5Config", COMMON),
    "t5-1.1": Seq2SeqModel(
        "T5Config",
        {
            **COMMON,
            "feed_forward_proj": "gated-gelu",
            "tie_word_embeddings": False,
            "num_decoder_layers": 3,
        },
        has_own_head=True,
    ),
    "mt5": Seq2SeqModel("MT5Config", COMMON, has_own_head=True),
    "mt5-tied": Seq2SeqModel("MT5Config", COMMON),
}


@dataclass(frozen=True)
class Seq2SeqCheckpoint:
    path: Path
    reference: Any

    @torch.inference_mode()
    def logits(self, text: list[int], decoder_ids: list[int]) -> Tensor:
        """[decoder tokens, vocab], float32."""
        decoder_input = torch.tensor([decoder_ids])
        outputs = self.reference(torch.tensor([text]), decoder_input_ids=decoder_input)
        return outputs.logits[0].float()

    def greedy(self, text: list[int], num_tokens: int) -> list[int]:
        """What the decoder says, each step computed from the start."""
        known = [START]
        for _ in range(num_tokens):
            known.append(int(self.logits(text, known)[-1].argmax()))
        return known[1:]


def write_encoder_decoder(
    name: str, path: Path, dtype: torch.dtype = torch.float32
) -> Seq2SeqCheckpoint:
    """Weights so large that greedy choices are no ties. Queries are small, as in real ones, for
    scores are not scaled; so are embeddings, that a tied head may not repeat what was read.
    """
    model = ENCODER_DECODERS[name]
    config = getattr(transformers, model.config)(**model.settings)
    torch.manual_seed(0)
    reference = transformers.AutoModelForSeq2SeqLM.from_config(config)
    if model.has_own_head:
        reference.lm_head.weight = torch.nn.Parameter(torch.empty_like(reference.shared.weight))
    scales = {"q": config.d_kv**-0.5, "shared": 0.2}
    with torch.no_grad():
        for parameter_name, parameter in reference.named_parameters():
            if parameter.dim() > 1:
                parameter.normal_(std=0.3 * scales.get(parameter_name.split(".")[-2], 1.0))
            else:
                parameter.uniform_(0.5, 1.5)
    reference.to(dtype).save_pretrained(path)
    return Seq2SeqCheckpoint(path, reference.float().eval())


def alone_script(text: int) -> StepScript:
    """One sequence alone."""
    script = StepScript()
    script.admit(0, [START], encoder_ids=TEXTS[text])
    script.decode([0], NUM_GREEDY)
    return script


def reread_script(text: int, greedy: list[int], chunk: int) -> StepScript:
    """One that is admitted with its output, which is read in chunks."""
    script = StepScript()
    script.admit(0, [START, *greedy], encoder_ids=TEXTS[text], num_emitted=len(greedy))
    script.prefill(0, chunk)
    return script


def crowded_script(greedy: list[int]) -> StepScript:
    """What a busy server does: texts of all lengths, several encoders in a step, beside decodes.

    greedy: what is said to text 0. Its sequence is preempted twice: first it is read again from the
    start, then from a block that is found again.
    """
    script = StepScript()
    script.admit(0, [START], encoder_ids=TEXTS[0])
    script.admit(1, [START], encoder_ids=TEXTS[1])
    script.step({0: 1, 1: 1})
    script.admit(2, [START], encoder_ids=TEXTS[2])
    script.step({2: 1, 1: 1, 0: 1})
    script.admit(3, [START], encoder_ids=TEXTS[3])
    script.step({0: 1, 2: 1, 3: 1, 1: 1})
    script.decode([3, 0, 1, 2], 4)
    script.retire(0)
    script.step({1: 1, 2: 1, 3: 1})
    again = {"sequence_id": 0, "encoder_ids": TEXTS[0]}
    script.admit(4, [START, *greedy[:7]], num_emitted=7, **again)
    script.step({4: 4, 3: 1, 1: 1})
    script.step({2: 1, 4: 4})
    script.decode([4, 2, 1, 3], 3)
    blocks = script.retire(4)[:2]
    known = [START, *greedy[:11]]
    script.admit(0, known, num_emitted=11, block_ids=blocks, num_cached_tokens=8, **again)
    script.step({1: 1, 0: 4, 3: 1})
    script.decode([1, 0, 2, 3], 4)
    return script
