"""Generate the pages of `docs/` that follow from the code; --check says which are stale.

`docs/configuration.md` comes from the launcher's options, `docs/models.md` from the shard's
registry of models.
"""

import argparse
import sys
from pathlib import Path

from text_generation_launcher.config import LauncherConfig
from text_generation_process.options import OptionText, describe
from text_generation_shard.models.registry import FAMILIES, Family

DOCS = Path(__file__).parent.parent / "docs"

CONFIGURATION = """# Configuration

Every option of `text-generation-launcher`, made from the code by `make generate`. Each is a flag
and an environment variable; the flag wins. Names and defaults are those of Text Generation
Inference. An option that cannot be honoured is refused at start with exit code 2.

Beside these, `LOG_LEVEL` sets the least severe level that is logged (trace, debug, info, warn,
error), and the hub's own variables (`HF_TOKEN`, `HF_HUB_OFFLINE`, `HF_HOME`, …) keep their meaning.

| flag | variable | values | default | meaning |
|---|---|---|---|---|
"""


MODELS = """# Models

Every model whose `config.json` names one of these in `model_type`, made from the code by `make
generate`. Another is refused at start, by name. Each has a parity test against transformers
(logits, greedy text, chunked prefill, prefix cache, preemption, two ranks): `tests/shard/models/`.

*Sharded* is what `--num-shard` may be: any number that divides the attention heads; key and value
heads are copied where there are fewer of them than ranks. RoPE may be default, linear, dynamic,
llama3, yarn or longrope; `--rope-scaling` and `--rope-factor` replace the checkpoint's.

Mamba keeps a state of fixed size for every sequence instead of keys and values: memory is taken by
`--max-batch-size`, not by tokens, nothing can be shared by a prefix cache, and a sequence that was
preempted is read from its start. It has no positions that could run out; longer sequences than 4096
tokens are served where `--max-total-tokens` asks for them. Shards divide the channels.

How a model is added: [adding-a-model.md](adding-a-model.md).

| architecture | model_type | sharded | notes |
|---|---|---|---|
"""


def pages() -> dict[str, str]:
    """The generated pages by file name."""
    return {
        "configuration.md": CONFIGURATION + "".join(map(_option_row, describe(LauncherConfig))),
        "models.md": MODELS + "".join(_model_row(*item) for item in FAMILIES.items()),
    }


def _option_row(option: OptionText) -> str:
    variable = f"`{option.environment}`" if option.environment else ""
    default = f"`{option.default}`" if option.default else ""
    return _row(f"`{option.flag}`", variable, option.values, default, option.help)


def _model_row(model_type: str, family: Family) -> str:
    return _row(family.architecture, f"`{model_type}`", "yes", family.notes)


def _row(*cells: str) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true")
    is_check = parser.parse_args().check
    stale = []
    for name, text in pages().items():
        path = DOCS / name
        if is_check and (not path.exists() or path.read_text() != text):
            stale.append(name)
        elif not is_check:
            path.write_text(text)
    if stale:
        sys.exit(f"stale, run `make generate`: {', '.join(stale)}")


if __name__ == "__main__":
    main()
