"""Listening for a router on another node: on TCP, for callers that send the token."""

import hmac
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import grpc
from text_generation_process.endpoint import METADATA_KEY, Endpoint

from text_generation_shard.errors import SocketError


class TokenCheck(grpc.ServerInterceptor):  # type: ignore[type-arg]
    """Refuses every call, of whatever kind, that does not send the token."""

    def __init__(self, token: str) -> None:
        ((_, self._expected),) = Endpoint("", token).metadata
        self._refusal = grpc.stream_stream_rpc_method_handler(_refuse)

    def intercept_service(
        self, continuation: Callable[[Any], Any], handler_call_details: grpc.HandlerCallDetails
    ) -> Any:
        """The called method, or one that only refuses."""
        given = dict(handler_call_details.invocation_metadata).get(METADATA_KEY, "")
        if isinstance(given, str) and hmac.compare_digest(given.encode(), self._expected.encode()):
            return continuation(handler_call_details)
        return self._refusal


def _refuse(_requests: Any, context: grpc.ServicerContext) -> NoReturn:
    context.abort(grpc.StatusCode.UNAUTHENTICATED, "this shard serves its own router only")
    raise AssertionError("abort raises")


def bind_for_other_nodes(host: str, bind: Callable[[str], int]) -> str:
    """Let `bind` listen on a free port of this address; returns `host:port`.

    bind: takes an address as gRPC writes it and returns the port, 0 if it could not.
    """
    try:
        port = bind(f"{host}:0")
    except RuntimeError as error:
        raise SocketError(f"--tcp-token: cannot listen on {host}: {error}") from error
    if not port:
        raise SocketError(f"--tcp-token: cannot listen on {host}")
    return f"{host}:{port}"


def publish(path: Path, address: str, token: str) -> None:
    """Say at `path`, where a Unix socket would be, where this shard listens."""
    try:
        Endpoint(address, token).write(path)
    except OSError as error:
        raise SocketError(f"--uds-path: cannot write {path}: {error.strerror}") from error
