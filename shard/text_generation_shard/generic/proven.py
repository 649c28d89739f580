"""Architectures that are known to run here on transformers' code: each has a parity test."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType


@dataclass(frozen=True, slots=True)
class Proven:
    """is_sharded: whether transformers has a tensor-parallel plan for it."""

    architecture: str
    is_sharded: bool = True
    # For the table of supported models.
    notes: str = ""


# By `model_type` of config.json.
PROVEN: Mapping[str, Proven] = MappingProxyType(
    {
        "apertus": Proven("ApertusForCausalLM"),
        "arcee": Proven("ArceeForCausalLM"),
        "biogpt": Proven("BioGptForCausalLM", is_sharded=False, notes="learned positions"),
        "ernie4_5": Proven("Ernie4_5ForCausalLM"),
        "exaone4": Proven("Exaone4ForCausalLM", notes="sliding windows"),
        "glm4": Proven("Glm4ForCausalLM"),
        "granitemoe": Proven("GraniteMoeForCausalLM", notes="mixture of experts"),
        "helium": Proven("HeliumForCausalLM"),
        "hunyuan_v1_dense": Proven("HunYuanDenseV1ForCausalLM", is_sharded=False),
        "minicpm3": Proven("MiniCPM3ForCausalLM", notes="latent attention, cached whole"),
        "nemotron": Proven("NemotronForCausalLM"),
        "olmo2": Proven("Olmo2ForCausalLM"),
        "olmo3": Proven("Olmo3ForCausalLM", notes="sliding windows"),
        "olmoe": Proven("OlmoeForCausalLM", notes="mixture of experts"),
        "persimmon": Proven("PersimmonForCausalLM", is_sharded=False),
        "seed_oss": Proven("SeedOssForCausalLM"),
        "smollm3": Proven("SmolLM3ForCausalLM", notes="layers without RoPE"),
        "stablelm": Proven("StableLmForCausalLM", is_sharded=False),
        "vaultgemma": Proven("VaultGemmaForCausalLM", notes="soft caps, sliding windows"),
    }
)
