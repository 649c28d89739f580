"""Why a router did not start."""


class StartError(Exception):
    """The router cannot start; the text is one line for whoever started it."""
