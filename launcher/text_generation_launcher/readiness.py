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
    host = _ANY_ADDRESS.get(hostname, hostname)
    while True:
        try:
            _, writer = await asyncio.open_connection(host, port)
        except OSError:
            await asyncio.sleep(_INTERVAL_SECONDS)
            continue
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()
        return


async def sockets_appear(paths: Sequence[Path]) -> None:
    """Wait until there is something at every path."""
    while not all(path.exists() for path in paths):  # noqa: ASYNC110  files appear
        await asyncio.sleep(_INTERVAL_SECONDS)
