"""text-generation-server: `serve` one rank of a model, or `download-weights` for it.

Both import what they need when they are called: torch takes seconds.
"""

import gc
import logging
import os
import sys

from text_generation_process import logs
from text_generation_process.options import OptionError, fail, parse

PROGRAM = "text-generation-server"

_USAGE = f"""usage: {PROGRAM} COMMAND [OPTIONS]

commands:
  serve             serve one rank of a model over a unix socket
  download-weights  fetch a model, or convert its weights, before it is served

`{PROGRAM} COMMAND --help` shows a command's options.
"""


def main() -> None:
    """Entry of the console script."""
    argv = sys.argv[1:]
    if not argv or argv[0] in ("-h", "--help"):
        print(_USAGE, end="", file=sys.stdout if argv else sys.stderr)
        sys.exit(0 if argv else 2)
    command, options = argv[0], argv[1:]
    if command == "serve":
        _serve(options)
    elif command == "download-weights":
        _download_weights(options)
    else:
        fail(PROGRAM, f"unknown command {command!r}: serve or download-weights")


def _serve(argv: list[str]) -> None:
    from text_generation_shard.config import RankInfo, ShardConfig

    program = f"{PROGRAM} serve"
    config = parse(ShardConfig, program=program, argv=argv)
    try:
        info = RankInfo.from_environment()
    except OptionError as error:
        fail(program, str(error))
    logs.setup(level=config.logger_level, as_json=config.json_output)
    # Read by the OpenMP runtime when torch loads it. Its threads would otherwise spin at the end of
    # every small operator; where they share their cores with anything else (the router is enough),
    # a step then takes ten times as long.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

    # Torch is imported an eighth sooner if nobody looks for garbage meanwhile; what it made stays,
    # and is not looked through while steps are served either.
    gc.disable()
    from text_generation_shard.server import serve

    gc.freeze()
    gc.enable()
    code = serve(config, info)
    # What is left are threads that may hang in a collective: not worth waiting for.
    logging.shutdown()
    sys.stdout.flush()
    os._exit(code)


def _download_weights(argv: list[str]) -> None:
    from text_generation_shard.weights.download import main as download

    download(argv)


if __name__ == "__main__":
    main()
