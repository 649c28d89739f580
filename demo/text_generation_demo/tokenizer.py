"""Trains the byte-level BPE tokenizer on the generated corpus.

    python -m text_generation_demo.tokenizer

Digits are always tokens of their own, which makes counting and adding learnable.
"""

import argparse
import json
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

from text_generation_demo import MODEL_DIR
from text_generation_demo.chat_template import CHAT_TEMPLATE_FILE, render_chat
from text_generation_demo.corpus.document import Document, RawText
from text_generation_demo.corpus.mixture import documents
from text_generation_demo.corpus.split import Split

VOCAB_SIZE = 3072
NUM_DOCUMENTS = 120_000
MAX_LENGTH = 2048

END_OF_TEXT = "<|endoftext|>"
TURN_START = "<|im_start|>"
TURN_END = "<|im_end|>"
CONTROL_TOKENS = (END_OF_TEXT, TURN_START, TURN_END)
TOOL_TOKENS = (
    "<tool_call>",
    "</tool_call>",
    "<tool_response>",
    "</tool_response>",
    "<tools>",
    "</tools>",
)


def text_of(document: Document) -> str:
    if isinstance(document, RawText):
        return document.prompt + document.completion
    return render_chat(document.messages, document.tools, add_generation_prompt=False)


def _corpus(seed: int) -> Iterator[str]:
    return map(text_of, islice(documents(seed, Split.TRAIN), NUM_DOCUMENTS))


def train_tokenizer(seed: int) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE,
        min_frequency=2,
        special_tokens=[*CONTROL_TOKENS, *TOOL_TOKENS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_corpus(seed), trainer)
    return tokenizer


def _keep_tool_tokens_when_decoding(path: Path) -> None:
    """Marks the tool tokens as ordinary ones, so that skipping special tokens keeps them."""
    content = json.loads(path.read_text(encoding="utf-8"))
    for token in content["added_tokens"]:
        token["special"] = token["content"] in CONTROL_TOKENS
    path.write_text(json.dumps(content, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


def _write_config(tokenizer: Tokenizer, path: Path) -> None:
    added = {
        str(tokenizer.token_to_id(token)): _added_token(token)
        for token in (*CONTROL_TOKENS, *TOOL_TOKENS)
    }
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": MAX_LENGTH,
        "bos_token": None,
        "eos_token": TURN_END,
        "pad_token": END_OF_TEXT,
        "unk_token": None,
        "add_bos_token": False,
        "add_eos_token": False,
        "clean_up_tokenization_spaces": False,
        "added_tokens_decoder": added,
        "chat_template": CHAT_TEMPLATE_FILE.read_text(encoding="utf-8"),
    }
    path.write_text(json.dumps(config, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")


def _added_token(token: str) -> dict[str, str | bool]:
    added = AddedToken(token, normalized=False, special=token in CONTROL_TOKENS)
    flags = ("lstrip", "normalized", "rstrip", "single_word", "special")
    return {"content": token, **{flag: bool(getattr(added, flag)) for flag in flags}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=MODEL_DIR)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    arguments.output.mkdir(parents=True, exist_ok=True)
    tokenizer = train_tokenizer(arguments.seed)
    tokenizer.save(str(arguments.output / "tokenizer.json"))
    _keep_tool_tokens_when_decoding(arguments.output / "tokenizer.json")
    _write_config(tokenizer, arguments.output / "tokenizer_config.json")
    print(f"{tokenizer.get_vocab_size()} tokens written to {arguments.output}")


if __name__ == "__main__":
    main()
