"""The level that LOG_LEVEL asks for, which may be one word or a filter written for TGI."""

from collections.abc import Mapping

from text_generation_process.logs import Level
from text_generation_process.options import OptionError

_LEVELS: Mapping[str, Level] = {  # from the most verbose on
    "trace": "TRACE",
    "debug": "DEBUG",
    "info": "INFO",
    "warn": "WARNING",
    "warning": "WARNING",
    "error": "ERROR",
    "off": "ERROR",
}


def most_verbose(log_level: str) -> Level:
    """The most verbose level that the filter names.

    `info,text_generation_router=debug` is DEBUG. A directive without a level (a bare target) says
    nothing; a filter without any level raises OptionError.
    """
    named = {
        level
        for directive in log_level.lower().split(",")
        if (level := directive.rpartition("=")[2].strip()) in _LEVELS
    }
    for level, name in _LEVELS.items():
        if level in named:
            return name
    raise OptionError(
        f"--log-level (LOG_LEVEL) must be trace, debug, info, warn or error, got {log_level!r}"
    )
