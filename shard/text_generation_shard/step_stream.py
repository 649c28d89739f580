"""One Run stream: steps read ahead by gRPC's thread, computed in order, answered in order."""

import logging
import threading
from collections.abc import Callable, Iterator
from functools import partial
from queue import SimpleQueue

import grpc
from text_generation_proto import shard_pb2 as pb

from text_generation_shard.compute_thread import ComputeThread
from text_generation_shard.errors import ProtocolError, ShardError, StepRejectedError
from text_generation_shard.shard import Shard
from text_generation_shard.step_progress import StepProgress

logger = logging.getLogger(__name__)


class StepStream:
    """Runs the steps of one stream until the router ends it, another stream begins, or it fails."""

    def __init__(
        self,
        *,
        shard: Shard,
        compute: ComputeThread,
        progress: StepProgress,
        on_fatal: Callable[[Exception], None],
    ) -> None:
        self._shard = shard
        self._compute = compute
        self._progress = progress
        self._on_fatal = on_fatal
        # None ends the answers.
        self._results: SimpleQueue[pb.StepResult | None] = SimpleQueue()
        self._is_open = True
        # Touched on the compute thread only.
        self._last_step = 0

    def run(self, requests: Iterator[pb.StepRequest]) -> Iterator[pb.StepResult]:
        """Answer every step; ends after the answer to the last one, or when closed."""
        self._compute.submit(self._shard.reset)
        threading.Thread(
            target=self._read, args=(requests,), name="step-reader", daemon=True
        ).start()
        while (result := self._results.get()) is not None:
            yield result

    def close(self) -> None:
        """Compute no more of this stream's steps and end its answers."""
        self._is_open = False
        self._results.put(None)

    def _read(self, requests: Iterator[pb.StepRequest]) -> None:
        try:
            for request in requests:
                self._compute.submit(partial(self._step, request))
        except grpc.RpcError:
            self.close()
            return
        self._compute.submit(lambda: self._results.put(None))

    def _step(self, request: pb.StepRequest) -> None:
        """Compute one step and queue its answer; runs on the compute thread."""
        if not self._is_open:
            return
        self._progress.begin(request.step)
        try:
            if request.step != self._last_step + 1:
                raise ProtocolError(f"step {request.step} follows step {self._last_step}")
            self._last_step = request.step
            result = self._shard.step(request)
        except StepRejectedError as error:
            logger.error("Step %d was not computed: %s", request.step, error)
            result = _failed(request.step, pb.StepError.KIND_RECOVERABLE, str(error))
            result.error.slots.extend(error.slots)
        except Exception as error:  # noqa: BLE001  the shard ends: this is its last answer
            self._results.put(_failed(request.step, pb.StepError.KIND_FATAL, describe(error)))
            self.close()
            self._on_fatal(error)
            return
        self._progress.finish(request.step)
        self._results.put(result)


def describe(error: BaseException) -> str:
    """An error in one line, with its type where it is not one of ours."""
    text = " ".join(str(error).split())
    return text if isinstance(error, ShardError) else f"{type(error).__name__}: {text}"


def _failed(step: int, kind: "pb.StepError.Kind", message: str) -> pb.StepResult:
    return pb.StepResult(step=step, error=pb.StepError(kind=kind, message=message))
