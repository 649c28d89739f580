"""A launch from checked options to exit code: resolve, check, prepare the model, supervise."""

import logging
import sys
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from text_generation_launcher.commands import (
    Rendezvous,
    download_command,
    router_command,
    router_config,
    shard_commands,
    shard_config,
)
from text_generation_launcher.config import LauncherConfig
from text_generation_launcher.errors import LaunchError
from text_generation_launcher.log_relay import LogRelay, Origin, Record
from text_generation_launcher.model import Model, find_local, num_attention_heads
from text_generation_launcher.preflight import (
    DEFAULT_MASTER_PORT,
    choose_master_port,
    require_free_port,
    shard_sockets,
)
from text_generation_launcher.preparation import prepare
from text_generation_launcher.progress import ProgressDisplay
from text_generation_launcher.resolve import Resolved, fitting_num_shard, resolve
from text_generation_launcher.restart_requests import RestartRequests
from text_generation_launcher.signals import StopSignals
from text_generation_launcher.supervisor import Deployment, Supervisor

logger = logging.getLogger(__name__)


async def launch(config: LauncherConfig, environment: Mapping[str, str]) -> int:
    """Serve until a signal comes (0) or something fails (1).

    OptionError or LaunchError if it cannot start; nothing is left running then.
    """
    resolved = resolve(config, environment)
    _check_child_options(config, resolved)
    require_free_port(resolved.hostname, config.port)
    progress = ProgressDisplay(enabled=sys.stdout.isatty() and not config.json_output)
    with StopSignals().installed() as stop:
        try:
            return await _Launch(config, environment, resolved, stop, progress).run()
        finally:
            progress.close()


def _check_child_options(config: LauncherConfig, resolved: Resolved) -> None:
    """Let router and shard refuse what they would refuse later, before a model is downloaded."""
    model = Model(Path(), "")
    rendezvous = Rendezvous(shard_uds_path="", master_addr="", master_port=DEFAULT_MASTER_PORT)
    router_config(config, resolved, model, rendezvous)
    shard_config(config, resolved, model, rendezvous)


class _Launch:
    """What happens under the eye of the signal handlers."""

    def __init__(
        self,
        config: LauncherConfig,
        environment: Mapping[str, str],
        resolved: Resolved,
        stop: StopSignals,
        progress: ProgressDisplay,
    ) -> None:
        self._config = config
        self._environment = environment
        self._resolved = resolved
        self._stop = stop
        self._progress = progress
        self._started = time.monotonic()

    async def run(self) -> int:
        """The exit code."""
        model = await self._prepared_model()
        if model is None:
            return 0
        resolved = self._fitting(model)
        with shard_sockets(self._config.shard_uds_path, resolved.num_shard) as shard_uds_path:
            rendezvous = self._rendezvous(shard_uds_path, resolved.num_shard)
            deployment = self._deployment(resolved, model, rendezvous)
            logger.info("starting %s with %d shard(s)", model.name, resolved.num_shard)
            requests = RestartRequests(deployment.sockets)

            def observe(origin: Origin, record: Record) -> bool:
                requests.observe(origin, record)
                return self._progress.observe(origin, record)

            return await Supervisor(
                deployment,
                LogRelay(observe),
                self._stop,
                on_ready=lambda: self._say_ready(model),
                requests=requests,
            ).run()

    async def _prepared_model(self) -> Model | None:
        """The model's local files; None if a stop is asked for while they are fetched."""
        model_id = self._config.model_id
        model = find_local(model_id)
        if model is not None:
            return model
        assert model_id is not None, "the demo model is local, or an error"
        command = download_command(self._config, model_id, self._environment)
        return await prepare(command, model_id, self._progress.observe, self._stop)

    def _fitting(self, model: Model) -> Resolved:
        """The number of shards must also fit the model: an inferred one is made to, another is
        refused here, before a process is spawned for each of them.
        """
        resolved = self._resolved
        if resolved.num_shard == 1:
            return resolved
        heads = num_attention_heads(model)
        if heads is None:
            return resolved
        if resolved.is_num_shard_inferred:
            return replace(resolved, num_shard=fitting_num_shard(resolved.num_shard, heads))
        if heads % resolved.num_shard:
            raise LaunchError(
                f"{model.name}: num_attention_heads ({heads}) cannot be divided among "
                f"{resolved.num_shard} shards (--num-shard)"
            )
        return resolved

    def _rendezvous(self, shard_uds_path: str, num_shard: int) -> Rendezvous:
        asked = self._config.master_port
        port = choose_master_port(asked) if num_shard > 1 else asked or DEFAULT_MASTER_PORT
        return Rendezvous(
            shard_uds_path=shard_uds_path,
            master_addr=self._config.master_addr,
            master_port=port,
        )

    def _deployment(self, resolved: Resolved, model: Model, rendezvous: Rendezvous) -> Deployment:
        shard = shard_config(self._config, resolved, model, rendezvous)
        router = router_config(self._config, resolved, model, rendezvous)
        return Deployment(
            shards=shard_commands(shard, resolved.num_shard, rendezvous, self._environment),
            router=router_command(router, self._environment),
            hostname=resolved.hostname,
            port=self._config.port,
            grace_seconds=self._config.graceful_termination_timeout,
            sockets=tuple(Path(path) for path in router.shard_uds_paths()),
            restarts_shards=router.max_restarts > 0,
        )

    def _say_ready(self, model: Model) -> None:
        self._progress.close()
        hostname, seconds = self._resolved.hostname, time.monotonic() - self._started
        host = f"[{hostname}]" if ":" in hostname else hostname
        logger.info(
            "serving %s at http://%s:%d after %.1f s", model.name, host, self._config.port, seconds
        )
