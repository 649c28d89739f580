"""The launcher's configuration: every field is a flag of `text-generation-launcher` and an
environment variable, with the names and defaults that users of TGI know.

A default of None is "auto" where the help names what it becomes; `resolve` does that.
"""

from dataclasses import dataclass
from typing import Literal

from text_generation_process.options import OptionError, flag_name, option, same_as
from text_generation_router.config import RouterConfig
from text_generation_shard.config import AttentionName, KvCacheDtype, ShardConfig

from text_generation_launcher.log_level import most_verbose
from text_generation_launcher.refusals import refuse_unavailable

Quantization = Literal[
    "int8",
    "int4",
    "awq",
    "compressed-tensors",
    "eetq",
    "exl2",
    "gptq",
    "marlin",
    "bitsandbytes",
    "bitsandbytes-nf4",
    "bitsandbytes-fp4",
    "fp8",
]

DEFAULT_MASTER_PORT = 29500
_MIN_SECRET = 16  # characters


@dataclass(frozen=True, kw_only=True)
class LauncherConfig:
    """Parsed once at start from flags and environment; checked, not yet resolved."""

    # the model
    model_id: str | None = option(
        None, help="Name on the hub or local directory (default: the demo model of this package)."
    )
    revision: str | None = option(None, help="Branch, tag or commit of the model on the hub.")
    huggingface_hub_cache: str | None = option(
        None, help="Directory that the hub's files are cached in."
    )
    weights_cache_override: str | None = option(
        None, help="Directory that replaces the hub's cache for weights."
    )
    tokenizer_config_path: str | None = same_as(RouterConfig, "tokenizer_config_path")
    trust_remote_code: bool = same_as(ShardConfig, "trust_remote_code")
    dtype: Literal["float32", "float16", "bfloat16"] | None = same_as(ShardConfig, "dtype")
    quantize: Quantization | None = option(
        None,
        help="int8 or int4: weights in 8 or 4 bits, quantized when they are loaded; on CPU only. "
        "The others are not available yet.",
    )
    kv_cache_dtype: KvCacheDtype | None = same_as(ShardConfig, "kv_cache_dtype")
    rope_scaling: Literal["linear", "dynamic"] | None = option(
        None, help="Kind of RoPE scaling (default with --rope-factor: linear)."
    )
    rope_factor: float | None = option(
        None, help="Factor of the RoPE scaling (default with --rope-scaling: 1.0)."
    )
    lora_adapters: str | None = option(None, help="Not available yet: LoRA adapters.")
    speculate: int | None = option(
        None, help="Not available yet, except 0: number of tokens to draft."
    )

    # the shards
    sharded: bool | None = option(
        None,
        takes_value=True,
        help="true: one shard per visible GPU, at least 2; false: 1 shard unless --num-shard.",
    )
    num_shard: int | None = option(
        None,
        help="Number of shards, on all nodes together (default: the number of visible GPUs, 1 "
        "without any, on each node).",
    )
    num_threads: int | None = option(
        None, help="Threads of each shard that compute on CPU (default: its share of the cores)."
    )
    cuda_graphs: tuple[int, ...] | None = same_as(ShardConfig, "cuda_graphs")
    all_reduce: Literal["auto", "nccl"] = same_as(ShardConfig, "all_reduce")
    attention: AttentionName = same_as(ShardConfig, "attention")
    cuda_memory_fraction: float = option(
        1.0,
        help="Share of each GPU's memory that a shard may use; 4% of that are left for what is not "
        "counted.",
    )
    shard_uds_path: str | None = option(
        None,
        help="Unix sockets of the shards: rank r listens on PATH-r (default: in a private "
        "directory of this launcher).",
    )
    master_addr: str | None = option(
        None,
        help="Address at which the shards find each other (default: localhost); with --nnodes, "
        "that of node 0.",
    )
    master_port: int | None = option(
        None,
        help="Port at which the shards, or the nodes, find each other (default: 29500, or with one "
        "node a free one).",
    )
    nnodes: int = option(
        1,
        help="Number of nodes (machines) that share the model's shards evenly: this launcher is "
        "started on each of them.",
    )
    node_rank: int = option(
        0, help="Which of the nodes this is, from 0; node 0 is at --master-addr and answers HTTP."
    )
    node_secret: str | None = option(
        None,
        help="Secret by which the nodes know each other, 16 characters or more, the same on all; "
        "better given by the environment, where other users of the machine cannot read it.",
    )
    node_timeout: float = option(600.0, help="Seconds that nodes wait for each other at start.")
    disable_custom_kernels: bool = option(
        False, help="Accepted without effect: every operator has one implementation per device."
    )
    watermark_gamma: float | None = option(
        None, help="Share of the vocabulary on the watermark's green list (default: 0.5)."
    )
    watermark_delta: float | None = option(
        None, help="Added to the scores of the green list (default: 2.0)."
    )

    # limits of a request
    max_concurrent_requests: int = same_as(RouterConfig, "max_concurrent_requests")
    max_best_of: int = same_as(RouterConfig, "max_best_of")
    max_stop_sequences: int = same_as(RouterConfig, "max_stop_sequences")
    max_top_n_tokens: int = same_as(RouterConfig, "max_top_n_tokens")
    max_input_tokens: int | None = same_as(RouterConfig, "max_input_tokens")
    max_input_length: int | None = option(None, help="Older name of --max-input-tokens.")
    max_total_tokens: int | None = same_as(RouterConfig, "max_total_tokens")
    max_client_batch_size: int = same_as(RouterConfig, "max_client_batch_size")
    payload_limit: int = same_as(RouterConfig, "payload_limit")
    enable_prefill_logprobs: bool = same_as(RouterConfig, "enable_prefill_logprobs")
    disable_grammar_support: bool = same_as(RouterConfig, "disable_grammar_support")

    # scheduling
    max_batch_prefill_tokens: int | None = same_as(RouterConfig, "max_batch_prefill_tokens")
    max_batch_total_tokens: int | None = same_as(RouterConfig, "max_batch_total_tokens")
    max_batch_size: int | None = same_as(RouterConfig, "max_batch_size")
    target_step_ms: float = same_as(RouterConfig, "target_step_ms")
    block_size: int = same_as(RouterConfig, "block_size")
    waiting_served_ratio: float = option(
        0.3,
        help="Accepted without effect: every step mixes decodes with prompt chunks, "
        "--target-step-ms replaces it.",
    )
    max_waiting_tokens: int = option(
        20,
        help="Accepted without effect: waiting prompts join the next step, --target-step-ms "
        "replaces it.",
    )

    # failures
    step_timeout: float = same_as(RouterConfig, "step_timeout")
    max_restarts: int = option(
        3,
        help="How often within ten minutes shards that died or hang are restarted while clients "
        "wait; 0: a lost shard ends the server.",
    )
    restart_timeout: float = same_as(RouterConfig, "restart_timeout")

    # HTTP
    hostname: str = option("0.0.0.0", help="IP address to listen on.")  # noqa: S104  TGI's default
    port: int = same_as(RouterConfig, "port")
    cors_allow_origin: tuple[str, ...] = same_as(RouterConfig, "cors_allow_origin")
    api_key: str | None = same_as(RouterConfig, "api_key")
    api_key_file: str | None = same_as(RouterConfig, "api_key_file")
    validation_workers: int = same_as(RouterConfig, "validation_workers")
    graceful_termination_timeout: float = option(
        90.0,
        short="-g",
        help="Seconds that running requests may take to finish after SIGTERM.",
    )
    ngrok: bool = option(False, help="Not available: put a tunnel of your own before --port.")
    ngrok_authtoken: str | None = option(None, help="Used only with --ngrok.")
    ngrok_edge: str | None = option(None, help="Used only with --ngrok.")

    # observability
    json_output: bool = same_as(RouterConfig, "json_output")
    log_level: str = option(
        "info",
        help="Least severe level that is logged: trace, debug, info, warn or error. Of a filter "
        "such as `info,text_generation_router=debug` the most verbose level counts.",
    )
    prometheus_port: int = option(
        9000, help="Accepted without effect: metrics are served at /metrics of --port."
    )
    otlp_endpoint: str | None = option(None, help="Not available yet: OpenTelemetry traces.")
    otlp_service_name: str = option(
        "text-generation-inference.router", help="Used only with --otlp-endpoint."
    )
    usage_stats: Literal["on", "off", "no-stack"] = option(
        "on", help="Accepted without effect: nothing is ever sent."
    )
    env: bool = option(
        False,
        short="-e",
        environment=False,
        help="Log what a bug report needs about this machine, then start.",
    )

    def __post_init__(self) -> None:
        refuse_unavailable(self)
        most_verbose(self.log_level)  # raises OptionError
        self._check_texts()
        self._check_bounds()
        self._check_pairs()
        self._check_nodes()

    @property
    def node_port(self) -> int:
        """Where node 0 waits for the others."""
        return self.master_port or DEFAULT_MASTER_PORT

    def _check_texts(self) -> None:
        """`--api-key "$KEY"` without a KEY must not open the server to everybody."""
        for name in ("model_id", "api_key", "api_key_file", "tokenizer_config_path"):
            if getattr(self, name) == "":
                raise OptionError(f"{flag_name(name)} is empty")

    def _check_bounds(self) -> None:
        """The others: RouterConfig, ShardConfig."""
        for name in (
            "num_shard",
            "nnodes",
            "max_input_length",
        ):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise OptionError(f"{flag_name(name)} must be at least 1, got {value}")
        for name in ("port", "master_port"):
            value = getattr(self, name)
            if value is not None and not 1 <= value <= 65535:
                raise OptionError(f"{flag_name(name)} must lie in 1..65535, got {value}")
        if self.graceful_termination_timeout < 0:
            raise OptionError(
                "--graceful-termination-timeout must be at least 0, got "
                f"{self.graceful_termination_timeout}"
            )

    def _check_pairs(self) -> None:
        if self.max_input_length is not None and self.max_input_tokens is not None:
            raise OptionError(
                "--max-input-length is the older name of --max-input-tokens: give one of them"
            )
        if (
            self.max_total_tokens is not None
            and self.max_batch_total_tokens is not None
            and self.max_total_tokens > self.max_batch_total_tokens
        ):
            raise OptionError(
                f"--max-total-tokens ({self.max_total_tokens}) must not be more than "
                f"--max-batch-total-tokens ({self.max_batch_total_tokens})"
            )

    def _check_nodes(self) -> None:
        if not 0 <= self.node_rank < self.nnodes:
            raise OptionError(
                f"--node-rank must be less than --nnodes ({self.nnodes}), got {self.node_rank}"
            )
        if self.node_timeout <= 0:
            raise OptionError(f"--node-timeout must be > 0, got {self.node_timeout}")
        if self.nnodes == 1:
            return
        if self.num_shard is not None and self.num_shard % self.nnodes:
            raise OptionError(
                f"--num-shard {self.num_shard} cannot be divided among --nnodes {self.nnodes}"
            )
        if not self.master_addr:
            raise OptionError(f"--nnodes {self.nnodes} needs --master-addr, the address of node 0")
        if len(self.node_secret or "") < _MIN_SECRET:
            raise OptionError(
                f"--nnodes {self.nnodes} needs a --node-secret of at least {_MIN_SECRET} "
                "characters, the same on all nodes (openssl rand -hex 16)"
            )
