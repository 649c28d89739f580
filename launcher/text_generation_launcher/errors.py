"""What can go wrong before and while serving."""


class LaunchError(Exception):
    """The server cannot start; the text is one clear line for the user. Exit code 1.

    Values that cannot be used are `OptionError`s instead: exit code 2.
    """
