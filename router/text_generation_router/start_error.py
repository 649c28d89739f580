"""Why a router did not start."""


class StartError(Exception):
    """The router cannot start; the text is one line for whoever started it.

    exit_code: 2 where an option is to blame, else 1.
    """

    exit_code = 1


class OptionRefusedError(StartError):
    """An option cannot be honoured with this model or these shards; the text names the flag."""

    exit_code = 2
