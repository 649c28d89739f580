"""The router's wish to have its shards restarted, read from its log.

The router sees what the launcher cannot: a shard that lives and hangs. It says so with a record
that has the field `restart_shards`, the ordinal of the restart that it waits for (1 for the first).
"""

import asyncio

from text_generation_launcher.log_relay import Origin, Record


class RestartRequests:
    """Compares what was asked for with what was done: a death is mostly seen by router and launcher
    both, and must lead to one restart.
    """

    def __init__(self) -> None:
        # Set while the router waits for a restart that was not done.
        self.pending = asyncio.Event()
        self._num_restarts = 0

    def observe(self, origin: Origin, record: Record) -> bool:
        """See a child's record; never shows it (see `LogRelay`)."""
        asked = record.get("restart_shards")
        if origin.program == "router" and isinstance(asked, int) and asked > self._num_restarts:
            self.pending.set()
        return False

    def restarted(self) -> None:
        """The group is about to start again."""
        self._num_restarts += 1
        self.pending.clear()
