"""The line between the launchers of two nodes: JSON messages, one a line, after each side has
proven that it knows --node-secret.

    node 0    {"nonce": a}
    node k    {"nonce": b, "proof": HMAC(secret, "node k" a b)}
    node 0    {"proof": HMAC(secret, "node 0" a b)}  or  {"refusal": why}

The secret itself is never sent. What follows is neither signed nor hidden, as little as what the
shards then say to each other: it takes a network of one's own.
"""

import asyncio
import hmac
import json
import secrets
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

Message = dict[str, Any]

_HANDSHAKE_SECONDS = 10.0
MAX_MESSAGE_BYTES = 1 << 16
# A node that is gone without a word (power, cable) is missed after 10 + 3 * 5 seconds.
_KEEPALIVE = (
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 10),
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 5),
    (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3),
    (socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 25_000),
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
)


class LinkError(Exception):
    """The line is broken, or the other end makes no sense."""


class LinkRefusedError(Exception):
    """The other end does not want this one; the text says why."""


class Link:
    """One end of the line. Make it with `accept` or `join`; `close` may be called twice."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Use `accept` or `join`."""
        self._reader = reader
        self._writer = writer
        for option in _KEEPALIVE:
            writer.get_extra_info("socket").setsockopt(*option)

    @classmethod
    async def accept(
        cls, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, secret: str
    ) -> "Link":
        """Node 0's end. Raises `LinkError`."""
        link = cls(reader, writer)
        ours = secrets.token_hex(16)
        async with _handshake(link):
            link.send({"nonce": ours})
            answer = await link.receive()
            theirs, proof = str(answer.get("nonce")), str(answer.get("proof"))
            if not hmac.compare_digest(proof, _proof(secret, "node k", ours, theirs)):
                link.send({"refusal": "--node-secret is another here"})
                raise LinkError("it has another --node-secret")
            link.send({"proof": _proof(secret, "node 0", ours, theirs)})
        return link

    @classmethod
    async def join(cls, host: str, port: int, secret: str) -> "Link":
        """The end of another node. Raises OSError, `LinkError`, `LinkRefusedError`."""
        link = cls(*await asyncio.open_connection(host, port, limit=MAX_MESSAGE_BYTES))
        ours = secrets.token_hex(16)
        async with _handshake(link):
            theirs = str((await link.receive()).get("nonce"))
            link.send({"nonce": ours, "proof": _proof(secret, "node k", theirs, ours)})
            answer = await link.receive()
            if "refusal" in answer:
                raise LinkRefusedError(str(answer["refusal"]))
            proof = _proof(secret, "node 0", theirs, ours)
            if not hmac.compare_digest(str(answer.get("proof")), proof):
                raise LinkRefusedError("--node-secret is another there")
        return link

    @property
    def peer(self) -> str:
        """The other end's address."""
        return str(self._writer.get_extra_info("peername")[0])

    def send(self, message: Message) -> None:
        """Send a message; that the line is broken shows where messages are received."""
        self._writer.write(json.dumps(message).encode() + b"\n")

    async def receive(self) -> Message:
        """The next message. Raises `LinkError` when there will be none."""
        try:
            line = await self._reader.readline()
            if not line:
                raise LinkError("it closed the connection")
            message = json.loads(line)
        except OSError as error:
            raise LinkError(error.strerror or "the connection is lost") from error
        except ValueError as error:  # too long, or no JSON
            raise LinkError("it does not speak as a launcher does") from error
        if not isinstance(message, dict):
            raise LinkError("it does not speak as a launcher does")
        return message

    def abort(self) -> None:
        """End the connection at once."""
        self._writer.transport.abort()

    async def close(self) -> None:
        """Send what is left, and end the connection."""
        self._writer.close()
        with suppress(OSError, TimeoutError):
            await asyncio.wait_for(self._writer.wait_closed(), 1.0)


@asynccontextmanager
async def _handshake(link: Link) -> AsyncIterator[None]:
    """Bounded in time; who does not come through it is disconnected."""
    try:
        async with asyncio.timeout(_HANDSHAKE_SECONDS):
            yield
    except BaseException as error:
        await link.close()
        if isinstance(error, TimeoutError):
            raise LinkError("it does not speak as a launcher does") from error
        raise


def _proof(secret: str, role: str, *nonces: str) -> str:
    return hmac.digest(secret.encode(), " ".join((role, *nonces)).encode(), "sha256").hex()
