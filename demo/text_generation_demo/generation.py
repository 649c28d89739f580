"""Greedy decoding of many prompts with a model folder, for the evaluation."""

from collections.abc import Sequence
from pathlib import Path

import torch
from transformers import AutoTokenizer, LlamaForCausalLM

from text_generation_demo.tokenizer import CONTROL_TOKENS


class GreedyGenerator:
    """The rounded weights of the folder, computed in float32."""

    def __init__(self, model_dir: Path) -> None:
        self._tokenizer = AutoTokenizer.from_pretrained(model_dir, padding_side="left")
        self._model = LlamaForCausalLM.from_pretrained(model_dir, dtype=torch.float32)
        self._model.eval()  # type: ignore[no-untyped-call]

    @torch.no_grad()
    def answers(
        self, prompts: Sequence[str], max_new_tokens: int, batch_size: int = 64
    ) -> list[str]:
        """In the order of the prompts; answers that did not end by themselves are marked."""
        order = sorted(range(len(prompts)), key=lambda index: len(prompts[index]))
        texts = [""] * len(prompts)
        for start in range(0, len(order), batch_size):
            indices = order[start : start + batch_size]
            batch = [prompts[index] for index in indices]
            for index, text in zip(indices, self._batch(batch, max_new_tokens), strict=True):
                texts[index] = text
        return texts

    def _batch(self, prompts: list[str], max_new_tokens: int) -> list[str]:
        inputs = self._tokenizer(
            prompts, return_tensors="pt", padding=True, add_special_tokens=False
        )
        output = self._model.generate(  # type: ignore[misc]
            input_ids=inputs["input_ids"],
            attention_mask=inputs["attention_mask"],
            max_new_tokens=max_new_tokens,
            do_sample=False,
        )
        new_ids = output[:, inputs["input_ids"].shape[1] :]
        decoded = self._tokenizer.batch_decode(new_ids, skip_special_tokens=False)
        return [_until_control_token(text) for text in decoded]


def _until_control_token(text: str) -> str:
    """Cuts at the end token; a text without one gets a mark that no expected answer has."""
    ends = [text.index(token) for token in CONTROL_TOKENS if token in text]
    return text[: min(ends)] if ends else text + " [cut]"
