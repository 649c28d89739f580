"""Start the shards and the router together, watch them, stop them in order.

Order of effects: shards and router are spawned at once (the router waits for the shards' sockets by
itself, which saves its start-up time); the server is ready when the router opens its port. To stop,
the router drains first, then the shards go. Whatever ends `run`, no child is left behind.

A shard that is lost while serving (it died, or the router says so in its log: `restart_requests`)
takes its group down: the others are ended, then all are started again by the same commands, and the
router finds them at their sockets. One that dies before its group is back is lost again. How often
that may happen, and for how long, is the router's to decide: when it gives up it exits, and that
ends everything.
"""

import asyncio
import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

from text_generation_launcher.child import ChildCommand, ChildExit, Command, Process
from text_generation_launcher.errors import LaunchError
from text_generation_launcher.log_relay import LogRelay
from text_generation_launcher.readiness import is_port_open, port_opens, sockets_appear
from text_generation_launcher.restart_requests import RestartRequests
from text_generation_launcher.signals import StopSignals

logger = logging.getLogger(__name__)

SHARD_GRACE_SECONDS = 10.0  # a shard has nothing to finish once the router is gone
LOST_SHARD_GRACE_SECONDS = 2.0  # the rest of a group whose work is lost
FAILURE_GRACE_SECONDS = 5.0  # for the router to end its streams with an error event
_ROUTER_MARGIN_SECONDS = 1.0  # the router keeps the grace time itself and may take all of it
_RETRY_SECONDS = 1.0  # between a death while loading and the next start
_SETTLE_SECONDS = 0.3  # one death causes others: wait for the root cause to show


class State(Enum):
    """Where a deployment stands."""

    NEW = "new"
    STARTING = "starting"
    SERVING = "serving"
    RESTARTING = "restarting"
    STOPPING = "stopping"
    STOPPED = "stopped"


_MOVES: Mapping[State, Collection[State]] = {
    State.NEW: {State.STARTING},
    State.STARTING: {State.SERVING, State.STOPPING},
    State.SERVING: {State.RESTARTING, State.STOPPING},
    State.RESTARTING: {State.SERVING, State.RESTARTING, State.STOPPING},
    State.STOPPING: {State.STOPPED},
    State.STOPPED: (),
}


@dataclass(frozen=True, kw_only=True)
class Deployment:
    """What to run and where it answers."""

    shards: Sequence[Command]
    router: ChildCommand
    hostname: str
    port: int
    grace_seconds: float
    # Where the shards listen once they are loaded, and whether lost ones are restarted.
    sockets: Sequence[Path] = ()
    restarts_shards: bool = False


class Supervisor:
    """Owns the child processes of one deployment, from `run`'s start to its end."""

    def __init__(
        self,
        deployment: Deployment,
        relay: LogRelay,
        stop: StopSignals,
        on_ready: Callable[[], None],
        requests: RestartRequests,
    ) -> None:
        """`on_ready` is called once, when the port is open."""
        self._deployment = deployment
        self._relay = relay
        self._stop = stop
        self._on_ready = on_ready
        self._requests = requests
        self._losses: tuple[str, ...] = ()
        self._failure = 1  # the exit code, if this fails
        self._state = State.NEW
        self._shards: list[Process] = []
        self._router: Process | None = None

    @property
    def state(self) -> State:
        return self._state

    async def run(self) -> int:
        """Serve until a signal comes (0) or a child dies (1, or 2 if it could not honour an option;
        after its last words are logged).
        """
        grace = FAILURE_GRACE_SECONDS
        dead: tuple[str, ...] = ()
        try:
            await self._start()
            dead = await self._until_over()
            # Without its shards the router has nothing to wait for: nobody starts them again now.
            if not dead and all(shard.is_running for shard in self._shards):
                grace = self._deployment.grace_seconds + _ROUTER_MARGIN_SECONDS
        finally:
            await self._stop_children(grace)
        for death in reversed(dead):
            logger.error("%s", death)
        return self._failure if dead or self._stop.forced.is_set() else 0

    async def _start(self) -> None:
        self._move(State.STARTING)
        for command in self._deployment.shards:
            self._shards.append(await self._spawn(command))
        self._router = await self._spawn(self._deployment.router)

    async def _spawn(self, command: Command) -> Process:
        try:
            return await command.start(self._relay)
        except OSError as error:
            raise LaunchError(f"cannot start {command.origin}: {error}") from error

    async def _until_over(self) -> tuple[str, ...]:
        """Wait for the end, restarting the shards meanwhile: who died by itself and of what, likely
        causes first; nobody if a stop is asked for.
        """
        while not self._stop.requested.is_set():
            dead = await self._watch()
            if self._stop.requested.is_set():
                break
            if self._state is State.STARTING and await self._is_open():
                self._serve()  # clients were faster to see it than the look at the port
            deaths = self._obituaries(dead)
            if self._state is State.STARTING or not self._may_restart(dead):
                logger.warning("%s died, stopping", ", ".join(str(one.origin) for one in dead))
                if self._state is State.STARTING and any(one.code == 2 for one in dead):
                    self._failure = 2
                return (*self._losses, *deaths)
            await self._restart(deaths)
        return ()

    async def _watch(self) -> list[ChildExit]:
        """Wait until something must be done; returns who is dead."""
        stop = asyncio.create_task(self._stop.requested.wait())
        asked = asyncio.create_task(self._requests.pending.wait())
        ready = asyncio.create_task(self._ready())
        deaths = [asyncio.create_task(child.exited()) for child in self._children()]
        tasks: list[asyncio.Task[Any]] = [stop, asked, ready, *deaths]
        try:
            while not stop.done() and not any(death.done() for death in deaths):
                if ready.done() and self._state is not State.SERVING:
                    self._serve()
                if asked.done() and self._state is State.SERVING:
                    break
                waiting = [task for task in tasks if not task.done()]
                await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            if not stop.done():
                await asyncio.wait(deaths, timeout=_SETTLE_SECONDS)
            # Also those whose last lines are still awaited: the router may miss a shard before.
            return [await child.exited() for child in self._children() if not child.is_running]
        finally:
            for task in tasks:
                task.cancel()

    async def _ready(self) -> None:
        """Wait for what the state lacks."""
        if self._state is State.STARTING:
            await port_opens(self._deployment.hostname, self._deployment.port)
        elif self._state is State.RESTARTING:
            await sockets_appear(self._deployment.sockets)

    async def _is_open(self) -> bool:
        return await is_port_open(self._deployment.hostname, self._deployment.port)

    def _serve(self) -> None:
        is_first = self._state is State.STARTING
        self._move(State.SERVING)
        if is_first:
            self._on_ready()
        else:
            logger.info("the shards are loaded again")

    def _may_restart(self, dead: list[ChildExit]) -> bool:
        router = self._deployment.router.origin
        return self._deployment.restarts_shards and all(one.origin != router for one in dead)

    async def _restart(self, losses: tuple[str, ...]) -> None:
        """End what is left of the group, then start all of it; not at once if it died loading."""
        if self._state is State.RESTARTING:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._stop.requested.wait(), _RETRY_SECONDS)
        self._move(State.RESTARTING)
        self._losses = losses
        for loss in losses:
            logger.error("%s", loss)
        logger.warning("restarting the shards")
        await self._end(self._shards, LOST_SHARD_GRACE_SECONDS)
        self._shards.clear()
        for socket in self._deployment.sockets:
            socket.unlink(missing_ok=True)
        self._requests.restarted()
        for command in self._deployment.shards:
            self._shards.append(await self._spawn(command))

    def _obituaries(self, dead: list[ChildExit]) -> tuple[str, ...]:
        """Shards come first, as in `dead`: the death of one ends the router, not the other way."""
        before = {
            State.STARTING: " before the server was ready",
            State.RESTARTING: " before it was ready again",
        }.get(self._state, "")
        return tuple(f"{exit_.origin} died{before}: {exit_.how}" for exit_ in dead)

    async def _stop_children(self, grace: float) -> None:
        """The router first, so that its streams end while their shards live."""
        self._move(State.STOPPING)
        if self._router is not None:
            await self._end([self._router], grace, is_urgent=grace == FAILURE_GRACE_SECONDS)
        await self._end(self._shards, min(grace, SHARD_GRACE_SECONDS))
        self._move(State.STOPPED)

    async def _end(
        self, children: Sequence[Process], grace: float, *, is_urgent: bool = False
    ) -> None:
        """SIGTERM; after `grace` seconds, or at once when forced, SIGKILL. Urgent: SIGTERM again
        half-way, on which the router tells its clients at once.
        """
        if not children:
            return
        for child in children:
            child.terminate()
        forced = asyncio.create_task(self._stop.forced.wait())
        exits = asyncio.create_task(_all_exited(children))
        ending: list[asyncio.Task[Any]] = [forced, exits]
        try:
            if is_urgent:
                grace /= 2
                await asyncio.wait(ending, timeout=grace, return_when=asyncio.FIRST_COMPLETED)
                for child in children:
                    child.terminate()
            await asyncio.wait(ending, timeout=grace, return_when=asyncio.FIRST_COMPLETED)
            for child in children:
                if child.is_running:
                    logger.warning("%s has not stopped: killed", child.origin)
                child.kill()
            await exits
        finally:
            forced.cancel()

    def _children(self) -> list[Process]:
        return self._shards + ([self._router] if self._router is not None else [])

    def _move(self, state: State) -> None:
        if state not in _MOVES[self._state]:
            raise RuntimeError(f"illegal move from {self._state.value} to {state.value}")
        self._state = state


async def _all_exited(children: Sequence[Process]) -> None:
    for child in children:
        await child.exited()
