"""The one thread that touches tensors: jobs in, in order, answers through futures."""

import threading
from collections.abc import Callable
from concurrent.futures import Future
from queue import Empty, SimpleQueue
from typing import TypeVar

import torch

# Without a job for so long, and again for so long, nothing is asked for just now: a router that has
# more to compute sends the next step within a fraction of it.
_IDLE_SECONDS = 0.01

ResultT = TypeVar("ResultT")


class ComputeThread:
    """Runs jobs one after the other. A thread of its own also keeps torch's pool of helpers single:
    every thread that computes would get another one.
    """

    def __init__(self) -> None:
        self._jobs: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._idle_work: Callable[[], bool] | None = None
        self._thread = threading.Thread(target=self._run, name="compute", daemon=True)

    def start(self) -> None:
        """Begin to take jobs."""
        self._thread.start()

    def work_while_idle(self, work: Callable[[], bool]) -> None:
        """From now on call this while nothing is queued, again and again while it says that there
        is more of it. It must not fail.
        """
        self._idle_work = work

    def submit(self, job: Callable[[], ResultT]) -> "Future[ResultT]":
        """Queue a job; its result or exception arrives in the future."""
        future: Future[ResultT] = Future()

        def run() -> None:
            try:
                future.set_result(job())
            except BaseException as error:  # noqa: BLE001  it is raised where the result is asked for
                future.set_exception(error)

        self._jobs.put(run)
        return future

    def stop(self, timeout: float) -> bool:
        """End after the jobs queued so far; False if they took longer than `timeout` seconds."""
        self._jobs.put(None)
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def _run(self) -> None:
        with torch.inference_mode():
            while (job := self._next()) is not None:
                job()

    def _next(self) -> Callable[[], None] | None:
        """The next job, after what is done until it comes."""
        work = self._idle_work
        pauses = 0
        while work is not None:
            try:
                return self._jobs.get(timeout=_IDLE_SECONDS)
            except Empty:
                pauses += 1
            if pauses > 1 and not work():
                break
        return self._jobs.get()
