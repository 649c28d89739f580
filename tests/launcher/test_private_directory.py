"""A launcher's directory goes away with it, or with the next launcher."""

import logging
import os
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from text_generation_launcher import private_directory as module
from text_generation_launcher.private_directory import private_directory

_OWNER = """
import time
from text_generation_launcher.private_directory import private_directory
with private_directory() as directory:
    (directory / "shard-0").touch()
    print(directory, flush=True)
    time.sleep(60)
"""


@pytest.fixture(autouse=True)
def temporary(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


@pytest.fixture
def owner(temporary):
    """Another process with a directory, and where that is."""
    process = subprocess.Popen(
        [sys.executable, "-c", _OWNER],
        env={**os.environ, "TMPDIR": str(temporary)},
        stdout=subprocess.PIPE,
        text=True,
    )
    yield process, Path(process.stdout.readline().strip())
    process.kill()
    process.communicate()


def test_it_is_private_and_goes_away():
    with private_directory() as one, private_directory() as other:
        assert one != other and other.is_dir()
        assert stat.S_IMODE(one.stat().st_mode) == 0o700
        (one / "shard-0").touch()
    assert not one.exists() and not other.exists()


def test_what_a_killed_launcher_left_is_removed_and_what_a_living_one_has_is_not(owner):
    """Every kill -9 left one for ever."""
    process, directory = owner
    with private_directory():
        assert (directory / "shard-0").exists()
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert directory.exists()
    with private_directory():
        assert not directory.exists()


def test_one_that_is_about_to_go_is_not_taken_for_abandoned(monkeypatch, caplog):
    caplog.set_level(logging.INFO)
    remove = shutil.rmtree

    def while_another_launcher_starts(directory, **options):
        monkeypatch.setattr(shutil, "rmtree", remove)
        module._remove_abandoned()
        remove(directory, **options)

    with private_directory() as directory:
        monkeypatch.setattr(shutil, "rmtree", while_another_launcher_starts)
    assert not directory.exists()
    assert caplog.messages == []


def test_what_was_never_locked_is_let_alone(temporary):
    """An older launcher's, one that is being made, or somebody else's."""
    (temporary / "text-generation-old").mkdir()
    (temporary / "text-generation-old" / "shard-0").touch()
    (temporary / "text-generation-server-0").touch()
    elsewhere = temporary / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "lock").touch()
    (temporary / "text-generation-link").symlink_to(elsewhere)
    with private_directory():
        pass
    assert (temporary / "text-generation-old" / "shard-0").exists()
    assert (temporary / "text-generation-server-0").exists()
    assert (elsewhere / "lock").exists()
