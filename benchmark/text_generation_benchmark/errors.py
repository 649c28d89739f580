"""Why a benchmark cannot run, or go on."""


class BenchmarkError(Exception):
    """What was asked for cannot be measured; the text names the server, the socket or the flag."""
