"""The router's end of the processes that try grammars out."""

import queue
import subprocess
import sys
import threading

import msgspec

_PROGRAM = (sys.executable, "-m", "text_generation_router.grammar.checker")
# More than any grammar can take of one processor, on a machine that has much else to do.
_MAX_WAIT_S = 60.0


class CheckerProcess:
    """Owner of one process, which is started when it is needed. Used by one thread at a time, but
    for `close`, which is safe twice.
    """

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None

    def find_fault(self, grammar: str) -> str:
        """Why a grammar cannot be enforced; empty if it can. Waits for the answer; `RuntimeError`
        if there is no working process.
        """
        process = self._running()
        assert process.stdin is not None
        assert process.stdout is not None
        watch = threading.Timer(_MAX_WAIT_S, process.kill)
        watch.start()
        try:
            process.stdin.write(msgspec.json.encode(grammar) + b"\n")
            process.stdin.flush()
            answer = process.stdout.readline()
        except (OSError, ValueError):  # ended, or closed, by another thread
            answer = b""
        finally:
            watch.cancel()
        if not answer:
            code = process.wait()
            self.close()
            if code >= 0:  # by itself, not by a signal of the system
                raise RuntimeError(f"the process that tries grammars out ended with code {code}")
            return "the grammar takes too much time or memory"
        return msgspec.json.decode(answer, type=str)

    def _running(self) -> "subprocess.Popen[bytes]":
        if self._process is None or self._process.poll() is not None:
            self.close()
            self._process = subprocess.Popen(
                _PROGRAM, stdin=subprocess.PIPE, stdout=subprocess.PIPE
            )
        return self._process

    def close(self) -> None:
        """End the process."""
        process, self._process = self._process, None
        if process is None:
            return
        process.kill()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                pipe.close()
        process.wait()


class CheckerPool:
    """A few processes and whoever waits for one of them."""

    def __init__(self, num_processes: int) -> None:
        self._all = [CheckerProcess() for _ in range(num_processes)]
        # Last in, first out: what one process can do, no second is started for.
        self._idle: queue.LifoQueue[CheckerProcess] = queue.LifoQueue()
        for process in self._all:
            self._idle.put(process)

    def find_fault(self, grammar: str) -> str:
        """Why a grammar cannot be enforced; empty if it can. Blocks its thread."""
        process = self._idle.get()
        try:
            return process.find_fault(grammar)
        finally:
            self._idle.put(process)

    def close(self) -> None:
        """End all processes; whoever waits for one is told that the grammar takes too much."""
        for process in self._all:
            process.close()
