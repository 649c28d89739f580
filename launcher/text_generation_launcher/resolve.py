"""What "auto" becomes, decided once and logged with its reason."""

import ipaddress
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from text_generation_process.options import OptionError
from text_generation_shard.config import asks_for_gpu

from text_generation_launcher.config import LauncherConfig
from text_generation_launcher.devices import visible_gpus

logger = logging.getLogger(__name__)

RopeScaling = Literal["linear", "dynamic"]


@dataclass(frozen=True, kw_only=True)
class Resolved:
    """The values of a LauncherConfig that depend on each other or on this machine."""

    num_shard: int  # on all nodes
    nnodes: int
    is_num_shard_inferred: bool
    hostname: str
    max_input_tokens: int | None
    rope_scaling: RopeScaling | None
    rope_factor: float | None

    def ranks(self, node_rank: int) -> range:
        """Those of a node."""
        num_local = self.num_shard // self.nnodes
        return range(node_rank * num_local, (node_rank + 1) * num_local)


def resolve(config: LauncherConfig, environment: Mapping[str, str]) -> Resolved:
    """Decide; OptionError where this machine cannot do what is asked."""
    _check_gpu_options(config, environment)
    scaling, factor = config.rope_scaling, config.rope_factor
    if scaling is None and factor is not None:
        scaling = "linear"
        logger.info("--rope-scaling is linear, since --rope-factor is given")
    if scaling is not None and factor is None:
        factor = 1.0
    return Resolved(
        num_shard=_num_shard(config, environment),
        nnodes=config.nnodes,
        # With several nodes a count that does not fit the model is the user's to change.
        is_num_shard_inferred=config.num_shard is None
        and config.sharded is None
        and config.nnodes == 1,
        hostname=_hostname(config.hostname, environment),
        max_input_tokens=config.max_input_tokens or config.max_input_length,
        rope_scaling=scaling,
        rope_factor=factor,
    )


def _num_shard(config: LauncherConfig, environment: Mapping[str, str]) -> int:
    if config.num_shard is not None:
        if config.sharded and config.num_shard < 2:
            raise OptionError(
                f"--sharded true needs a --num-shard of at least 2, got {config.num_shard}"
            )
        return config.num_shard
    return config.nnodes * _shards_of_node(config, environment)


def _shards_of_node(config: LauncherConfig, environment: Mapping[str, str]) -> int:
    if config.sharded is False:
        return 1
    gpus = visible_gpus(environment)
    if config.sharded:
        if gpus.count < 2:
            raise OptionError(
                f"--sharded true needs at least 2 GPUs, found {gpus.count} ({gpus.source}); "
                "--num-shard sets the number of shards without GPUs"
            )
        return gpus.count
    if gpus.count > 1:
        num_shard = config.nnodes * gpus.count
        logger.info("--num-shard is %d: one shard per GPU (%s)", num_shard, gpus.source)
    return max(1, gpus.count)


def fitting_num_shard(num_shard: int, num_attention_heads: int) -> int:
    """The largest number of shards up to `num_shard` that can split the heads evenly."""
    fitting = max(n for n in range(1, num_shard + 1) if num_attention_heads % n == 0)
    if fitting < num_shard:
        logger.warning(
            "--num-shard is %d: the model's %d attention heads cannot be split over %d GPUs",
            fitting,
            num_attention_heads,
            num_shard,
        )
    return fitting


def _hostname(hostname: str, environment: Mapping[str, str]) -> str:
    """An IP address or localhost.

    Container runtimes set HOSTNAME to the container's name, which is nothing to listen on.
    """
    if hostname == "localhost":
        return "127.0.0.1"
    try:
        return str(ipaddress.ip_address(hostname.strip("[]")))
    except ValueError:
        if environment.get("HOSTNAME") != hostname:
            raise OptionError(
                f"--hostname must be an IP address or localhost, got {hostname!r}"
            ) from None
    logger.warning("listening on 0.0.0.0: HOSTNAME=%s is not an IP address", hostname)
    return "0.0.0.0"  # noqa: S104  the default


def _check_gpu_options(config: LauncherConfig, environment: Mapping[str, str]) -> None:
    if visible_gpus(environment).count > 0:
        return
    if (asked := asks_for_gpu(config)) is not None:
        raise OptionError(f"{asked}: no GPU is visible")
