"""How children are started: the flags and environment that the launcher's options become."""

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace

from text_generation_process.options import arguments, without_options
from text_generation_router.config import RouterConfig
from text_generation_shard.config import ShardConfig

from text_generation_launcher.child import ChildCommand
from text_generation_launcher.config import LauncherConfig
from text_generation_launcher.log_level import most_verbose
from text_generation_launcher.log_relay import Origin
from text_generation_launcher.model import Model
from text_generation_launcher.resolve import Resolved

_SHARD_PROGRAM = "text_generation_shard.cli"
_ROUTER_PROGRAM = "text_generation_router.cli"


@dataclass(frozen=True, kw_only=True)
class Rendezvous:
    """Where router and shards find each other."""

    shard_uds_path: str
    master_addr: str
    master_port: int


def shard_config(
    config: LauncherConfig, resolved: Resolved, model: Model, rendezvous: Rendezvous
) -> ShardConfig:
    """The options of every shard; OptionError if they are not good."""
    shard = ShardConfig(
        model_path=str(model.path),
        uds_path=rendezvous.shard_uds_path,
        dtype=config.dtype,
        quantize=config.quantize if config.quantize in ("int8", "int4") else None,
        kv_cache_dtype=config.kv_cache_dtype,
        trust_remote_code=config.trust_remote_code,
        rope_scaling=resolved.rope_scaling,
        rope_factor=resolved.rope_factor,
        cuda_memory_fraction=config.cuda_memory_fraction,
        cuda_graphs=config.cuda_graphs,
        all_reduce=config.all_reduce,
        attention=config.attention,
        num_threads=config.num_threads,
        json_output=True,
        logger_level=most_verbose(config.log_level),
    )
    if config.watermark_gamma is not None:
        shard = replace(shard, watermark_gamma=config.watermark_gamma)
    if config.watermark_delta is not None:
        shard = replace(shard, watermark_delta=config.watermark_delta)
    return shard


def router_config(
    config: LauncherConfig, resolved: Resolved, model: Model, rendezvous: Rendezvous
) -> RouterConfig:
    """The router's options; OptionError if they are not good."""
    return RouterConfig(
        model_path=str(model.path),
        model_id=model.name,
        revision=config.revision,
        shard_uds_path=rendezvous.shard_uds_path,
        num_shard=resolved.num_shard,
        tokenizer_config_path=config.tokenizer_config_path,
        max_concurrent_requests=config.max_concurrent_requests,
        max_best_of=config.max_best_of,
        max_stop_sequences=config.max_stop_sequences,
        max_top_n_tokens=config.max_top_n_tokens,
        max_input_tokens=resolved.max_input_tokens,
        max_total_tokens=config.max_total_tokens,
        max_client_batch_size=config.max_client_batch_size,
        payload_limit=config.payload_limit,
        enable_prefill_logprobs=config.enable_prefill_logprobs,
        disable_grammar_support=config.disable_grammar_support,
        max_batch_prefill_tokens=config.max_batch_prefill_tokens,
        max_batch_total_tokens=config.max_batch_total_tokens,
        max_batch_size=config.max_batch_size,
        target_step_ms=config.target_step_ms,
        block_size=config.block_size,
        step_timeout=config.step_timeout,
        max_restarts=config.max_restarts,
        restart_timeout=config.restart_timeout,
        hostname=resolved.hostname,
        port=config.port,
        cors_allow_origin=config.cors_allow_origin,
        api_key=config.api_key,
        api_key_file=config.api_key_file,
        validation_workers=config.validation_workers,
        graceful_termination_timeout=config.graceful_termination_timeout,
        json_output=True,
        logger_level=most_verbose(config.log_level),
    )


def shard_commands(
    shard: ShardConfig,
    num_shard: int,
    rendezvous: Rendezvous,
    environment: Mapping[str, str],
    ranks: range | None = None,
) -> tuple[ChildCommand, ...]:
    """One shard per rank of this node: `ranks`, or all of num_shard. What a scheduler has set of
    these variables was meant for others. A token goes by the environment, as the router's key does.
    """
    ranks = range(num_shard) if ranks is None else ranks
    inherited = without_options(ShardConfig, _inherited(environment))
    if shard.tcp_token is not None:
        inherited["TCP_TOKEN"] = shard.tcp_token
        shard = replace(shard, tcp_token=None)
    return tuple(
        ChildCommand(
            origin=Origin("shard", rank),
            argv=_python(_SHARD_PROGRAM, "serve", *arguments(shard)),
            environment={
                **inherited,
                "RANK": str(rank),
                "WORLD_SIZE": str(num_shard),
                "LOCAL_RANK": str(local_rank),
                "LOCAL_WORLD_SIZE": str(len(ranks)),
                "MASTER_ADDR": rendezvous.master_addr,
                "MASTER_PORT": str(rendezvous.master_port),
            },
        )
        for local_rank, rank in enumerate(ranks)
    )


def router_command(router: RouterConfig, environment: Mapping[str, str]) -> ChildCommand:
    """The key goes by the environment: every user of the machine can read a command line."""
    inherited = without_options(RouterConfig, _inherited(environment))
    if router.api_key is not None:
        inherited["API_KEY"] = router.api_key
    return ChildCommand(
        origin=Origin("router"),
        argv=_python(_ROUTER_PROGRAM, *arguments(replace(router, api_key=None))),
        environment=inherited,
    )


def download_command(
    config: LauncherConfig, model_id: str, environment: Mapping[str, str]
) -> ChildCommand:
    """Prepare a model that is no ready local directory."""
    flags = {
        "--revision": config.revision,
        "--huggingface-hub-cache": config.huggingface_hub_cache,
        "--weights-cache-override": config.weights_cache_override,
        "--logger-level": most_verbose(config.log_level),
    }
    given = [part for flag, value in flags.items() if value is not None for part in (flag, value)]
    if config.trust_remote_code:
        given.append("--trust-remote-code")
    inherited = without_options(ShardConfig, _inherited(environment))
    return ChildCommand(
        origin=Origin("download"),
        argv=_python(_SHARD_PROGRAM, "download-weights", model_id, *given, "--json-output"),
        environment={**inherited, "HF_HUB_DISABLE_PROGRESS_BARS": "1"},
    )


def _python(module: str, *flags: str) -> tuple[str, ...]:
    """Run `module.main()` in a process that dies with this one; -P: never import from the working
    directory.
    """
    tether = "text_generation_launcher.tether"
    return (sys.executable, "-P", "-m", tether, str(os.getpid()), module, *flags)


def _inherited(environment: Mapping[str, str]) -> dict[str, str]:
    """The launcher's environment less its own options, with the hub's token under one name."""
    inherited = without_options(LauncherConfig, environment)
    for name in ("HF_API_TOKEN", "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        if inherited.get(name):
            inherited["HF_TOKEN"] = inherited[name]
            break
    return inherited
