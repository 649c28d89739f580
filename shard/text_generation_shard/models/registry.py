"""From the name of an architecture to the code that runs it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from text_generation_shard.distributed import RankGroup
from text_generation_shard.models.bloom import BloomConfig, bloom
from text_generation_shard.models.cohere import cohere
from text_generation_shard.models.cohere_config import Cohere2Config, CohereConfig
from text_generation_shard.models.config import ModelConfig
from text_generation_shard.models.dbrx import DbrxConfig, dbrx
from text_generation_shard.models.deepseek import deepseek, draft_layers
from text_generation_shard.models.deepseek_config import DeepseekV2Config, DeepseekV3Config
from text_generation_shard.models.falcon import FalconConfig, falcon
from text_generation_shard.models.gemma import gemma
from text_generation_shard.models.gemma_config import Gemma2Config, Gemma3Config, GemmaConfig
from text_generation_shard.models.gpt2 import GPT2Config, GPTBigCodeConfig, gpt2
from text_generation_shard.models.gpt_neox import GPTNeoXConfig, gpt_neox
from text_generation_shard.models.gpt_oss import gpt_oss
from text_generation_shard.models.gpt_oss_config import GptOssConfig
from text_generation_shard.models.gptj import GPTJConfig, gptj
from text_generation_shard.models.llama import llama
from text_generation_shard.models.llama4 import llama4
from text_generation_shard.models.llama4_config import Llama4Config, Llama4TextConfig
from text_generation_shard.models.llama_config import (
    GraniteConfig,
    LlamaConfig,
    MistralConfig,
    Phi3Config,
    Qwen2Config,
    Qwen3Config,
)
from text_generation_shard.models.mamba import Mamba
from text_generation_shard.models.mamba_config import FalconMambaConfig, MambaConfig
from text_generation_shard.models.mixtral import mixtral
from text_generation_shard.models.mixture_config import (
    MixtralConfig,
    Qwen2MoeConfig,
    Qwen3MoeConfig,
)
from text_generation_shard.models.model import Model
from text_generation_shard.models.mpt import MPTConfig, mpt
from text_generation_shard.models.opt import OPTConfig, opt
from text_generation_shard.models.phi import PhiConfig, phi
from text_generation_shard.models.phimoe import PhiMoeConfig, phimoe
from text_generation_shard.models.starcoder2 import Starcoder2Config, starcoder2
from text_generation_shard.models.t5 import t5
from text_generation_shard.models.t5_config import MT5Config, T5Config
from text_generation_shard.weights.scope import WeightScope


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """A kind of model: what its configuration means, and how it is built."""

    # In `architectures` of config.json, for people.
    architecture: str
    config: type[ModelConfig]
    # Takes (config, weights, ranks); the config is of the class above.
    build: Callable[[Any, WeightScope, RankGroup], Model]
    # Tensors that a checkpoint of a model with tied embeddings may hold twice.
    tied: tuple[str, ...] = ("lm_head.weight",)
    # Pattern of tensors that checkpoints carry although they follow from the configuration.
    buffers: str | None = None
    # Pattern of tensors of parts that are not served, from the config of the class above.
    unserved: Callable[[Any], str] | None = None
    # For the table of supported models.
    notes: str = ""


# The embedding under other names, and a table that T5 was published with and never used.
_T5_BUFFERS = r"coder\.embed_tokens\.weight$|EncDecAttention\.relative_attention_bias\.weight$"

# By `model_type` of config.json; the most used first.
FAMILIES: Mapping[str, Family] = MappingProxyType(
    {
        "llama": Family(
            architecture="LlamaForCausalLM",
            config=LlamaConfig,
            build=llama,
            notes="Llama 1 to 3.3 and models of their shape (SmolLM 2, TinyLlama, Vicuna, Yi)",
        ),
        "llama4": Family(
            architecture="Llama4ForConditionalGeneration",
            config=Llama4Config,
            build=llama4,
            unserved=lambda _: r"^(vision_model|multi_modal_projector)\.",
            notes="text only, no images; mixture of experts, chunked attention",
        ),
        "llama4_text": Family(
            architecture="Llama4ForCausalLM",
            config=Llama4TextConfig,
            build=llama4,
            notes="mixture of experts, chunked attention",
        ),
        "mistral": Family(
            architecture="MistralForCausalLM",
            config=MistralConfig,
            build=llama,
            notes="sliding window",
        ),
        "qwen2": Family(
            architecture="Qwen2ForCausalLM",
            config=Qwen2Config,
            build=llama,
            notes="Qwen 2 and 2.5, DeepSeek-R1-Distill-Qwen",
        ),
        "qwen3": Family(architecture="Qwen3ForCausalLM", config=Qwen3Config, build=llama),
        "phi3": Family(
            architecture="Phi3ForCausalLM",
            config=Phi3Config,
            build=llama,
            notes="Phi-3, Phi-3.5 and Phi-4; LongRoPE",
        ),
        "granite": Family(architecture="GraniteForCausalLM", config=GraniteConfig, build=llama),
        "mixtral": Family(
            architecture="MixtralForCausalLM",
            config=MixtralConfig,
            build=mixtral,
            notes="mixture of experts",
        ),
        "qwen2_moe": Family(
            architecture="Qwen2MoeForCausalLM",
            config=Qwen2MoeConfig,
            build=mixtral,
            notes="mixture of experts",
        ),
        "qwen3_moe": Family(
            architecture="Qwen3MoeForCausalLM",
            config=Qwen3MoeConfig,
            build=mixtral,
            notes="mixture of experts",
        ),
        "phimoe": Family(
            architecture="PhimoeForCausalLM",
            config=PhiMoeConfig,
            build=phimoe,
            notes="mixture of experts; Phi-3.5-MoE",
        ),
        "deepseek_v2": Family(
            architecture="DeepseekV2ForCausalLM",
            config=DeepseekV2Config,
            build=deepseek,
            notes="latent attention, mixture of experts; V2, V2.5, V2-Lite",
        ),
        "deepseek_v3": Family(
            architecture="DeepseekV3ForCausalLM",
            config=DeepseekV3Config,
            build=deepseek,
            unserved=draft_layers,
            notes="latent attention, mixture of experts; V3, V3.1, R1, Kimi K2, Moonlight; "
            "layers for multi-token prediction are not used",
        ),
        "gpt_oss": Family(
            architecture="GptOssForCausalLM",
            config=GptOssConfig,
            build=gpt_oss,
            notes="mixture of experts, also stored as MXFP4; attention sinks, alternating windows",
        ),
        "dbrx": Family(
            architecture="DbrxForCausalLM",
            config=DbrxConfig,
            build=dbrx,
            notes="mixture of experts",
        ),
        "gemma": Family(architecture="GemmaForCausalLM", config=GemmaConfig, build=gemma),
        "gemma2": Family(
            architecture="Gemma2ForCausalLM",
            config=Gemma2Config,
            build=gemma,
            notes="soft caps, alternating windows",
        ),
        "gemma3_text": Family(
            architecture="Gemma3ForCausalLM",
            config=Gemma3Config,
            build=gemma,
            notes="local and global layers 5:1, two RoPE bases",
        ),
        "cohere": Family(
            architecture="CohereForCausalLM",
            config=CohereConfig,
            build=cohere,
            notes="Command R and R+",
        ),
        "cohere2": Family(
            architecture="Cohere2ForCausalLM",
            config=Cohere2Config,
            build=cohere,
            notes="Command R7B and A",
        ),
        "starcoder2": Family(
            architecture="Starcoder2ForCausalLM", config=Starcoder2Config, build=starcoder2
        ),
        "phi": Family(
            architecture="PhiForCausalLM",
            config=PhiConfig,
            build=phi,
            notes="Phi-1, Phi-1.5 and Phi-2",
        ),
        "gpt2": Family(
            architecture="GPT2LMHeadModel",
            config=GPT2Config,
            build=gpt2,
            buffers=r"attn\.(bias|masked_bias)$",
        ),
        "gpt_bigcode": Family(
            architecture="GPTBigCodeForCausalLM",
            config=GPTBigCodeConfig,
            build=gpt2,
            buffers=r"attn\.(bias|masked_bias)$",
            notes="SantaCoder, StarCoder",
        ),
        "gptj": Family(
            architecture="GPTJForCausalLM",
            config=GPTJConfig,
            build=gptj,
            buffers=r"attn\.(bias|masked_bias)$",
        ),
        "gpt_neox": Family(
            architecture="GPTNeoXForCausalLM",
            config=GPTNeoXConfig,
            build=gpt_neox,
            tied=("embed_out.weight",),
            buffers=r"attention\.(bias|masked_bias)$",
            notes="GPT-NeoX, Pythia, Dolly 2",
        ),
        "opt": Family(
            architecture="OPTForCausalLM", config=OPTConfig, build=opt, notes="also Galactica"
        ),
        "bloom": Family(
            architecture="BloomForCausalLM",
            config=BloomConfig,
            build=bloom,
            notes="ALiBi; also BLOOMZ",
        ),
        "falcon": Family(
            architecture="FalconForCausalLM",
            config=FalconConfig,
            build=falcon,
            notes="rotary or ALiBi",
        ),
        "mpt": Family(architecture="MptForCausalLM", config=MPTConfig, build=mpt, notes="ALiBi"),
        "t5": Family(
            architecture="T5ForConditionalGeneration",
            config=T5Config,
            build=t5,
            buffers=_T5_BUFFERS,
            notes="encoder-decoder; T5, T5 1.1 and FLAN-T5",
        ),
        "mt5": Family(
            architecture="MT5ForConditionalGeneration",
            config=MT5Config,
            build=t5,
            buffers=_T5_BUFFERS,
            notes="encoder-decoder; also mT0",
        ),
        "mamba": Family(
            architecture="MambaForCausalLM",
            config=MambaConfig,
            build=Mamba,
            notes="state space; no prefix cache",
        ),
        "falcon_mamba": Family(
            architecture="FalconMambaForCausalLM",
            config=FalconMambaConfig,
            build=Mamba,
            notes="state space; no prefix cache",
        ),
    }
)


def family_of(model_type: str) -> Family | None:
    """The family by `model_type` of config.json; None where there is none."""
    return FAMILIES.get(model_type)


def has_family(config: ModelConfig) -> bool:
    """Whether the model runs on code of ours; otherwise on transformers' (`generic`)."""
    return family_of(config.model_type) is not None
