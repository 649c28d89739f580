"""Children's lines in the launcher's log."""

import io
import json
import logging

import pytest
from text_generation_launcher.log_relay import LastWords, LogRelay, Origin
from text_generation_process import logs


@pytest.fixture
def log():
    """Writes lines to a relay; `json_lines` reads what came out."""
    root = logging.getLogger()
    handlers, level = root.handlers, root.level
    yield Log()
    root.handlers, root.level = handlers, level


class Log:
    def __init__(self):
        self.stream = io.StringIO()
        self.last_words = LastWords()
        self.setup(level="INFO", as_json=True)

    def setup(self, *, level, as_json):
        logs.setup(level=level, as_json=as_json, stream=self.stream)

    def write(self, line, origin=Origin("shard", 1), *, is_stderr=False, relay=None):  # noqa: B008
        text = line if isinstance(line, str) else json.dumps(line)
        (relay or LogRelay()).line(origin, text, is_stderr=is_stderr, last_words=self.last_words)

    def json_lines(self):
        return [json.loads(line) for line in self.stream.getvalue().splitlines()]


def record(level="INFO", message="loaded", **fields):
    return {
        "timestamp": "2026-01-31T12:00:00.123Z",
        "level": level,
        "target": "text_generation_shard.weights",
        "message": message,
        **fields,
    }


def test_a_record_keeps_all_it_says_and_gets_its_rank(log):
    log.write(record(bytes=3, exception="ValueError: no"))
    assert log.json_lines() == [record(bytes=3, exception="ValueError: no", rank=1)]


def test_a_record_of_the_router_has_no_rank(log):
    log.write(record(), Origin("router"))
    assert log.json_lines() == [record()]


def test_a_record_for_people(log):
    log.setup(level="INFO", as_json=False)
    log.write(record(bytes=3))
    assert log.stream.getvalue() == (
        "2026-01-31T12:00:00.123Z    INFO text_generation_shard.weights: loaded rank=1 bytes=3\n"
    )


def test_percent_signs_are_text(log):
    log.write(record(message="100% of %s"))
    log.write("50% of %d")
    assert [line["message"] for line in log.json_lines()] == ["100% of %s", "50% of %d"]


@pytest.mark.parametrize(
    ("level", "written"),
    [("TRACE", "DEBUG"), ("WARN", "WARNING"), ("CRITICAL", "CRITICAL"), ("odd", "INFO")],
)
def test_levels_by_other_names(log, level, written):
    log.setup(level="TRACE", as_json=True)
    log.write(record(level=level))
    assert log.json_lines()[0]["level"] == written


def test_the_level_filter_holds_for_children(log):
    log.setup(level="WARNING", as_json=True)
    log.write(record(level="INFO"))
    log.write(record(level="WARNING"))
    assert [line["level"] for line in log.json_lines()] == ["WARNING"]


def test_other_lines_pass_whatever_the_level(log):
    log.setup(level="ERROR", as_json=True)
    log.write("Fatal Python error", is_stderr=True)
    log.write('{"level": 3}')
    (first, second) = log.json_lines()
    assert (first["level"], first["target"], first["rank"]) == ("WARNING", "shard", 1)
    assert first["message"] == "Fatal Python error"
    assert (second["level"], second["message"]) == ("INFO", '{"level": 3}')


def test_a_timestamp_that_is_none_does_not_hurt(log):
    line = record()
    line["timestamp"] = "yesterday"
    log.write(line)
    del line["timestamp"]
    log.write(line)
    assert [line["message"] for line in log.json_lines()] == ["loaded", "loaded"]


def test_blank_lines_say_nothing(log):
    log.write("  ")
    assert log.json_lines() == []


def test_the_observer_may_take_a_record(log):
    seen = []

    def observe(origin, record):
        seen.append((origin, record["message"]))
        return record["message"] == "taken"

    relay = LogRelay(observe)
    log.write(record(message="taken"), relay=relay)
    log.write(record(message="left"), relay=relay)
    assert [line["message"] for line in log.json_lines()] == ["left"]
    assert [message for _, message in seen] == ["taken", "left"]


def test_last_words_are_the_last_error(log):
    log.write("Traceback (most recent call last):", is_stderr=True)
    log.write(record(level="ERROR", message="first"))
    log.write(record(level="ERROR", message="cannot load", exception="OSError: truncated"))
    log.write(record(level="INFO", message="bye"))
    assert str(log.last_words) == "cannot load: OSError: truncated"


def test_last_words_do_not_say_the_same_twice(log):
    log.write(record(level="ERROR", message="OSError: truncated", exception="OSError: truncated"))
    assert str(log.last_words) == "OSError: truncated"


def test_without_an_error_record_last_words_are_the_end_of_standard_error(log):
    for number in range(9):
        log.write(f"line {number}", is_stderr=True)
    log.write("output", is_stderr=False)
    assert str(log.last_words) == "line 4\nline 5\nline 6\nline 7\nline 8"
