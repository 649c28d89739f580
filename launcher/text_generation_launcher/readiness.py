"""When the server is ready: the router opens its port once the model can answer."""

import asyncio
from contextlib import suppress

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
