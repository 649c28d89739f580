"""Generate the pages of `docs/` that follow from the code; --check says which are stale.

`docs/configuration.md` comes from the launcher's options, `docs/models.md` from the shard's
registry of models.
"""

import argparse
import sys
from pathlib import Path

from text_generation_launcher.config import LauncherConfig
from text_generation_process.options import OptionText, describe
from text_generation_shard.generic.proven import PROVEN, Proven
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
generate`, runs on this server's own code. Each has a parity test against transformers
(logits, greedy text, chunked prefill, prefix cache, preemption, two ranks): `tests/shard/models/`.

*Sharded* is what `--num-shard` may be: any number that divides the attention heads; key and value
heads are copied where there are fewer of them than ranks. RoPE may be default, linear, dynamic,
llama3, yarn or longrope; `--rope-scaling` and `--rope-factor` replace the checkpoint's.

Mamba keeps a state of fixed size for every sequence instead of keys and values: memory is taken by
`--max-batch-size`, not by tokens, nothing can be shared by a prefix cache, and a sequence that was
preempted is read from its start. It has no positions that could run out; longer sequences than 4096
tokens are served where `--max-total-tokens` asks for them. Shards divide the channels.

Weights are float32, float16 or bfloat16, or 8-bit floats with a scale for every block (`fp8` with
a `weight_block_size`, as DeepSeek V3 and its relatives are published), which are widened while they
are read, as gpt-oss's MXFP4 is. Any other `quantization_config` is refused.

On a GPU attention (ALiBi, sinks, windows, chunks and latent vectors included) and experts are
computed by this server's kernels, and decode steps are recorded as CUDA graphs; but T5's attention
and Mamba's layers are torch's functions, without graphs, and slower. Experts' weights lie in memory
in the data type of the model, also where the checkpoint has 8-bit floats or MXFP4: no kernel reads
those. Eight bits of `--kv-cache-dtype` (fp8, and int8 on CPU) are for all models but those
with latent attention, Mamba and those on transformers' code.

On CPU a model in bfloat16 keeps its keys and values in bfloat16, latent vectors and an encoder's
included, while the arithmetic is in float32; with `--kv-cache-dtype float32` they stay as they were
computed. Mamba's states are float32.

How a model is added: [adding-a-model.md](adding-a-model.md).

| architecture | model_type | sharded | notes |
|---|---|---|---|
"""


GENERIC = """
## Any other architecture

What is not in the table, and is a causal language model in the installed transformers, runs on
transformers' modelling code with this server's paged attention in it (its attention interface):
continuous batching, chunked prefill, prefix cache and streaming are the same. The log says so at
WARNING, for it costs start-up time (transformers is imported for these models only) and speed
([performance.md](performance.md)). Tensor parallelism is transformers' plan for the architecture;
heads and key and value heads must divide by `--num-shard`. Arithmetic and KV cache are in the data
type of the weights, also on CPU.

Before it serves, the model is asked which attention each layer wants, and two short sequences are
computed by transformers alone and in steps through the paged cache; if the logits differ, it is
refused. Refused with the reason, at start, are

- models that keep a state beside attention's keys and values (Mamba, convolutions, linear
  attention), whose layers attend more than once or differ in their key and value heads;
- attention that is not causal, chunked, with a bias of its own, or with anything else that this
  server's attention does not have (it has windows, soft caps, sinks and scales);
- encoder-decoders, models for more than text, models without an argument for positions;
- RoPE of the kinds dynamic and longrope, for which transformers lets the longest sequence of a
  batch decide;
- missing, left over or misshapen tensors, quantized checkpoints, `--quantize`, `--rope-scaling` and
  `--rope-factor`; `--num-shard` above 1 where transformers has no plan.

With `--trust-remote-code`, a model that neither this server nor transformers knows may bring its
code (`auto_map` in config.json): it is read from the model's own directory, downloaded with the
weights, run in the shards, and held to the same rules. Without the flag it is neither downloaded
nor run. Code beside a model that is known is not run in any case.

These have a parity test of their own, as the families have; two ranks are tested for one
architecture of each kind of plan:

| architecture | model_type | sharded | notes |
|---|---|---|---|
"""


def pages() -> dict[str, str]:
    """The generated pages by file name."""
    return {
        "configuration.md": CONFIGURATION + "".join(map(_option_row, describe(LauncherConfig))),
        "models.md": _models(),
    }


def _models() -> str:
    families = "".join(_model_row(*item) for item in FAMILIES.items())
    return MODELS + families + GENERIC + "".join(_proven_row(*item) for item in PROVEN.items())


def _option_row(option: OptionText) -> str:
    variable = f"`{option.environment}`" if option.environment else ""
    default = f"`{option.default}`" if option.default else ""
    return _row(f"`{option.flag}`", variable, option.values, default, option.help)


def _model_row(model_type: str, family: Family) -> str:
    return _row(family.architecture, f"`{model_type}`", "yes", family.notes)


def _proven_row(model_type: str, proven: Proven) -> str:
    sharded = "yes" if proven.is_sharded else "no"
    return _row(proven.architecture, f"`{model_type}`", sharded, proven.notes)


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
