"""The port: reserved early, so that one in use is told before a model is loaded."""

import socket

from text_generation_router.start_error import StartError


def reserve_port(hostname: str, port: int) -> socket.socket:
    """A bound socket that does not listen yet: connecting to it is refused. Raises `StartError`."""
    try:
        address = socket.getaddrinfo(hostname, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(address[0], socket.SOCK_STREAM)
    except OSError as error:
        raise listen_error(hostname, port, error) from error
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address[4])
    except OSError as error:
        listener.close()
        raise listen_error(hostname, port, error) from error
    return listener


def listen_error(hostname: str, port: int, error: OSError) -> StartError:
    """One line that names the address and the system's reason."""
    return StartError(f"cannot listen on {hostname}:{port}: {error.strerror or error}")
