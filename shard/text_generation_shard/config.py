"""The shard's configuration: every field is a flag of `text-generation-server serve`.

Rank, world size and rendezvous come from the environment as torchrun sets it: RANK, WORLD_SIZE,
MASTER_ADDR, MASTER_PORT (`RankInfo.from_environment`).
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from text_generation_process.logs import Level
from text_generation_process.options import OptionError, option

DtypeName = Literal["float32", "float16", "bfloat16"]
KvCacheDtype = Literal["float32", "float16", "bfloat16", "int8", "fp8_e4m3fn", "fp8_e5m2"]
# The last three are TGI's.
AttentionName = Literal["auto", "triton", "flash", "cudnn", "paged", "flashdecoding", "flashinfer"]
CpuQuantization = Literal["int8", "int4"]

_GPU_ATTENTION = ("triton", "flash", "cudnn")


@dataclass(frozen=True, kw_only=True)
class ShardConfig:
    """Parsed once at start; inner objects receive only the slice that they use."""

    model_path: str = option(help="Local directory with config.json and safetensors weights.")
    uds_path: str = option(
        "/tmp/text-generation-server",  # noqa: S108  TGI's default, which tools rely on
        help="Unix socket to listen on: this rank listens on PATH-RANK, mode 0600.",
    )
    tcp_token: str | None = option(
        None,
        help="Listen on TCP instead, at the address that leads to MASTER_ADDR, for callers that "
        "send this token: for a router on another node. PATH-RANK is then a file, mode 0600, that "
        "says where.",
    )
    dtype: DtypeName | None = option(
        None,
        help="Data type of weights and activations (default: that of the checkpoint). On CPU "
        "bfloat16 means the weights and the KV cache; sums are float32, and so are activations "
        "unless the processor multiplies bfloat16 (AVX512-BF16): there products round them to "
        "bfloat16.",
    )
    quantize: CpuQuantization | None = option(
        None, help="Weights in 8 or 4 bits, quantized when they are loaded; on CPU only."
    )
    kv_cache_dtype: KvCacheDtype | None = option(
        None,
        help="Data type of cached keys and values (default: what --dtype says). On CPU bfloat16 "
        "goes with float32 arithmetic. 8 bits are half the memory of a 16-bit cache: int8 on CPU, "
        "with a scale for each token and head; on a GPU fp8_e5m2 or fp8_e4m3fn, which takes the "
        "checkpoint's scales, where it has some. With fp8 on CPU the attention is torch's, and "
        "slower.",
    )
    trust_remote_code: bool = option(
        False,
        help="Run code from the model's directory, where neither this server nor transformers "
        "knows the model.",
    )
    rope_scaling: Literal["linear", "dynamic"] | None = option(None, help="Kind of RoPE scaling.")
    rope_factor: float | None = option(None, help="Factor of the RoPE scaling.")
    cuda_memory_fraction: float = option(
        1.0,
        help="Share of the GPU's memory that this process may use; 4% of that are left for what is "
        "not counted.",
    )
    cuda_graphs: tuple[int, ...] | None = option(
        None,
        help="Batch sizes to record CUDA graphs of decode steps for, comma-separated; 0 turns them "
        "off (default: sizes from 1 to 256). On CPU a single shard records steps of up to 64 rows, "
        "too; 0 turns that off, sizes are refused.",
    )
    all_reduce: Literal["auto", "nccl"] = option(
        "auto",
        help="What sums over GPUs: NCCL, or what is measured to be fastest for tensors of decode "
        "steps.",
    )
    attention: AttentionName = option(
        "auto",
        help="What attends to prompts on a GPU: the kernel of this server (triton), flash "
        "attention (of the packages flash-attn 3 or flash-attn, or else torch's), cuDNN's where a "
        "prompt is read from its begin, or what is measured to be fastest. Decode steps are "
        "Triton's. TGI's names mean auto.",
    )
    watermark_gamma: float = option(
        0.5, help="Share of the vocabulary on the watermark's green list."
    )
    watermark_delta: float = option(2.0, help="Added to the scores of the green list.")
    num_threads: int | None = option(
        None, help="Threads that compute on CPU (default: this rank's share of the cores)."
    )
    json_output: bool = option(False, help="Write log lines as JSON.")
    logger_level: Level = option("INFO", help="Least severe level that is logged.")

    def __post_init__(self) -> None:
        if not 0 < self.cuda_memory_fraction <= 1:
            raise OptionError(
                f"--cuda-memory-fraction must lie in (0, 1], got {self.cuda_memory_fraction}"
            )
        if self.tcp_token == "":
            raise OptionError("--tcp-token is empty")
        if any(size < 0 for size in self.cuda_graphs or ()):
            sizes = ",".join(map(str, self.cuda_graphs or ()))
            raise OptionError(f"--cuda-graphs must be batch sizes, or 0 for none, got {sizes}")
        if not 0 < self.watermark_gamma < 1:
            raise OptionError(f"--watermark-gamma must lie in (0, 1), got {self.watermark_gamma}")
        if self.num_threads is not None and self.num_threads < 1:
            raise OptionError(f"--num-threads must be at least 1, got {self.num_threads}")
        if self.rope_factor is not None and self.rope_factor < 1:
            raise OptionError(f"--rope-factor must be at least 1, got {self.rope_factor}")

    def socket_path(self, rank: int) -> Path:
        """Where a rank's socket is."""
        return Path(f"{self.uds_path}-{rank}")


class GpuOptions(Protocol):
    """Options that may ask for a GPU: a ShardConfig's, and the launcher's own of the same names."""

    @property
    def cuda_memory_fraction(self) -> float: ...
    @property
    def cuda_graphs(self) -> tuple[int, ...] | None: ...
    @property
    def all_reduce(self) -> Literal["auto", "nccl"]: ...
    @property
    def attention(self) -> AttentionName: ...


def asks_for_gpu(options: GpuOptions) -> str | None:
    """The first option, as it was given, that can be honoured on a GPU alone. (TGI's names of
    kernels are not: they mean auto.)
    """
    if options.cuda_memory_fraction != 1.0:
        return f"--cuda-memory-fraction {options.cuda_memory_fraction}"
    if any(options.cuda_graphs or ()):
        return f"--cuda-graphs {','.join(map(str, options.cuda_graphs or ()))}"
    if options.all_reduce == "nccl":
        return "--all-reduce nccl"
    if options.attention in _GPU_ATTENTION:
        return f"--attention {options.attention}"
    return None


@dataclass(frozen=True, kw_only=True)
class RankInfo:
    """This process's place among the ranks that share the model."""

    rank: int
    world_size: int
    master_addr: str
    master_port: int

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> "RankInfo":
        """Read what the launcher or torchrun set; without it, the only rank."""
        try:
            info = cls(
                rank=int(environment.get("RANK", "0")),
                world_size=int(environment.get("WORLD_SIZE", "1")),
                master_addr=environment.get("MASTER_ADDR", "localhost"),
                master_port=int(environment.get("MASTER_PORT", "29500")),
            )
        except ValueError as error:
            raise OptionError(
                f"RANK, WORLD_SIZE and MASTER_PORT must be integers: {error}"
            ) from error
        if not 0 <= info.rank < info.world_size:
            raise OptionError(
                f"RANK ({info.rank}) must be less than WORLD_SIZE ({info.world_size})"
            )
        return info
