"""The child that downloads or converts a model."""

import asyncio
import itertools
import json
import signal
from pathlib import Path

import pytest
from text_generation_launcher.errors import LaunchError
from text_generation_launcher.log_relay import Origin
from text_generation_launcher.model import Model
from text_generation_launcher.preparation import prepare
from text_generation_launcher.signals import StopSignals

from tests.fakes.children import script

ORIGIN = Origin("download")


def said(level="INFO", **fields):
    """Python source that writes a record."""
    line = json.dumps({"level": level, "target": "weights", "message": "said", **fields})
    return f"print({line!r}, flush=True)\n"


async def run(source, *, stop=None, observer=lambda origin, record: False):
    stop = stop or StopSignals()
    return await asyncio.wait_for(
        prepare(script(ORIGIN, source), "someone/tiny", observer, stop), timeout=60
    )


async def test_the_last_record_says_where_the_model_is():
    seen = []
    source = said(bytes_done=1, bytes_total=2) + said(model_path="/cache/tiny")
    model = await run(source, observer=lambda origin, record: seen.append(record) or False)
    assert model == Model(Path("/cache/tiny"), "someone/tiny")
    assert len(seen) == 2


async def test_a_failure_is_told_with_its_reason():
    source = said("ERROR", exception="RepositoryNotFound: someone/tiny") + "raise SystemExit(1)"
    with pytest.raises(LaunchError, match=r"someone/tiny: .*code 1.*RepositoryNotFound"):
        await run(source)


async def test_success_without_a_path_is_a_failure():
    with pytest.raises(LaunchError, match="did not say where"):
        await run("")


@pytest.mark.parametrize("number_of_signals", [1, 2])
async def test_a_signal_ends_it(number_of_signals):
    stubborn = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
    up = asyncio.Event()
    seconds = itertools.count()
    stop = StopSignals(clock=lambda: next(seconds))
    source = (stubborn if number_of_signals == 2 else "") + said() + "import time; time.sleep(60)"
    running = asyncio.create_task(
        run(source, stop=stop, observer=lambda origin, record: up.set() or True)
    )
    await asyncio.wait_for(up.wait(), 30)
    for _ in range(number_of_signals):
        stop.receive(signal.SIGTERM)
    assert await running is None
