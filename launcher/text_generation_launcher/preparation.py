"""Have a model downloaded or converted by a child process."""

import asyncio
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from text_generation_launcher.child import Child, ChildCommand
from text_generation_launcher.commands import download_command
from text_generation_launcher.config import LauncherConfig
from text_generation_launcher.errors import LaunchError
from text_generation_launcher.log_relay import LogRelay, Observer, Origin, Record
from text_generation_launcher.model import Model, find_local
from text_generation_launcher.progress import ProgressDisplay
from text_generation_launcher.resolve import Resolved
from text_generation_launcher.signals import StopSignals

logger = logging.getLogger(__name__)

_STOP_GRACE_SECONDS = 10.0


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What a launch on any node begins with."""

    config: LauncherConfig
    environment: Mapping[str, str]
    resolved: Resolved
    stop: StopSignals
    progress: ProgressDisplay


async def prepared_model(setting: Setting) -> Model | None:
    """The model's local files; None if a stop is asked for while they are fetched."""
    model_id = setting.config.model_id
    model = find_local(model_id)
    if model is not None:
        if setting.config.revision is not None:
            logger.warning(
                "--revision %s is without effect: the model is in the local directory %s",
                setting.config.revision,
                model.path,
            )
        return model
    assert model_id is not None, "the demo model is local, or an error"
    command = download_command(setting.config, model_id, setting.environment)
    return await prepare(command, model_id, setting.progress.observe, setting.stop)


class _PathListener:
    """Hears the child's last word on success: a record with the field `model_path`."""

    def __init__(self, observer: Observer) -> None:
        self._observer = observer
        self.model_path: str | None = None

    def observe(self, origin: Origin, record: Record) -> bool:
        if "model_path" in record:
            self.model_path = str(record["model_path"])
        return self._observer(origin, record)


async def prepare(
    command: ChildCommand, model_id: str, observer: Observer, stop: StopSignals
) -> Model | None:
    """Run the command to its end; None if a stop is asked for meanwhile.

    LaunchError with the child's last words if it fails.
    """
    listener = _PathListener(observer)
    child = await Child.start(command, LogRelay(listener.observe))
    if await _stopped(child, stop):
        return None
    ending = await child.exited()
    if ending.code != 0:
        raise LaunchError(f"cannot prepare --model-id {model_id}: download {ending.how}")
    if listener.model_path is None:
        raise LaunchError(f"cannot prepare --model-id {model_id}: download did not say where it is")
    return Model(Path(listener.model_path), model_id)


async def _stopped(child: Child, stop: StopSignals) -> bool:
    """Wait for the child's end (False), or end it because a stop is asked for (True)."""
    asked = asyncio.create_task(stop.requested.wait())
    ended = asyncio.create_task(child.exited())
    try:
        await asyncio.wait({asked, ended}, return_when=asyncio.FIRST_COMPLETED)
        if not asked.done():
            return False
        child.terminate()
        forced = asyncio.create_task(stop.forced.wait())
        await asyncio.wait(
            {forced, ended}, timeout=_STOP_GRACE_SECONDS, return_when=asyncio.FIRST_COMPLETED
        )
        forced.cancel()
        return True
    finally:
        asked.cancel()
        child.kill()
        await child.exited()
