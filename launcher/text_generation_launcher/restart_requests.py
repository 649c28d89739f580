"""The router's wish to have its shards restarted, read from its log.

The router sees what the launcher cannot: a shard that lives and hangs. It says so with a record
that has the field `lost_shards`: which socket files the group had that it lost.
"""

import asyncio
from collections.abc import Sequence
from pathlib import Path

from text_generation_process.socket_file import SocketFile

from text_generation_launcher.log_relay import Origin, Record


class RestartRequests:
    """Tells a group that is still there from one that was restarted meanwhile: a death is mostly
    seen by router and launcher both, and must lead to one restart.
    """

    def __init__(self, sockets: Sequence[Path]) -> None:
        """sockets: where the shards listen, in rank order."""
        self._sockets = sockets
        # Set while the router waits for a restart that was not done.
        self.pending = asyncio.Event()

    def observe(self, origin: Origin, record: Record) -> bool:
        """See a child's record; never shows it (see `LogRelay`)."""
        lost = record.get("lost_shards")
        if origin.program == "router" and isinstance(lost, list):
            present = {str(file) for path in self._sockets if (file := SocketFile.at(path))}
            if present & set(map(str, lost)):
                self.pending.set()
        return False

    def restarted(self) -> None:
        """The group is about to start again, and its sockets are gone."""
        self.pending.clear()
