"""The shards as the engine sees them: one group that takes numbered steps and answers in order.

ShardError
  ├─ ShardUnavailableError   a shard did not come up, or the ranks do not fit together
  ├─ ShardRefusedError       a shard is up and cannot do what it is asked: waiting changes nothing
  │    └─ ShardOptionError   as above, and an option is to blame
  └─ ShardFailedError        a shard or its stream broke while serving: the group is gone
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Any, TypeVar

import grpc.aio
from text_generation_process.endpoint import Endpoint
from text_generation_process.socket_file import SocketFile
from text_generation_proto import shard_pb2, shard_pb2_grpc

from text_generation_router.engine.wire import StepReply

_POLL_SECONDS = 0.02
_CHANNEL_OPTIONS = (
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.enable_http_proxy", 0),  # shards are in one's own network
    # A socket's file is there a moment before somebody listens.
    ("grpc.initial_reconnect_backoff_ms", 20),
    ("grpc.min_reconnect_backoff_ms", 20),
    ("grpc.max_reconnect_backoff_ms", 500),
)
_HEALTH_TIMEOUT = 2.0
# What the ranks of one model must say alike.
_EQUAL_FACTS = ("model_type", "dtype", "device_type", "vocab_size", "decoder_start_token_id")

MessageT = TypeVar("MessageT")


class ShardError(Exception):
    """See the module's tree."""


class ShardUnavailableError(ShardError):
    """A shard cannot be used; the text names its socket or address."""


class ShardRefusedError(ShardError):
    """A shard will not serve; the text is the shard's."""


class ShardOptionError(ShardRefusedError):
    """A shard will not serve with these options; the text names the flag."""


class ShardFailedError(ShardError):
    """The shards can no longer keep step."""


_REFUSALS = {
    grpc.StatusCode.FAILED_PRECONDITION: ShardRefusedError,
    grpc.StatusCode.INVALID_ARGUMENT: ShardOptionError,
}


class _Rank:
    """One shard's channel and stream. A read is always under way, and tells why the stream ended;
    steps are written by a task of its own, so that who sends one does not wait for gRPC.
    """

    def __init__(self, uds_path: str, on_answer: Callable[[], None]) -> None:
        self._on_answer = on_answer
        # A rank on another node has a file that says where, instead of a socket.
        endpoint = Endpoint.at(uds_path)
        self.place = uds_path if endpoint is None else endpoint.address
        self.metadata = () if endpoint is None else endpoint.metadata
        target = f"unix:{uds_path}" if endpoint is None else endpoint.address
        self.channel = grpc.aio.insecure_channel(target, options=_CHANNEL_OPTIONS)
        self.stub: Any = shard_pb2_grpc.ShardStub(self.channel)  # type: ignore[no-untyped-call]
        self.stream: Any = None
        # Answers that nobody has taken, and what ended the stream.
        self.results: deque[shard_pb2.StepResult] = deque()
        self.error: ShardFailedError | None = None
        self._unsent: asyncio.Queue[shard_pb2.StepRequest] = asyncio.Queue()
        self._tasks: list[asyncio.Task[None]] = []

    def open(self) -> None:
        """Open the step stream."""
        self.stream = self.stub.Run(metadata=self.metadata)
        self._tasks = [asyncio.create_task(self._read()), asyncio.create_task(self._write())]

    def send(self, request: shard_pb2.StepRequest) -> None:
        """Write a step behind those that were sent before; begins when the event loop turns."""
        self._unsent.put_nowait(request)

    async def close(self) -> None:
        """End stream and channel."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self.stream is not None:
            self.stream.cancel()
        await self.channel.close(None)

    async def _read(self) -> None:
        try:
            while isinstance(result := await self.stream.read(), shard_pb2.StepResult):
                self.results.append(result)
                self._on_answer()
            self.error = ShardFailedError(f"the shard at {self.place} ended its stream")
        except grpc.aio.AioRpcError as broken:
            self.error = ShardFailedError(_describe(self, broken))
        self._on_answer()

    async def _write(self) -> None:
        # A write that fails does not say why the stream is over; the read will.
        with suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):
            while True:
                await self.stream.write(await self._unsent.get())


class ShardGroup:
    """Owns the channels to all ranks. `connect`, `warm_up`, `open`, then `send` and `take_reply`
    step by step; `close` is safe at any time and twice.
    """

    def __init__(self, uds_paths: Sequence[str], on_answer: Callable[[], None]) -> None:
        """on_answer: called when a rank has answered, or broke: there may be a reply to take."""
        self._uds_paths = list(uds_paths)
        self._on_answer = on_answer
        self._ranks: list[_Rank] = []
        # Why no reply of these ranks counts any longer.
        self._failure: ShardFailedError | None = None
        # The sockets that were connected last; a restarted shard has another one.
        self._known_sockets: list[SocketFile | None] = [None] * len(self._uds_paths)

    @property
    def known_sockets(self) -> list[str]:
        """The socket files of the group that was connected last."""
        return [str(socket) for socket in self._known_sockets if socket is not None]

    async def connect(self, timeout: float | None) -> shard_pb2.InfoResponse:  # noqa: ASYNC109
        """Wait for the sockets and ask every rank who it is (each within `timeout` seconds, or for
        ever); they must be ranks 0, 1, ... of one group that serves one model. Returns rank 0's
        answer. Raises `ShardUnavailableError`.

        After a `close`, sockets that were connected before do not count: who listens there is lost
        or about to end, even if it still answers.
        """
        try:
            async with asyncio.timeout(timeout):
                while self._missing():  # noqa: ASYNC110  sockets appear
                    await asyncio.sleep(_POLL_SECONDS)
        except TimeoutError as error:
            missing = self._missing()
            raise ShardUnavailableError(
                f"no shard appeared at {', '.join(missing)} within {timeout:g} s"
            ) from error
        while True:
            sockets = self._sockets()
            self._ranks = [_Rank(path, self._on_answer) for path in self._uds_paths]
            infos: list[shard_pb2.InfoResponse] = await self._ask_all(
                lambda rank: rank.stub.Info(
                    shard_pb2.InfoRequest(),
                    wait_for_ready=True,
                    timeout=timeout,
                    metadata=rank.metadata,
                )
            )
            if sockets == self._sockets():
                break
            await self.close()  # one was started anew meanwhile: which of the two has answered?
        self._check_agreement(infos)
        self._known_sockets = sockets
        return infos[0]

    async def warm_up(self, request: shard_pb2.WarmupRequest) -> shard_pb2.WarmupResponse:
        """Let all ranks size their caches at the same time; what the smallest of them can serve,
        all can. Raises `ShardUnavailableError` or `ShardRefusedError`.
        """
        replies: list[shard_pb2.WarmupResponse] = await self._ask_all(
            lambda rank: rank.stub.Warmup(request, metadata=rank.metadata)
        )
        common = replies[0]
        common.num_blocks = min(reply.num_blocks for reply in replies)
        common.max_total_tokens = min(reply.max_total_tokens for reply in replies)
        return common

    def open(self) -> None:
        """Open the step streams; the shards start from nothing."""
        for rank in self._ranks:
            rank.open()

    def send(self, request: shard_pb2.StepRequest) -> None:
        """Send a step to every rank; that one is gone shows where replies are taken."""
        for rank in self._ranks:
            rank.send(request)

    def take_reply(self) -> StepReply | None:
        """The next step's result; None until every rank has answered. Raises `ShardFailedError`
        when a stream broke, a rank gave up, or the ranks disagree.
        """
        if self._failure is not None:
            raise self._failure
        if not self._ranks or not all(rank.results for rank in self._ranks):
            self._require_streams()
            return None
        results = [rank.results.popleft() for rank in self._ranks]
        try:
            self._check_lockstep(results)
        except ShardFailedError as failure:
            self._failure = failure
            raise
        return StepReply(
            results[0],
            max(result.total_us for result in results),
            max(result.forward_us for result in results),
        )

    async def require_answers(self) -> None:
        """Ask all ranks how they are. Raises `ShardUnavailableError` if one does not answer."""
        await self._ask_all(
            lambda rank: rank.stub.Health(
                shard_pb2.HealthRequest(), timeout=_HEALTH_TIMEOUT, metadata=rank.metadata
            )
        )

    async def close(self) -> None:
        """End the streams and close the channels."""
        ranks, self._ranks = self._ranks, []
        self._failure = None
        for rank in ranks:
            await rank.close()

    def _sockets(self) -> list[SocketFile | None]:
        return [SocketFile.at(path) for path in self._uds_paths]

    def _missing(self) -> list[str]:
        """Paths where no shard has appeared that was not connected before."""
        known = self._known_sockets
        return [
            path
            for path, before in zip(self._uds_paths, known, strict=True)
            if (now := SocketFile.at(path)) is None or now == before
        ]

    async def _ask_all(self, call: Callable[[_Rank], Awaitable[MessageT]]) -> list[MessageT]:
        async def ask(rank: _Rank) -> MessageT:
            try:
                return await call(rank)
            except grpc.aio.AioRpcError as error:
                kind = _REFUSALS.get(error.code(), ShardUnavailableError)
                raise kind(_describe(rank, error)) from error

        return list(await asyncio.gather(*(ask(rank) for rank in self._ranks)))

    def _check_agreement(self, infos: Sequence[shard_pb2.InfoResponse]) -> None:
        for index, (rank, info) in enumerate(zip(self._ranks, infos, strict=True)):
            if (info.rank, info.world_size) != (index, len(infos)):
                raise ShardUnavailableError(
                    f"the shard at {rank.place} is rank {info.rank} of {info.world_size}, "
                    f"expected rank {index} of {len(infos)}"
                )
            for name in _EQUAL_FACTS:
                ours, theirs = getattr(infos[0], name), getattr(info, name)
                if ours != theirs:
                    raise ShardUnavailableError(
                        f"the shards disagree about {name}: rank 0 has {ours!r}, "
                        f"rank {index} has {theirs!r}"
                    )

    def _require_streams(self) -> None:
        """A rank may break while another computes, or waits for it in vain."""
        for index, rank in enumerate(self._ranks):
            if rank.error is not None:
                for result in rank.results:
                    _require_success(index, result)
                raise rank.error

    def _check_lockstep(self, results: Sequence[shard_pb2.StepResult]) -> None:
        first = results[0]
        for index, result in enumerate(results):
            _require_success(index, result)
            if result.step != first.step:
                raise ShardFailedError(
                    f"rank {index} answered step {result.step}, rank 0 step {first.step}"
                )
            if result.HasField("error") != first.HasField("error"):
                failing = result if result.HasField("error") else first
                raise ShardFailedError(
                    f"step {first.step} failed on some ranks only: {failing.error.message}"
                )
            if result.sampled_checksum != first.sampled_checksum:
                raise ShardFailedError(
                    f"rank {index} sampled other tokens than rank 0 in step {first.step}"
                )


def _require_success(rank: int, result: shard_pb2.StepResult) -> None:
    """Raise `ShardFailedError` for a rank's last words; after any other error it goes on."""
    if result.HasField("error") and result.error.kind != shard_pb2.StepError.KIND_RECOVERABLE:
        raise ShardFailedError(f"rank {rank} failed: {result.error.message}")


def _describe(rank: _Rank, error: grpc.aio.AioRpcError) -> str:
    return f"the shard at {rank.place} failed: {error.code().name} {error.details()}".strip()
