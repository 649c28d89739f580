"""text-generation-router: the HTTP server in front of the shards."""

import contextlib
import gc
import logging
import os
import sys

import uvloop
from text_generation_process import logs, options

from text_generation_router import open_files
from text_generation_router.config import VERSION, RouterConfig

PROGRAM = "text-generation-router"

logger = logging.getLogger("text_generation_router")


def main() -> None:
    """Parse the options and serve; exit codes: 0 stopped as asked, 1 failed, 2 bad option."""
    config = options.parse(
        RouterConfig,
        program=PROGRAM,
        help="Serves a model's shards over HTTP: TGI's API and OpenAI's.",
        version=VERSION,
    )
    logs.setup(level=config.logger_level, as_json=config.json_output)
    sys.exit(run(config))


def run(config: RouterConfig) -> int:
    """Serve; the exit code."""
    # Imported here: `--help` and a bad option answer without loading the server.
    # Start-up makes much and drops little: the collector would only slow it. The server turns it
    # on again once it serves.
    gc.disable()
    _interrupt_nobody()
    open_files.raise_limit()
    from text_generation_router.server import Server
    from text_generation_router.start_error import StartError

    try:
        return uvloop.run(Server(config).run())
    except StartError as error:
        logger.error("%s", error)
        return error.exit_code
    except KeyboardInterrupt:
        return 1


def _interrupt_nobody() -> None:
    """Where shards compute on all cores, wait until one is free: a router that wakes up in the
    middle of an operator would take one from a thread for which the others then wait.

    A step is under way while the router sends the next one, so that it has the time. Threads
    started later do the same. Linux; a container may forbid it.
    """
    with contextlib.suppress(AttributeError, OSError):
        os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))


if __name__ == "__main__":
    main()
