"""Ports for servers that a test starts."""

import atexit
import socket


def free_port() -> int:
    """A TCP port that nothing listens on.

    As long as this process lives nobody else is given it. A server that sets SO_REUSEADDR, as
    Python's do, can have it: this socket does not listen.
    """
    holder = socket.socket()
    holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    holder.bind(("127.0.0.1", 0))
    atexit.register(holder.close)
    port: int = holder.getsockname()[1]
    return port
