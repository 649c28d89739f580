"""One Run stream: steps read ahead by gRPC's thread, computed in order, answered in order.

    reader    step n + 1 ──▶ compute thread: launch ──▶ answerer: wait for n, answer ──▶ gRPC

Where a device computes by itself, the compute thread launches step n + 1 while step n is computed,
and another thread waits for n and writes its answer.
"""

import logging
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
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
        # Answers to wait for; None ends them, too.
        self._launched: SimpleQueue[_Launched | None] = SimpleQueue()
        self._is_open = True
        # Touched on the compute thread only.
        self._last_step = 0

    def run(self, requests: Iterator[pb.StepRequest]) -> Iterator[pb.StepResult]:
        """Answer every step; ends after the answer to the last one, or when closed."""
        self._compute.submit(self._shard.reset)
        # Daemons: a device that hangs must not keep the process.
        threading.Thread(
            target=self._read, args=(requests,), name="step-reader", daemon=True
        ).start()
        if self._shard.computes_ahead:
            threading.Thread(target=self._answer, name="step-answerer", daemon=True).start()
        while (result := self._results.get()) is not None:
            yield result

    @property
    def is_open(self) -> bool:
        """Whether its steps are computed."""
        return self._is_open

    def close(self) -> None:
        """Compute no more of this stream's steps and end its answers."""
        self._is_open = False
        self._results.put(None)
        self._launched.put(None)

    def _read(self, requests: Iterator[pb.StepRequest]) -> None:
        try:
            for request in requests:
                self._compute.submit(partial(self._step, request))
        except grpc.RpcError:
            self.close()
            return
        self._compute.submit(lambda: self._hand_over(None))

    def _step(self, request: pb.StepRequest) -> None:
        """Compute one step, or launch it, and queue its answer; runs on the compute thread."""
        if not self._is_open:
            return
        self._progress.begin(request.step)
        try:
            if request.step != self._last_step + 1:
                raise ProtocolError(f"step {request.step} follows step {self._last_step}")
            self._last_step = request.step
            answer = self._shard.begin(request)
        except StepRejectedError as error:
            logger.error("Step %d was not computed: %s", request.step, error)
            answer = partial(_rejected, request.step, error)
        except Exception as error:  # noqa: BLE001  the shard ends: this is its last answer
            self._is_open = False
            answer = partial(_raise, error)
        self._hand_over(_Launched(request.step, answer))

    def _hand_over(self, launched: "_Launched | None") -> None:
        """Answer behind the steps that are not answered yet; None: that was all."""
        if self._shard.computes_ahead:
            self._launched.put(launched)
        elif launched is None:
            self._results.put(None)
        else:
            self._finish(launched)

    def _answer(self) -> None:
        """Wait for the steps, one after the other."""
        while (launched := self._launched.get()) is not None:
            self._finish(launched)
        self._results.put(None)

    def _finish(self, launched: "_Launched") -> None:
        try:
            result = launched.answer()
        except Exception as error:  # noqa: BLE001  the shard ends: this is its last answer
            self._results.put(_failed(launched.step, pb.StepError.KIND_FATAL, describe(error)))
            self.close()
            self._on_fatal(error)
            return
        self._progress.finish(launched.step)
        self._results.put(result)


@dataclass(frozen=True, slots=True)
class _Launched:
    """A step that was launched; answer: waits for it."""

    step: int
    answer: Callable[[], pb.StepResult]


def describe(error: BaseException) -> str:
    """An error in one line, with its type where it is not one of ours."""
    text = " ".join(str(error).split())
    return text if isinstance(error, ShardError) else f"{type(error).__name__}: {text}"


def _rejected(step: int, error: StepRejectedError) -> pb.StepResult:
    result = _failed(step, pb.StepError.KIND_RECOVERABLE, str(error))
    result.error.slots.extend(error.slots)
    return result


def _raise(error: Exception) -> pb.StepResult:
    raise error


def _failed(step: int, kind: "pb.StepError.Kind", message: str) -> pb.StepResult:
    return pb.StepResult(step=step, error=pb.StepError(kind=kind, message=message))
