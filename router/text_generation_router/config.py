"""The router's configuration: every field is a flag of `text-generation-router` (and of the
launcher, mostly).
"""

from dataclasses import dataclass

from text_generation_process.logs import Level
from text_generation_process.options import OptionError, flag_name, option

VERSION = "4.0.0.dev0"


@dataclass(frozen=True, kw_only=True)
class RouterConfig:
    """Parsed once at start; inner objects receive only the slice that they use."""

    # the model and its shards
    model_path: str = option(help="Local directory with tokenizer and configuration of the model.")
    model_id: str | None = option(
        None, help="Name of the model as clients see it (default: the directory)."
    )
    revision: str | None = option(None, help="Revision of the model, shown by /info.")
    shard_uds_path: str = option(
        "/tmp/text-generation-server",  # noqa: S108  TGI's default, which tools rely on
        help="Unix socket of the shards: rank r listens on PATH-r.",
    )
    num_shard: int = option(1, help="Number of shards to connect to.")
    tokenizer_config_path: str | None = option(
        None, help="File that replaces the model's tokenizer_config.json (chat template)."
    )

    # limits of a request
    max_concurrent_requests: int = option(
        128, help="Requests in the server at one time; more are refused with 429."
    )
    max_best_of: int = option(2, help="Most candidates that `best_of` may ask for; 1 disables it.")
    max_stop_sequences: int = option(4, help="Most stop sequences in a request.")
    max_top_n_tokens: int = option(
        5, help="Most alternatives per token that a request may ask for."
    )
    max_input_tokens: int | None = option(
        None, help="Longest prompt in tokens (default: max_total_tokens - 1)."
    )
    max_total_tokens: int | None = option(
        None,
        help="Longest prompt plus output in tokens (default: what the model and the cache allow).",
    )
    max_client_batch_size: int = option(4, help="Most prompts in one /v1/completions request.")
    payload_limit: int = option(2_000_000, help="Largest request body in bytes.")
    enable_prefill_logprobs: bool = option(
        False, help="Let requests ask for the log-probabilities of their prompt."
    )
    disable_grammar_support: bool = option(False, help="Refuse every request that has a grammar.")

    # scheduling
    max_batch_prefill_tokens: int | None = option(
        None,
        help="Most tokens that one step computes (default: 4096, or less if the model has less).",
    )
    max_batch_total_tokens: int | None = option(
        None, help="Size of the KV cache in tokens (default: measured at warmup)."
    )
    max_batch_size: int | None = option(
        None, help="Most sequences that run at one time (default: max_concurrent_requests)."
    )
    target_step_ms: float = option(
        100.0,
        help="Time a step should take while others wait for their next token: long prompts are "
        "read in chunks that fit.",
    )
    block_size: int = option(16, help="Tokens per KV cache block.")

    # failures
    step_timeout: float = option(
        60.0, help="Seconds that a step may take; then its shards count as lost."
    )
    max_restarts: int = option(
        0,
        help="How often within ten minutes lost shards may be restarted (by whoever started them) "
        "while clients wait; 0: a lost shard ends the router.",
    )
    restart_timeout: float = option(
        600.0, help="Seconds that restarted shards may take to be there."
    )

    # HTTP
    hostname: str = option("0.0.0.0", help="Address to listen on.")  # noqa: S104
    port: int = option(3000, short="-p", help="TCP port to listen on.")
    cors_allow_origin: tuple[str, ...] = option(
        (), help="Allowed CORS origin, repeatable (default: any)."
    )
    api_key: str | None = option(
        None, help="Key that clients must send as a bearer token, or several with commas between."
    )
    api_key_file: str | None = option(
        None, help="File with further keys, one a line; # begins a comment."
    )
    validation_workers: int = option(
        2, help="Threads that tokenize, beside one for texts of more than 65536 characters."
    )
    graceful_termination_timeout: float = option(
        90.0, help="Seconds that running requests may take to finish after SIGTERM."
    )

    # logs
    json_output: bool = option(False, help="Write log lines as JSON.")
    logger_level: Level = option("INFO", help="Least severe level that is logged.")

    def __post_init__(self) -> None:
        for name in (
            "num_shard",
            "max_concurrent_requests",
            "max_best_of",
            "max_stop_sequences",
            "max_client_batch_size",
            "payload_limit",
            "validation_workers",
            "block_size",
        ):
            self._require_positive(name, getattr(self, name))
        for name in (
            "max_input_tokens",
            "max_total_tokens",
            "max_batch_prefill_tokens",
            "max_batch_total_tokens",
            "max_batch_size",
        ):
            if getattr(self, name) is not None:
                self._require_positive(name, getattr(self, name))
        if self.max_restarts < 0:
            raise OptionError(f"--max-restarts must be at least 0, got {self.max_restarts}")
        for name in ("restart_timeout", "step_timeout", "target_step_ms"):
            if getattr(self, name) <= 0:
                raise OptionError(f"{flag_name(name)} must be > 0, got {getattr(self, name)}")
        if not 0 <= self.port <= 65535:
            raise OptionError(f"--port must lie in 0..65535, got {self.port}")
        if (
            self.max_input_tokens is not None
            and self.max_total_tokens is not None
            and self.max_input_tokens >= self.max_total_tokens
        ):
            raise OptionError(
                f"--max-input-tokens ({self.max_input_tokens}) must be less than "
                f"--max-total-tokens ({self.max_total_tokens})"
            )

    @staticmethod
    def _require_positive(name: str, value: int) -> None:
        if value < 1:
            raise OptionError(f"{flag_name(name)} must be at least 1, got {value}")

    def shard_uds_paths(self) -> list[str]:
        """The socket of every rank, in rank order."""
        return [f"{self.shard_uds_path}-{rank}" for rank in range(self.num_shard)]
