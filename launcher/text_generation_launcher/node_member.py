"""The launcher on a node that is not node 0: it joins, prepares the model, and then runs the shards
of its ranks as node 0 says (`nodes`). It answers no HTTP and decides nothing: when node 0 is gone,
or dismisses it, it ends, and its shards with it.
"""

import asyncio
import logging
import secrets
from dataclasses import replace
from pathlib import Path
from typing import Any

from text_generation_launcher.child import ChildCommand
from text_generation_launcher.commands import Rendezvous, shard_commands, shard_config
from text_generation_launcher.errors import LaunchError
from text_generation_launcher.log_relay import LogRelay
from text_generation_launcher.model import Model, fingerprint
from text_generation_launcher.node_link import Link, LinkError, LinkRefusedError
from text_generation_launcher.node_shards import NodeShards
from text_generation_launcher.node_terms import node_terms
from text_generation_launcher.preflight import shard_sockets
from text_generation_launcher.preparation import Setting, prepared_model

logger = logging.getLogger(__name__)

_RETRY_SECONDS = 0.5


class NodeMember:
    """What happens on such a node, under the eye of the signal handlers."""

    def __init__(self, setting: Setting) -> None:
        self._setting = setting
        self._ranks = setting.resolved.ranks(setting.config.node_rank)
        self._token = secrets.token_hex(16)

    async def run(self) -> int:
        """The exit code: node 0's, when that ends in order. LaunchError."""
        stopping = asyncio.create_task(self._setting.stop.requested.wait())
        joining = asyncio.create_task(self._join())
        await asyncio.wait({stopping, joining}, return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        if not joining.done():
            joining.cancel()
            return 0
        link = joining.result()
        try:
            return await self._serve(link)
        except LinkRefusedError as error:
            raise LaunchError(f"node 0 refuses this node: {error}") from error
        except LinkError as error:
            raise LaunchError(f"node 0 is gone: {error}") from error
        finally:
            await link.close()

    async def _join(self) -> Link:
        """Try until node 0 is there. LaunchError if it is late, or does not want this one."""
        config = self._setting.config
        loop = asyncio.get_running_loop()
        give_up_at = loop.time() + config.node_timeout
        is_told = False
        while True:
            try:
                return await self._knock()
            except LinkRefusedError as error:
                raise LaunchError(f"node 0 refuses this node: {error}") from error
            except (OSError, LinkError) as error:
                where = f"--master-addr {config.master_addr} --master-port {config.node_port}"
                if loop.time() >= give_up_at:
                    raise LaunchError(
                        f"no node 0 at {where} within {config.node_timeout:g} s "
                        f"(--node-timeout): {error or 'no answer'}"
                    ) from error
                if not is_told:
                    logger.info("waiting for node 0 at %s: %s", where, error or "no answer")
                    is_told = True
                await asyncio.sleep(_RETRY_SECONDS)

    async def _knock(self) -> Link:
        config = self._setting.config
        assert config.master_addr is not None, "LauncherConfig checks it"
        link = await Link.join(config.master_addr, config.node_port, config.node_secret or "")
        link.send(node_terms(self._setting).message())
        try:
            answer = await link.receive()
            if "refusal" in answer:
                raise LinkRefusedError(str(answer["refusal"]))
        except (LinkError, LinkRefusedError):
            await link.close()
            raise
        logger.info(
            "joined as node %d of %d, ranks %d to %d; HTTP is answered by node 0 alone, at %s",
            *(config.node_rank, config.nnodes, self._ranks[0], self._ranks[-1], config.master_addr),
        )
        return link

    async def _serve(self, link: Link) -> int:
        """Until node 0 says that it is over, or a second signal comes: the exit code."""
        setting = self._setting
        with shard_sockets(setting.config.shard_uds_path, setting.resolved.num_shard) as uds_path:
            shards = NodeShards(link, LogRelay(setting.progress.observe))
            preparing = asyncio.create_task(self._prepare(link))
            obeying = asyncio.create_task(self._obey(link, shards, preparing, uds_path))
            asking = asyncio.create_task(self._pass_stop_on(link))
            forced = asyncio.create_task(setting.stop.forced.wait())
            tasks: set[asyncio.Task[Any]] = {preparing, obeying, forced}
            try:
                while not (obeying.done() or forced.done()):
                    waiting = [task for task in tasks if not task.done()]
                    await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
                    if preparing.done():
                        preparing.result()
                return obeying.result() if obeying.done() else 1
            finally:
                for task in (*tasks, asking):
                    task.cancel()
                await shards.end()

    async def _prepare(self, link: Link) -> Model | None:
        """Make the model ready and say so; None if a stop is asked for meanwhile."""
        model = await prepared_model(self._setting)
        if model is not None:
            link.send({"prepared": await asyncio.to_thread(fingerprint, model), "name": model.name})
        return model

    async def _pass_stop_on(self, link: Link) -> None:
        """The server drains before anything ends, as if node 0 had been asked to stop."""
        await self._setting.stop.requested.wait()
        link.send({"stop": True})

    async def _obey(
        self,
        link: Link,
        shards: "NodeShards",
        preparing: "asyncio.Task[Model | None]",
        uds_path: str,
    ) -> int:
        """Do what node 0 says, until it dismisses this node: with which exit code."""
        while "dismiss" not in (message := await link.receive()):
            if "refusal" in message:
                raise LinkRefusedError(str(message["refusal"]))
            if "start" in message:
                model = await preparing
                assert model is not None, "node 0 waits for it"
                rank, port = int(message["start"]), int(message["port"])
                command = self._command(model, uds_path, rank, port)
                await shards.start(rank, command, Path(f"{uds_path}-{rank}"))
            elif "terminate" in message:
                shards.terminate(int(message["terminate"]))
            elif "kill" in message:
                shards.kill(int(message["kill"]))
        code = int(message["dismiss"])
        logger.info("node 0 has ended, with exit code %d", code)
        return code

    def _command(self, model: Model, uds_path: str, rank: int, port: int) -> ChildCommand:
        setting = self._setting
        rendezvous = Rendezvous(
            shard_uds_path=uds_path,
            master_addr=setting.config.master_addr or "",
            master_port=port,
        )
        shard = shard_config(setting.config, setting.resolved, model, rendezvous)
        shard = replace(shard, tcp_token=self._token)
        num_shard = setting.resolved.num_shard
        commands = shard_commands(shard, num_shard, rendezvous, setting.environment, self._ranks)
        return commands[rank - self._ranks.start]
