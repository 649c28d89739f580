"""The shards of a node whose launcher does what node 0 says."""

import asyncio
import logging
from pathlib import Path

from text_generation_process.endpoint import Endpoint

from text_generation_launcher.child import Child, ChildCommand
from text_generation_launcher.log_relay import LogRelay
from text_generation_launcher.node_link import Link
from text_generation_launcher.readiness import sockets_appear
from text_generation_launcher.supervisor import LOST_SHARD_GRACE_SECONDS

logger = logging.getLogger(__name__)

_MAX_LAST_WORDS = 4000  # characters, of a message's 64 KiB


class NodeShards:
    """Owns the processes; node 0 hears where each listens and how it ended."""

    def __init__(self, link: Link, relay: LogRelay) -> None:
        self._link = link
        self._relay = relay
        self._shards: dict[int, Child] = {}
        # Ranks that were asked to end.
        self._ending: set[int] = set()
        self._reports: set[asyncio.Task[None]] = set()

    async def start(self, rank: int, command: ChildCommand, socket: Path) -> None:
        """Start a rank, or start it again; `socket` is where it says that it listens."""
        socket.unlink(missing_ok=True)  # noqa: ASYNC240  a file in memory or beside us
        self._ending.discard(rank)
        try:
            shard = await Child.start(command, self._relay)
        except OSError as error:
            self._link.send({"rank": rank, "code": 1, "last_words": f"cannot start: {error}"})
            return
        self._shards[rank] = shard
        report = asyncio.create_task(self._report(rank, shard, socket))
        self._reports.add(report)
        report.add_done_callback(self._reports.discard)

    def terminate(self, rank: int) -> None:
        """Ask a rank to stop."""
        self._ending.add(rank)
        if rank in self._shards:
            self._shards[rank].terminate()

    def kill(self, rank: int) -> None:
        """End a rank."""
        self._ending.add(rank)
        if rank in self._shards:
            self._shards[rank].kill()

    async def end(self) -> None:
        """End what still runs."""
        for rank in self._shards:
            self.terminate(rank)
        exits = [asyncio.create_task(shard.exited()) for shard in self._shards.values()]
        if exits:
            await asyncio.wait(exits, timeout=LOST_SHARD_GRACE_SECONDS)
        for rank in self._shards:
            self.kill(rank)
        await asyncio.gather(*exits, *self._reports)

    async def _report(self, rank: int, shard: Child, socket: Path) -> None:
        exited = asyncio.create_task(shard.exited())
        listening = asyncio.create_task(sockets_appear([socket]))
        await asyncio.wait({exited, listening}, return_when=asyncio.FIRST_COMPLETED)
        if listening.done() and (endpoint := Endpoint.at(socket)) is not None:
            logger.info("%s listens at %s", shard.origin, endpoint.address)
            self._link.send({"rank": rank, "address": endpoint.address, "token": endpoint.token})
        listening.cancel()
        ending = await exited
        if rank not in self._ending:
            logger.error("%s died: %s", ending.origin, ending.how)
        last_words = ending.last_words[-_MAX_LAST_WORDS:]
        self._link.send({"rank": rank, "code": ending.code, "last_words": last_words})
