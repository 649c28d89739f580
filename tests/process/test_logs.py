"""Log lines between processes and for people."""

import io
import json
import logging
import os
from typing import get_args

import pytest
from text_generation_process import logs


@pytest.fixture
def log():
    """Sets the log up on a stream of its own: `log(level, as_json)` gives the stream."""
    root = logging.getLogger()
    handlers, level = root.handlers, root.level

    def install(level="INFO", *, as_json=True, stream=None):
        stream = stream or io.StringIO()
        logs.setup(level=level, as_json=as_json, stream=stream)
        return stream

    yield install
    root.handlers, root.level = handlers, level


class Terminal(io.StringIO):
    def isatty(self):
        return True


def fail():
    try:
        raise ValueError("no\nreally")
    except ValueError:
        logging.getLogger("a").exception("failed")


def test_a_record_is_one_line_that_decodes(log):
    stream = log()
    logging.getLogger("a.b").warning("two\nlines of %s", "tëxt", extra={"fields": {"n": 1}})
    (line,) = stream.getvalue().splitlines()
    record = logs.decode(line)
    assert record.pop("timestamp").endswith("Z")
    assert record == {"level": "WARNING", "target": "a.b", "message": "two\nlines of tëxt", "n": 1}


def test_an_exception_is_in_the_record(log):
    stream = log()
    fail()
    (line,) = stream.getvalue().splitlines()
    record = logs.decode(line)
    assert record["exception"] == "ValueError: no\nreally"
    assert record["traceback"].startswith("Traceback")


def test_a_value_that_is_no_json_is_shown_as_text(log):
    stream = log()
    logging.getLogger("a").info("m", extra={"fields": {"path": io}})
    assert "module 'io'" in json.loads(stream.getvalue())["path"]


def test_for_people(log):
    stream = log(as_json=False)
    logging.getLogger("a").info("ready", extra={"fields": {"port": 80}})
    time, rest = stream.getvalue().split(maxsplit=1)
    assert time.endswith("Z")
    assert rest == "INFO a: ready port=80\n"


def test_for_people_a_traceback_follows(log):
    stream = log(as_json=False)
    fail()
    logging.getLogger("a").error(
        "relayed", extra={"fields": {"traceback": "Traceback\n  of a child"}}
    )
    text = stream.getvalue()
    assert "a: failed\nTraceback (most recent call last):\n" in text
    assert text.endswith("a: relayed\nTraceback\n  of a child\n")


def test_colours_only_on_a_terminal(log):
    plain, terminal = log(as_json=False), None
    logging.getLogger("a").info("m")
    terminal = log(as_json=False, stream=Terminal())
    logging.getLogger("a").info("m")
    assert "\x1b[" not in plain.getvalue()
    assert "\x1b[32m" in terminal.getvalue()


@pytest.mark.parametrize("level", get_args(logs.Level))
def test_levels(log, level):
    stream = log(level)
    for name in ("debug", "info", "warning", "error"):
        getattr(logging.getLogger("a"), name)("m")
    written = [json.loads(line)["level"] for line in stream.getvalue().splitlines()]
    names = ["DEBUG", "INFO", "WARNING", "ERROR"]
    assert written == names[max(0, get_args(logs.Level).index(level) - 1) :]


@pytest.mark.parametrize(
    "line", ["", "text", "3", "[]", "{}", '{"level": "INFO", "message": "m"}', '{"level": "INFO"']
)
def test_other_lines_are_no_records(line):
    assert logs.decode(line) is None


@pytest.mark.parametrize(
    ("as_json", "written"), [(True, "tëxt \\udcff".encode()), (False, rb"t\xebxt \udcff")]
)
def test_no_line_is_lost_to_a_locale(log, capsys, as_json, written):
    """The bug: each was a traceback of logging's on standard error, and the line was missing."""
    raw = io.BytesIO()
    stream = log(as_json=as_json, stream=io.TextIOWrapper(raw, encoding="ascii"))
    logging.getLogger("a").info("tëxt \udcff")
    stream.flush()
    assert written in raw.getvalue()
    assert capsys.readouterr().err == ""


def test_a_reader_that_left_is_no_error(log, capsys):
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w", encoding="utf-8", buffering=1) as stream:
        log(stream=stream)
        logging.getLogger("a").info("m")
        assert capsys.readouterr().err == ""
        os.dup2(os.open(os.devnull, os.O_WRONLY), writing)  # what is buffered goes nowhere
