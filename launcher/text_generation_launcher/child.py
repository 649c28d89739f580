"""One child process of the launcher."""

import asyncio
import os
import signal
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Protocol, cast

from text_generation_launcher.log_lines import LineSplitter
from text_generation_launcher.log_relay import LastWords, LogRelay, Origin

_STDOUT, _STDERR = 1, 2
_DRAIN_SECONDS = 1.0  # for the last lines; something that the child started may hold the pipe


class Process(Protocol):
    """A process that was started, here or by the launcher of another node."""

    @property
    def origin(self) -> Origin: ...

    @property
    def is_running(self) -> bool: ...

    async def exited(self) -> "ChildExit":
        """Wait for the end. May be called (and cancelled) any number of times."""
        ...

    def terminate(self) -> None:
        """Ask it to stop."""

    def kill(self) -> None:
        """End it and whatever it started."""


class Command(Protocol):
    """How to start a process."""

    @property
    def origin(self) -> Origin: ...

    async def start(self, relay: LogRelay) -> Process:
        """Start it; OSError if that cannot be."""
        ...


@dataclass(frozen=True, kw_only=True)
class ChildCommand:
    """How to start a child."""

    origin: Origin
    argv: tuple[str, ...]
    environment: Mapping[str, str] = field(repr=False)

    async def start(self, relay: LogRelay) -> "Child":
        """See `Child.start`."""
        return await Child.start(self, relay)


@dataclass(frozen=True)
class ChildExit:
    """How a child ended. A negative code is the number of the signal that killed it; None: it was
    on another node, which is gone as the last words say.
    """

    origin: Origin
    code: int | None
    last_words: str

    @property
    def how(self) -> str:
        """`exited with code 1: <last words>`."""
        if self.code is None:
            return f"is lost: {self.last_words}"
        ending = f"exited with code {self.code}" if self.code >= 0 else self._killed(-self.code)
        return ending + (f": {self.last_words}" if self.last_words else "")

    @staticmethod
    def _killed(number: int) -> str:
        name = signal.Signals(number).name
        hint = " (was the machine out of memory?)" if number == signal.SIGKILL else ""
        return f"was killed by {name}{hint}"


class Child:
    """Owns one process from its start to its exit; its lines go to the relay as they come.

    It leads a session of its own: a terminal's Ctrl-C reaches the launcher alone, and what the
    child started can be killed with it.
    """

    def __init__(
        self, origin: Origin, transport: asyncio.SubprocessTransport, output: "_Output"
    ) -> None:
        """Use `start`."""
        self.origin = origin
        self._transport = transport
        self._output = output
        self._exit = asyncio.create_task(self._reap())

    @classmethod
    async def start(cls, command: ChildCommand, relay: LogRelay) -> "Child":
        """Start the process; OSError if the program cannot be run."""
        loop = asyncio.get_running_loop()
        transport, protocol = await loop.subprocess_exec(
            lambda: _Output(command.origin, relay),
            *command.argv,
            env=dict(command.environment),
            stdin=asyncio.subprocess.DEVNULL,
            start_new_session=True,
        )
        return cls(command.origin, transport, protocol)

    @property
    def is_running(self) -> bool:
        return self._transport.get_returncode() is None

    async def exited(self) -> ChildExit:
        """Wait for the end, and for the last lines. May be called (and cancelled) any number of
        times.
        """
        return await asyncio.shield(self._exit)

    def terminate(self) -> None:
        """Ask it to stop."""
        if self.is_running:
            # Not by the transport: it may reap the process before the event loop sees its end.
            with suppress(ProcessLookupError):
                os.kill(self._transport.get_pid(), signal.SIGTERM)

    def kill(self) -> None:
        """End it and whatever it started."""
        if self.is_running:
            with suppress(ProcessLookupError):
                os.killpg(self._transport.get_pid(), signal.SIGKILL)

    async def _reap(self) -> ChildExit:
        code = await self._output.exit_code
        await asyncio.wait([self._output.closed], timeout=_DRAIN_SECONDS)
        self._output.finish()
        self._transport.close()
        return ChildExit(self.origin, code, str(self._output.last_words))


class _Output(asyncio.SubprocessProtocol):
    """What the event loop tells about the process: its bytes, the end of its pipes, its exit."""

    def __init__(self, origin: Origin, relay: LogRelay) -> None:
        loop = asyncio.get_running_loop()
        self.exit_code: asyncio.Future[int] = loop.create_future()
        self.closed: asyncio.Future[None] = loop.create_future()
        self.last_words = LastWords()
        self._origin = origin
        self._relay = relay
        self._splitters = {_STDOUT: LineSplitter(), _STDERR: LineSplitter()}
        self._open_pipes = {_STDOUT, _STDERR}
        self._transport: asyncio.SubprocessTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.SubprocessTransport", transport)

    def pipe_data_received(self, fd: int, data: bytes) -> None:
        for line in self._splitters[fd].feed(data):
            self._write(fd, line)

    def pipe_connection_lost(self, fd: int, exc: Exception | None) -> None:  # noqa: ARG002
        self._open_pipes.discard(fd)
        if not self._open_pipes and not self.closed.done():
            self.closed.set_result(None)

    def process_exited(self) -> None:
        assert self._transport is not None
        code = self._transport.get_returncode()
        assert code is not None
        self.exit_code.set_result(code)

    def finish(self) -> None:
        """Write the lines that the child did not end."""
        for fd, splitter in self._splitters.items():
            for line in splitter.finish():
                self._write(fd, line)

    def _write(self, fd: int, line: str) -> None:
        self._relay.line(self._origin, line, is_stderr=fd == _STDERR, last_words=self.last_words)
