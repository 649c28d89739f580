"""Start the shards and the router together, watch them, stop them in order.

Order of effects: shards and router are spawned at once (the router waits for the shards' sockets by
itself, which saves its start-up time); the server is ready when the router opens its port. To stop,
the router drains first, then the shards go. Whatever ends `run`, no child is left behind.
"""

import asyncio
import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

from text_generation_launcher.child import Child, ChildCommand, ChildExit
from text_generation_launcher.errors import LaunchError
from text_generation_launcher.log_relay import LogRelay
from text_generation_launcher.readiness import port_opens
from text_generation_launcher.signals import StopSignals

logger = logging.getLogger(__name__)

SHARD_GRACE_SECONDS = 10.0  # a shard has nothing to finish once the router is gone
FAILURE_GRACE_SECONDS = 5.0  # for the router to end its streams with an error event
_ROUTER_MARGIN_SECONDS = 1.0  # the router keeps the grace time itself and may take all of it
_SETTLE_SECONDS = 0.3  # one death causes others: wait for the root cause to show


class State(Enum):
    """Where a deployment stands."""

    NEW = "new"
    STARTING = "starting"
    SERVING = "serving"
    STOPPING = "stopping"
    STOPPED = "stopped"


_MOVES: Mapping[State, Collection[State]] = {
    State.NEW: {State.STARTING},
    State.STARTING: {State.SERVING, State.STOPPING},
    State.SERVING: {State.STOPPING},
    State.STOPPING: {State.STOPPED},
    State.STOPPED: (),
}


@dataclass(frozen=True, kw_only=True)
class Deployment:
    """What to run and where it answers."""

    shards: Sequence[ChildCommand]
    router: ChildCommand
    hostname: str
    port: int
    grace_seconds: float


class Supervisor:
    """Owns the child processes of one deployment, from `run`'s start to its end."""

    def __init__(
        self,
        deployment: Deployment,
        relay: LogRelay,
        stop: StopSignals,
        on_ready: Callable[[], None],
    ) -> None:
        """`on_ready` is called once, when the port is open."""
        self._deployment = deployment
        self._relay = relay
        self._stop = stop
        self._on_ready = on_ready
        self._state = State.NEW
        self._shards: list[Child] = []
        self._router: Child | None = None

    @property
    def state(self) -> State:
        return self._state

    async def run(self) -> int:
        """Serve until a signal comes (0) or a child dies (1, after its last words are logged)."""
        grace = FAILURE_GRACE_SECONDS
        dead: tuple[str, ...] = ()
        try:
            await self._start()
            dead = await self._watch()
            if not dead:
                grace = self._deployment.grace_seconds + _ROUTER_MARGIN_SECONDS
        finally:
            await self._stop_children(grace)
        for death in reversed(dead):
            logger.error("%s", death)
        return 1 if dead or self._stop.forced.is_set() else 0

    async def _start(self) -> None:
        self._move(State.STARTING)
        for command in self._deployment.shards:
            self._shards.append(await self._spawn(command))
        self._router = await self._spawn(self._deployment.router)

    async def _spawn(self, command: ChildCommand) -> Child:
        try:
            return await Child.start(command, self._relay)
        except OSError as error:
            raise LaunchError(f"cannot start {command.origin}: {error}") from error

    async def _watch(self) -> tuple[str, ...]:
        """Wait for the end: who died by itself and of what, likely causes first; nobody if a stop
        is asked for.
        """
        stop = asyncio.create_task(self._stop.requested.wait())
        ready = asyncio.create_task(port_opens(self._deployment.hostname, self._deployment.port))
        deaths = [asyncio.create_task(child.exited()) for child in self._children()]
        tasks: list[asyncio.Task[Any]] = [stop, ready, *deaths]
        try:
            while not stop.done() and not any(death.done() for death in deaths):
                waiting = [task for task in tasks if not task.done()]
                await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
                if ready.done() and self._state is State.STARTING:
                    self._serve()
            if stop.done():
                return ()
            await asyncio.wait(deaths, timeout=_SETTLE_SECONDS)
            return self._obituaries([death.result() for death in deaths if death.done()])
        finally:
            for task in tasks:
                task.cancel()

    def _serve(self) -> None:
        self._move(State.SERVING)
        self._on_ready()

    def _obituaries(self, dead: list[ChildExit]) -> tuple[str, ...]:
        """Shards come first, as in `dead`: the death of one ends the router, not the other way."""
        logger.warning("%s died, stopping", ", ".join(str(exit_.origin) for exit_ in dead))
        before = " before the server was ready" if self._state is State.STARTING else ""
        return tuple(f"{exit_.origin} died{before}: {exit_.how}" for exit_ in dead)

    async def _stop_children(self, grace: float) -> None:
        """The router first, so that its streams end while their shards live."""
        self._move(State.STOPPING)
        if self._router is not None:
            await self._end([self._router], grace)
        await self._end(self._shards, min(grace, SHARD_GRACE_SECONDS))
        self._move(State.STOPPED)

    async def _end(self, children: Sequence[Child], grace: float) -> None:
        """SIGTERM; after `grace` seconds, or at once when forced, SIGKILL."""
        if not children:
            return
        for child in children:
            child.terminate()
        forced = asyncio.create_task(self._stop.forced.wait())
        exits = asyncio.create_task(_all_exited(children))
        ending: list[asyncio.Task[Any]] = [forced, exits]
        try:
            await asyncio.wait(ending, timeout=grace, return_when=asyncio.FIRST_COMPLETED)
            for child in children:
                if child.is_running:
                    logger.warning("%s has not stopped: killed", child.origin)
                child.kill()
            await exits
        finally:
            forced.cancel()

    def _children(self) -> list[Child]:
        return self._shards + ([self._router] if self._router is not None else [])

    def _move(self, state: State) -> None:
        if state not in _MOVES[self._state]:
            raise RuntimeError(f"illegal move from {self._state.value} to {state.value}")
        self._state = state


async def _all_exited(children: Sequence[Child]) -> None:
    for child in children:
        await child.exited()
