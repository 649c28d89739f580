"""`text-generation-launcher`: options in, exit code out.

Exit codes: 0 stopped by a signal, 1 something failed, 2 options that cannot be used.
"""

import asyncio
import logging
import os
import sys

from text_generation_process import logs
from text_generation_process.options import OptionError, fail, parse
from text_generation_router.config import VERSION

from text_generation_launcher.config import LauncherConfig
from text_generation_launcher.errors import LaunchError
from text_generation_launcher.launch import launch
from text_generation_launcher.log_level import most_verbose

PROGRAM = "text-generation-launcher"
_HELP = """Serve a text generation model over HTTP.

Prepares the model's weights, starts one shard per GPU and the router, and watches them until
SIGTERM or Ctrl-C. Every option can also be given as an environment variable."""

logger = logging.getLogger(__name__)


def main() -> None:
    config = parse(LauncherConfig, program=PROGRAM, help=_HELP, version=VERSION)
    logs.setup(level=most_verbose(config.log_level), as_json=config.json_output)
    if config.env:
        from text_generation_launcher.bug_report import describe

        logger.info("runtime environment:\n%s", describe(os.environ))
    try:
        code = asyncio.run(launch(config, os.environ))
    except OptionError as error:
        fail(PROGRAM, str(error))
    except LaunchError as error:
        logger.error("%s", error)
        code = 1
    sys.exit(code)


if __name__ == "__main__":
    main()
