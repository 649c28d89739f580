"""An encoder-decoder behind the real launcher, against what transformers says."""

import json
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

NUM_NEW = 24
INPUTS = (
    "translate English to German: The house is wonderful.",
    "summarize: " + "the quick brown fox jumps over the lazy dog and runs away " * 8,
    "a",
    "Is the sky blue? Yes, it is.",
)


class Reference:
    """The checkpoint in a directory, and what transformers makes of it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.tokenizer = _write_tokenizer(path)
        self._model = _write_model(path, len(self.tokenizer))

    def greedy(self, text: str, num_tokens: int = NUM_NEW) -> list[int]:
        """The tokens of the answer, its end included."""
        inputs = self.tokenizer(text, return_tensors="pt")
        with torch.inference_mode():
            output = self._model.generate(
                inputs.input_ids, max_new_tokens=num_tokens, do_sample=False, num_beams=1
            )
        ids: list[int] = output[0, 1:].tolist()
        return ids

    def text(self, token_ids: list[int]) -> str:
        found: str = self.tokenizer.decode(token_ids, skip_special_tokens=True)
        return found

    def num_tokens(self, text: str) -> int:
        return len(self.tokenizer(text).input_ids)


def _write_tokenizer(path: Path) -> Any:
    """As T5's: words with their space in front, and an end behind every text."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    trainer = trainers.BpeTrainer(
        vocab_size=300, special_tokens=["<pad>", "</s>", "<unk>"], show_progress=False
    )
    tokenizer.train_from_iterator([*INPUTS, "abcdefghijklmnopqrstuvwxyz 0123456789 -"], trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s>", special_tokens=[("</s>", 1)]
    )
    fast = transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="</s>", pad_token="<pad>", unk_token="<unk>"
    )
    fast.save_pretrained(path)
    return fast


def _write_model(path: Path, vocab_size: int) -> Any:
    config = transformers.T5Config(
        vocab_size=vocab_size,
        d_model=48,
        d_kv=16,
        d_ff=80,
        num_layers=2,
        num_heads=4,
        feed_forward_proj="gated-gelu",
        decoder_start_token_id=0,
    )
    torch.manual_seed(2)
    model = transformers.T5ForConditionalGeneration(config)
    scales = {"q": config.d_kv**-0.5, "shared": 0.2}
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() > 1:
                parameter.normal_(std=0.3 * scales.get(name.split(".")[-2], 1.0))
    model.save_pretrained(path)
    return model.eval()


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Reference:
    return Reference(tmp_path_factory.mktemp("t5"))


@pytest.fixture(scope="module")
def t5(reference: Reference, launch: Any) -> Iterator[Any]:
    """A server with so small a cache that sequences give way to each other."""
    flags = ("--max-total-tokens", "320", "--max-batch-total-tokens", "640", "--max-restarts", "3")
    with launch("--model-id", str(reference.path), *flags) as server:
        yield server


def ids(answer: dict[str, Any]) -> list[int]:
    return [token["id"] for token in answer["details"]["tokens"]]


@pytest.mark.parametrize("text", INPUTS)
def test_generate(t5: Any, reference: Reference, text: str) -> None:
    answer = t5.generate(text, max_new_tokens=NUM_NEW, details=True, decoder_input_details=True)
    expected = reference.greedy(text)
    assert ids(answer) == expected
    assert answer["generated_text"] == reference.text(expected)
    assert answer["details"]["prefill"] == [{"id": 0, "text": "<pad>", "logprob": None}]
    full = t5.generate(text, max_new_tokens=NUM_NEW, return_full_text=True)
    assert full["generated_text"] == text + answer["generated_text"]


def test_stream(t5: Any, reference: Reference) -> None:
    text = INPUTS[0]
    payload = {"inputs": text, "parameters": {"max_new_tokens": NUM_NEW, "details": True}}
    *_, last = events = t5.post("/generate_stream", payload).events()
    expected = reference.greedy(text)
    assert [event["token"]["id"] for event in events] == expected
    plain = [event["token"] for event in events if not event["token"]["special"]]
    assert "".join(token["text"] for token in plain) == last["generated_text"]
    assert last["generated_text"] == reference.text(expected)
    assert last["details"]["input_length"] == reference.num_tokens(text)


def test_many_at_once_in_a_small_cache(t5: Any, reference: Reference) -> None:
    # So long that many run at a time, however slowly they come.
    expected = {text: reference.greedy(text, 150) for text in INPUTS}

    def ask(text: str) -> Any:
        return t5.generate(text, max_new_tokens=150, details=True, ignore_eos=True)

    with ThreadPoolExecutor(24) as pool:
        answers = list(pool.map(ask, INPUTS * 6))
    for text, answer in zip(INPUTS * 6, answers, strict=True):
        assert ids(answer)[: len(expected[text])] == expected[text]
    assert t5.metric("tgi_preemptions") > 0
    t5.wait_until_idle()


def test_usage_and_limits_count_what_the_encoder_reads(t5: Any, reference: Reference) -> None:
    payload = {"model": "t5", "prompt": INPUTS[0], "max_tokens": 5, "temperature": 0}
    usage = t5.post("/v1/completions", payload).json()["usage"]
    num_tokens = reference.num_tokens(INPUTS[0])
    assert (usage["prompt_tokens"], usage["completion_tokens"]) == (num_tokens, 5)
    room = 320 - num_tokens
    parameters = {"max_new_tokens": room + 1}
    answer = t5.post("/generate", {"inputs": INPUTS[0], "parameters": parameters})
    assert answer.status == 422 and "must be at most 320" in answer.json()["error"]
    whole = t5.generate(INPUTS[0], max_new_tokens=room, ignore_eos=True, details=True)
    assert whole["details"]["generated_tokens"] == room
    cut = t5.generate(INPUTS[1], truncate=9, max_new_tokens=4, details=True)
    kept = reference.tokenizer(INPUTS[1]).input_ids[-9:]
    with torch.inference_mode():
        expected = reference._model.generate(
            torch.tensor([kept]), max_new_tokens=4, do_sample=False
        )
    assert ids(cut) == expected[0, 1:].tolist()


def test_a_grammar_and_a_stop_string(t5: Any) -> None:
    grammar = {"type": "regex", "value": "[a-c]{2}-[0-9]{3}"}
    answer = t5.generate(INPUTS[3], grammar=grammar, max_new_tokens=40, details=True)
    assert re.fullmatch(grammar["value"], answer["generated_text"])
    assert answer["details"]["finish_reason"] == "eos_token"
    spaced = {"type": "regex", "value": " ?(the|quick)"}
    answer = t5.generate(INPUTS[3], grammar=spaced, max_new_tokens=40)
    assert re.fullmatch(spaced["value"], answer["generated_text"])
    free = t5.generate(INPUTS[0], max_new_tokens=NUM_NEW)["generated_text"]
    stop = free[4:7]
    stopped = t5.generate(INPUTS[0], max_new_tokens=NUM_NEW, stop=[stop], details=True)
    assert stopped["generated_text"] == free[: free.index(stop) + len(stop)]
    assert stopped["details"]["finish_reason"] == "stop_sequence"


def test_chat_needs_a_template(t5: Any) -> None:
    payload = {"model": "t5", "messages": [{"role": "user", "content": "hi"}]}
    answer = t5.post("/v1/chat/completions", payload)
    assert answer.status == 422, answer
    assert "template" in json.dumps(answer.json())
