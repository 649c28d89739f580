"""The shard's gRPC server and the life of its process.

    main thread      waits for: weights loaded, a signal, a fatal error
    compute thread   loads, warms up, computes; the only one that touches tensors
    gRPC's threads   read steps ahead, write answers, answer Health and Info

The socket appears when the weights are in memory: that it exists means ready.
"""

import logging
import signal
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from types import FrameType

import grpc
from text_generation_proto import shard_pb2 as pb
from text_generation_proto import shard_pb2_grpc as pb_grpc

from text_generation_shard.compute_thread import ComputeThread
from text_generation_shard.config import RankInfo, ShardConfig
from text_generation_shard.errors import CapacityError, ShardError
from text_generation_shard.host import keep_freed_memory, share_one_heap
from text_generation_shard.node_address import node_address
from text_generation_shard.shard import Shard
from text_generation_shard.step_progress import StepProgress
from text_generation_shard.step_stream import StepStream, describe
from text_generation_shard.tcp_listener import TokenCheck, bind_for_other_nodes, publish
from text_generation_shard.unix_socket import bind_privately

logger = logging.getLogger(__name__)

_OPTIONS = (
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
    ("grpc.so_reuseport", 0),
)
# Calls that may be open at one time: each holds a thread.
_NUM_WORKERS = 16
# Time for answers on their way when the server ends.
_GRACE_S = 1.0
# Time for a step in flight when the server ends.
_STOP_TIMEOUT_S = 5.0


@dataclass(frozen=True, slots=True)
class _Stopped:
    """A signal asked the process to end."""


@dataclass(frozen=True, slots=True)
class _Loaded:
    """Loading is done, well or badly."""

    shard: "Future[Shard]"


@dataclass(frozen=True, slots=True)
class _Failed:
    """Serving cannot go on."""

    error: BaseException


_Event = _Stopped | _Loaded | _Failed


class ShardServicer(pb_grpc.ShardServicer):
    """Answers the router. Shape of requests and answers: proto/shard.proto."""

    def __init__(self, shard: Shard, compute: ComputeThread, events: "SimpleQueue[_Event]") -> None:
        self._shard = shard
        self._compute = compute
        self._events = events
        self._progress = StepProgress()
        self._stream: StepStream | None = None

    def Info(  # noqa: N802
        self,
        request: pb.InfoRequest,  # noqa: ARG002
        context: grpc.ServicerContext,  # noqa: ARG002
    ) -> pb.InfoResponse:
        """Facts about the model."""
        return self._shard.info()

    def Health(  # noqa: N802
        self,
        request: pb.HealthRequest,  # noqa: ARG002
        context: grpc.ServicerContext,  # noqa: ARG002
    ) -> pb.HealthResponse:
        """The last step and the one in flight; never waits for the compute thread."""
        report = self._progress.report()
        report.has_step_stream = self._stream is not None and self._stream.is_open
        return report

    def Warmup(  # noqa: N802
        self, request: pb.WarmupRequest, context: grpc.ServicerContext
    ) -> pb.WarmupResponse:
        """Size and allocate the cache."""
        try:
            return self._compute.submit(lambda: self._shard.warm_up(request)).result()
        except CapacityError as error:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
        except ShardError as error:
            context.abort(grpc.StatusCode.FAILED_PRECONDITION, str(error))
        except Exception as error:
            self._events.put(_Failed(error))
            context.abort(grpc.StatusCode.INTERNAL, describe(error))
            raise

    def Run(  # noqa: N802
        self, request_iterator: Iterator[pb.StepRequest], context: grpc.ServicerContext
    ) -> Iterator[pb.StepResult]:
        """Steps in, results out; ends the stream before it, if there is one."""
        if not self._shard.is_warm:
            context.abort(grpc.StatusCode.FAILED_PRECONDITION, "Run before Warmup")
        stream = StepStream(
            shard=self._shard,
            compute=self._compute,
            progress=self._progress,
            on_fatal=lambda error: self._events.put(_Failed(error)),
        )
        previous, self._stream = self._stream, stream
        if previous is not None:
            previous.close()
        if not context.add_callback(stream.close):
            return
        yield from stream.run(request_iterator)


def serve(config: ShardConfig, info: RankInfo) -> int:
    """Load, serve, end; returns the exit code: 0 after SIGTERM or SIGINT, 2 where an option cannot
    be honoured, 1 after any other error.
    """
    share_one_heap()
    events: SimpleQueue[_Event] = SimpleQueue()
    _listen_for_signals(events)
    compute = ComputeThread()
    compute.start()
    loading = compute.submit(lambda: Shard.load(config, info))
    loading.add_done_callback(lambda future: events.put(_Loaded(future)))
    error = None
    with ExitStack() as cleanup:
        cleanup.callback(_stop_computing, compute, loading)
        try:
            while not isinstance(event := events.get(), _Stopped):
                if isinstance(event, _Failed):
                    raise event.error
                shard = event.shard.result()
                keep_freed_memory()
                compute.work_while_idle(shard.work_while_idle)
                servicer = ShardServicer(shard, compute, events)
                server = _listen(servicer, config, info)
                cleanup.callback(_stop_serving, server)
                path = config.socket_path(info.rank)
                logger.info("Ready", extra={"fields": {"socket": str(path), "rank": info.rank}})
        except Exception as failure:  # noqa: BLE001  the process ends with it, see below
            error = failure
    if error is None:
        return 0
    expected = isinstance(error, ShardError)
    logger.error("%s", describe(error), exc_info=None if expected else error)
    return 2 if isinstance(error, CapacityError) else 1


def start_server(servicer: ShardServicer, path: Path) -> grpc.Server:
    """Listen on a unix socket of mode 0600; SocketError if that cannot be."""
    server = grpc.server(ThreadPoolExecutor(_NUM_WORKERS), options=_OPTIONS)
    pb_grpc.add_ShardServicer_to_server(servicer, server)  # type: ignore[no-untyped-call]
    bind_privately(path, server.add_insecure_port)
    server.start()
    return server


def start_tcp_server(servicer: ShardServicer, host: str, path: Path, token: str) -> grpc.Server:
    """Listen on TCP for callers that send the token, and say at `path` where; SocketError."""
    server = grpc.server(
        ThreadPoolExecutor(_NUM_WORKERS), interceptors=[TokenCheck(token)], options=_OPTIONS
    )
    pb_grpc.add_ShardServicer_to_server(servicer, server)  # type: ignore[no-untyped-call]
    address = bind_for_other_nodes(host, server.add_insecure_port)
    server.start()
    publish(path, address, token)
    return server


def _listen(servicer: ShardServicer, config: ShardConfig, info: RankInfo) -> grpc.Server:
    path = config.socket_path(info.rank)
    if config.tcp_token is None:
        return start_server(servicer, path)
    return start_tcp_server(servicer, node_address(info), path, config.tcp_token)


def _stop_serving(server: grpc.Server) -> None:
    server.stop(_GRACE_S).wait()


def _stop_computing(compute: ComputeThread, loading: "Future[Shard]") -> None:
    """End the compute thread. It is a daemon: what hangs in a collective ends with the process."""
    if loading.done() and loading.exception() is None:
        compute.submit(loading.result().close)
    if not compute.stop(_STOP_TIMEOUT_S):
        logger.warning("Ending in the middle of a step or of loading")


def _listen_for_signals(events: "SimpleQueue[_Event]") -> None:
    def stop(_number: int, _frame: FrameType | None) -> None:
        events.put(_Stopped())

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
