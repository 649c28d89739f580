"""When the server is ready: the router opens its port once the model can answer; a shard's socket
appears when its weights are in memory.
"""

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

_INTERVAL_SECONDS = 0.05
_ANY_ADDRESS = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104


async def port_opens(hostname: str, port: int) -> None:
    """Wait until something accepts connections there."""
    while not await is_port_open(hostname, port):  # noqa: ASYNC110  nobody tells
        await asyncio.sleep(_INTERVAL_SECONDS)


async def is_port_open(hostname: str, port: int) -> bool:
    """Whether something accepts connections there now."""
    try:
        _, writer = await asyncio.open_connection(_ANY_ADDRESS.get(hostname, hostname), port)
    except OSError:
        return False
    writer.close()
    with suppress(OSError):
        await writer.wait_closed()
    return True


async def sockets_appear(paths: Sequence[Path]) -> None:
    """Wait until there is something at every path."""
    while not all(path.exists() for path in paths):  # noqa: ASYNC110  files appear
        await asyncio.sleep(_INTERVAL_SECONDS)
