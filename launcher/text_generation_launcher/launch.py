"""A launch from checked options to exit code: resolve, check, prepare the model, supervise."""

import logging
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path

from text_generation_launcher.commands import (
    Rendezvous,
    router_command,
    router_config,
    shard_commands,
    shard_config,
)
from text_generation_launcher.config import DEFAULT_MASTER_PORT, LauncherConfig
from text_generation_launcher.errors import LaunchError
from text_generation_launcher.log_relay import LogRelay, Origin, Record
from text_generation_launcher.model import Model, num_attention_heads
from text_generation_launcher.node_member import NodeMember
from text_generation_launcher.node_terms import node_terms
from text_generation_launcher.nodes import Nodes, RemoteShardCommand
from text_generation_launcher.preflight import (
    held_port,
    master_port,
    require_free_port,
    require_own_address,
    shard_sockets,
)
from text_generation_launcher.preparation import Setting, prepared_model
from text_generation_launcher.progress import ProgressDisplay
from text_generation_launcher.refusals import warn_without_effect
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
    warn_without_effect(config)
    _check_child_options(config, resolved)
    if config.node_rank == 0:
        require_free_port(resolved.hostname, config.port)
    progress = ProgressDisplay(enabled=sys.stdout.isatty() and not config.json_output)
    with StopSignals().installed() as stop:
        try:
            setting = Setting(
                config=config,
                environment=environment,
                resolved=resolved,
                stop=stop,
                progress=progress,
            )
            node = NodeMember(setting) if config.node_rank else _Launch(setting)
            return await node.run()
        finally:
            progress.close()


def _check_child_options(config: LauncherConfig, resolved: Resolved) -> None:
    """Let router and shard refuse what they would refuse later, before a model is downloaded."""
    model = Model(Path(), "")
    rendezvous = Rendezvous(shard_uds_path="", master_addr="", master_port=DEFAULT_MASTER_PORT)
    router_config(config, resolved, model, rendezvous)
    shard_config(config, resolved, model, rendezvous)


class _Launch:
    """What happens on node 0, mostly the only one, under the eye of the signal handlers."""

    def __init__(self, setting: Setting) -> None:
        self._setting = setting
        self._config = setting.config
        self._resolved = setting.resolved
        self._nodes = Nodes(node_terms(setting), setting.config.node_secret or "", setting.stop)
        self._started = time.monotonic()

    async def run(self) -> int:
        """The exit code."""
        config = self._config
        if config.master_addr is not None and self._resolved.num_shard > 1:
            require_own_address(config.master_addr)
        async with self._nodes.listening(config.master_addr or "", config.node_port):
            self._nodes.exit_code = await self._serve()
            return self._nodes.exit_code

    async def _serve(self) -> int:
        model = await prepared_model(self._setting)
        if model is None:
            return 0
        resolved = self._fitting(model)
        await self._nodes.gathered(model, self._config.node_timeout)
        if self._setting.stop.requested.is_set():
            return 0
        with (
            shard_sockets(self._config.shard_uds_path, resolved.num_shard) as shard_uds_path,
            self._rendezvous(shard_uds_path, resolved.num_shard) as rendezvous,
        ):
            deployment = self._deployment(resolved, model, rendezvous)
            logger.info("starting %s with %d shard(s)", model.name, resolved.num_shard)
            requests = RestartRequests(deployment.sockets)

            def observe(origin: Origin, record: Record) -> bool:
                requests.observe(origin, record)
                return self._setting.progress.observe(origin, record)

            return await Supervisor(
                deployment,
                LogRelay(observe),
                self._setting.stop,
                on_ready=lambda: self._say_ready(model),
                requests=requests,
            ).run()

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

    @contextmanager
    def _rendezvous(self, shard_uds_path: str, num_shard: int) -> Iterator[Rendezvous]:
        asked = self._config.master_port
        address = self._config.master_addr or "localhost"
        if num_shard == 1:
            held: AbstractContextManager[int] = nullcontext(asked or DEFAULT_MASTER_PORT)
        elif self._resolved.nnodes > 1:
            held = held_port(address, 0)  # the nodes' launchers meet at the one that was asked for
        else:
            held = master_port(address, asked)
        with held as port:
            yield Rendezvous(
                shard_uds_path=shard_uds_path,
                master_addr=address,
                master_port=port,
            )

    def _deployment(self, resolved: Resolved, model: Model, rendezvous: Rendezvous) -> Deployment:
        shard = shard_config(self._config, resolved, model, rendezvous)
        router = router_config(self._config, resolved, model, rendezvous)
        sockets = tuple(Path(path) for path in router.shard_uds_paths())
        environment, ranks = self._setting.environment, resolved.ranks(0)
        own = shard_commands(shard, resolved.num_shard, rendezvous, environment, ranks)
        return Deployment(
            shards=(*own, *self._remote_shards(resolved, sockets, rendezvous.master_port)),
            router=router_command(router, environment),
            hostname=resolved.hostname,
            port=self._config.port,
            grace_seconds=self._config.graceful_termination_timeout,
            sockets=sockets,
            restarts_shards=router.max_restarts > 0,
        )

    def _remote_shards(
        self, resolved: Resolved, sockets: Sequence[Path], port: int
    ) -> list[RemoteShardCommand]:
        return [
            RemoteShardCommand(
                nodes=self._nodes,
                node_rank=node_rank,
                rank=rank,
                socket=sockets[rank],
                rendezvous_port=port,
            )
            for node_rank in range(1, resolved.nnodes)
            for rank in resolved.ranks(node_rank)
        ]

    def _say_ready(self, model: Model) -> None:
        self._setting.progress.close()
        hostname, seconds = self._resolved.hostname, time.monotonic() - self._started
        host = f"[{hostname}]" if ":" in hostname else hostname
        logger.info(
            "serving %s at http://%s:%d after %.1f s", model.name, host, self._config.port, seconds
        )
