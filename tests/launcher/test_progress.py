"""Bars while bytes are loaded."""

import io
import logging
import sys

import pytest
from text_generation_launcher.log_relay import Origin
from text_generation_launcher.progress import ProgressDisplay
from text_generation_process import logs

SHARD = Origin("shard", 0)
BYTES = {"level": "INFO", "target": "t", "message": "loading", "bytes_done": 1, "bytes_total": 4}


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def open_terminal(monkeypatch):
    """Makes standard output a terminal, with the log on it."""
    root = logging.getLogger()
    handlers, level = root.handlers, root.level

    def install():
        terminal = Terminal()
        monkeypatch.setenv("TERM", "xterm")
        monkeypatch.setattr(sys, "stdout", terminal)
        logs.setup(level="INFO", as_json=False)
        return terminal

    yield install
    root.handlers, root.level = handlers, level


def test_bytes_are_drawn_and_log_lines_stay(open_terminal):
    terminal = open_terminal()
    display = ProgressDisplay(enabled=True)
    try:
        assert display.observe(SHARD, BYTES)
        assert display.observe(SHARD, {**BYTES, "bytes_done": 4})
        logging.getLogger("x").info("a line between")
        assert sys.stdout is not terminal
    finally:
        display.close()
    display.close()
    assert sys.stdout is terminal
    logging.getLogger("x").info("a line after")
    assert terminal.getvalue().count("a line") == 2
    assert "shard 0: loading" in terminal.getvalue()
    assert not display.observe(SHARD, BYTES)


def test_other_records_are_left_to_the_log(open_terminal):
    terminal = open_terminal()
    display = ProgressDisplay(enabled=True)
    assert not display.observe(SHARD, {**BYTES, "bytes_total": None})
    assert not display.observe(SHARD, {**BYTES, "bytes_done": 4})
    assert not display.observe(SHARD, {"level": "INFO", "target": "t", "message": "m"})
    assert sys.stdout is terminal


def test_without_a_terminal_nothing_is_drawn():
    assert not ProgressDisplay(enabled=False).observe(SHARD, BYTES)
