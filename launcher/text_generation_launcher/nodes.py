"""The other nodes as node 0 sees them, whose supervisor governs all shards.

A node's launcher joins and says that its model is ready; from then on it does for its ranks what it
is told (start, terminate, kill) and says what becomes of them (where they listen, how they ended).
So the supervisor has a `RemoteShard` where it has a `Child` for a shard of its own; a node that is
gone is the end of its shards, and to start those again is to wait until the node is back.
"""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from text_generation_process.endpoint import Endpoint

from text_generation_launcher.child import ChildExit
from text_generation_launcher.errors import LaunchError
from text_generation_launcher.log_relay import LogRelay, Origin
from text_generation_launcher.model import Model, fingerprint
from text_generation_launcher.node_link import MAX_MESSAGE_BYTES, Link, LinkError, Message
from text_generation_launcher.node_terms import NodeTerms, disagreement
from text_generation_launcher.signals import StopSignals

logger = logging.getLogger(__name__)

_UNRESPONSIVE_SECONDS = 30.0  # after SIGKILL: much memory takes a while to be given back


class Nodes:
    """Owns the port that nodes come to, and the lines to those that came."""

    def __init__(self, terms: NodeTerms, secret: str, stop: StopSignals) -> None:
        """terms: what every node must bring. stop: is asked when a node is asked to stop."""
        self._terms = terms
        self._secret = secret
        self._stop = stop
        self._model: str | None = None
        self._members: dict[int, _Member] = {}
        self._changed = asyncio.Condition()
        self._is_over = False
        # What the launchers of the other nodes end with.
        self.exit_code = 1

    @asynccontextmanager
    async def listening(self, host: str, port: int) -> AsyncIterator[None]:
        """Let nodes join; in the end dismiss them, with `exit_code`. LaunchError."""
        if self._terms.nnodes == 1:
            yield
            return
        try:
            server = await asyncio.start_server(self._meet, host, port, limit=MAX_MESSAGE_BYTES)
        except OSError as error:
            raise LaunchError(
                f"--master-addr {host} --master-port {port}: node 0 cannot listen there: "
                f"{error.strerror}"
            ) from error
        try:
            yield
        finally:
            self._is_over = True
            server.close()
            for member in list(self._members.values()):
                member.link.send({"dismiss": self.exit_code})
                await member.link.close()

    async def gathered(self, model: Model, timeout: float) -> None:  # noqa: ASYNC109
        """Wait until all nodes have joined (within so many seconds) and prepared the same model, or
        a stop is asked for. LaunchError.
        """
        if self._terms.nnodes == 1:
            return
        print_ = await asyncio.to_thread(fingerprint, model)
        async with self._changed:
            self._model = print_
            for member in list(self._members.values()):
                self._check_model(member)
            self._changed.notify_all()
        stopping = asyncio.create_task(self._stop.requested.wait())
        gathering = asyncio.create_task(self._gather(timeout))
        await asyncio.wait({stopping, gathering}, return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        if gathering.done():
            gathering.result()
        gathering.cancel()

    async def member(self, node_rank: int) -> "_Member":
        """Wait until this node can start shards."""
        async with self._changed:
            await self._changed.wait_for(lambda: self._is_ready(node_rank))
            return self._members[node_rank]

    async def _gather(self, timeout: float) -> None:  # noqa: ASYNC109
        nodes = range(1, self._terms.nnodes)
        if missing := [node for node in nodes if node not in self._members]:
            logger.info("waiting for node %s", ", ".join(map(str, missing)))
        try:
            async with asyncio.timeout(timeout), self._changed:
                await self._changed.wait_for(lambda: all(node in self._members for node in nodes))
        except TimeoutError:
            missing = [node for node in nodes if node not in self._members]
            raise LaunchError(
                f"--nnodes {self._terms.nnodes}: node {', '.join(map(str, missing))} did not come "
                f"within {timeout:g} s (--node-timeout)"
            ) from None
        for node in nodes:
            await self.member(node)

    def _is_ready(self, node_rank: int) -> bool:
        member = self._members.get(node_rank)
        return self._model is not None and member is not None and member.model == self._model

    async def _meet(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """The life of one connection."""
        peer = str(writer.get_extra_info("peername")[0])
        try:
            link = await Link.accept(reader, writer, self._secret)
            await self._serve(link)
        except LinkError as error:
            logger.warning("refused %s, which came to be a node: %s", peer, error)

    async def _serve(self, link: Link) -> None:
        terms = await link.receive()
        if refusal := self._refusal(terms):
            link.send({"refusal": refusal})
            await link.close()
            raise LinkError(refusal)
        member = _Member(link, int(terms["node_rank"]))
        link.send({"welcome": True})
        logger.info("node %d joined from %s", member.node_rank, link.peer)
        await self._note(member)
        reason = "it made no sense"
        try:
            while True:
                await self._hear(member, await link.receive())
        except LinkError as error:
            reason = str(error)
        finally:
            self._members.pop(member.node_rank, None)
            loss = f"node {member.node_rank} is gone ({reason})"
            member.lose(loss)
            if not self._is_over:
                logger.warning("%s", loss)
            await link.close()

    def _refusal(self, terms: Message) -> str | None:
        if (problem := disagreement(self._terms, terms)) is not None:
            return problem
        if terms["node_rank"] in self._members:
            return f"--node-rank {terms['node_rank']}: that node is here already"
        return None

    async def _hear(self, member: "_Member", message: Message) -> None:
        if "prepared" in message:
            member.model, member.model_name = str(message["prepared"]), str(message["name"])
            self._check_model(member)
            await self._note(member)
        elif "stop" in message:
            self._stop.ask(f"node {member.node_rank} was asked to stop")
        else:
            member.hear(message)

    def _check_model(self, member: "_Member") -> None:
        """A node with another model is sent away; where both are ready."""
        if None in (self._model, member.model) or member.model == self._model:
            return
        refusal = (
            f"node {member.node_rank} has other files in {member.model_name} than node 0 has "
            "(--model-id, --revision)"
        )
        logger.warning("refused node %d: %s", member.node_rank, refusal)
        member.link.send({"refusal": refusal})

    async def _note(self, member: "_Member") -> None:
        """The member has come, or its model is ready."""
        async with self._changed:
            self._members[member.node_rank] = member
            self._changed.notify_all()


class _Member:
    """A node that has joined, and its shards."""

    def __init__(self, link: Link, node_rank: int) -> None:
        self.link = link
        self.node_rank = node_rank
        # The fingerprint of its model, once that is prepared.
        self.model: str | None = None
        self.model_name = ""
        self._shards: dict[int, RemoteShard] = {}

    def start(self, shard: "RemoteShard", rank: int, rendezvous_port: int) -> None:
        """Have it start this shard."""
        self._shards[rank] = shard
        self.link.send({"start": rank, "port": rendezvous_port})

    def hear(self, message: Message) -> None:
        """What became of a shard."""
        shard = self._shards.get(message.get("rank", -1))
        if shard is None:
            return
        if "address" in message:
            shard.listens(Endpoint(str(message["address"]), str(message["token"])))
        elif "code" in message:
            shard.ended(int(message["code"]), str(message["last_words"]))

    def lose(self, reason: str) -> None:
        """It is gone, and its shards with it."""
        for shard in self._shards.values():
            shard.ended(None, reason)


@dataclass(frozen=True, kw_only=True)
class RemoteShardCommand:
    """How to have another node start a shard."""

    nodes: Nodes
    node_rank: int
    rank: int
    socket: Path  # where the shard's endpoint is to be found here
    rendezvous_port: int

    @property
    def origin(self) -> Origin:
        return Origin("shard", self.rank)

    async def start(self, relay: LogRelay) -> "RemoteShard":  # noqa: ARG002
        """Its log is with the launcher of its node."""
        return RemoteShard(self)


class RemoteShard:
    """A `Process` on another node; it counts as running while its node is waited for."""

    def __init__(self, command: RemoteShardCommand) -> None:
        """Begins at once."""
        self.origin = command.origin
        self._command = command
        self._exit: asyncio.Future[ChildExit] = asyncio.get_running_loop().create_future()
        self._member: _Member | None = None
        self._start = asyncio.create_task(self._run())

    @property
    def is_running(self) -> bool:
        return not self._exit.done()

    async def exited(self) -> ChildExit:
        """See `Process`."""
        return await asyncio.shield(self._exit)

    def terminate(self) -> None:
        """See `Process`."""
        if self._member is None:
            self._start.cancel()
            self.ended(0, "")
        elif self.is_running:
            self._member.link.send({"terminate": self._command.rank})

    def kill(self) -> None:
        """See `Process`. A node that does not even do that is given up."""
        if self._member is None:
            self.terminate()
        elif self.is_running:
            self._member.link.send({"kill": self._command.rank})
            loop = asyncio.get_running_loop()
            loop.call_later(_UNRESPONSIVE_SECONDS, self._give_up, self._member)

    def listens(self, endpoint: Endpoint) -> None:
        """Its node says where: let the router know."""
        if self.is_running:
            endpoint.write(self._command.socket)

    def ended(self, code: int | None, last_words: str) -> None:
        """Its node says how; the first word counts."""
        if self.is_running:
            self._exit.set_result(ChildExit(self.origin, code, last_words))

    async def _run(self) -> None:
        command = self._command
        self._member = await command.nodes.member(command.node_rank)
        self._member.start(self, command.rank, command.rendezvous_port)

    def _give_up(self, member: "_Member") -> None:
        if self.is_running:
            member.lose(f"node {member.node_rank} does not answer")
            member.link.abort()
