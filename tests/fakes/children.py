"""Small programs in the place of router and shards, for tests of the launcher."""

import sys
from contextlib import suppress
from pathlib import Path

from text_generation_launcher.child import ChildCommand
from text_generation_launcher.log_relay import Origin

# A program that appends what happens to a file and ends on SIGTERM, as a good child does.
_GOOD_CHILD = """
import signal, socket, sys, time
name, events, port, rest = sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4:]

def note(event):
    with open(events, "a") as file:
        file.write(f"{name} {event}\\n")

def stop(number, frame):
    note("stopped")
    sys.exit(3)  # how a child ends when it is asked to is its own affair

if "stubborn" in rest:
    signal.signal(signal.SIGTERM, lambda number, frame: note("asked"))
else:
    signal.signal(signal.SIGTERM, stop)
note("started")
if port:
    listener = socket.create_server(("127.0.0.1", port))
while True:
    time.sleep(0.02)
"""


def script(origin: Origin, source: str, *arguments: str) -> ChildCommand:
    """A Python program without site packages, which starts fast."""
    return ChildCommand(
        origin=origin,
        argv=(sys.executable, "-I", "-S", "-c", source, *arguments),
        environment={},
    )


def good_shard(rank: int, events: Path, *options: str) -> ChildCommand:
    """Notes `shard RANK started|stopped` in `events`; "stubborn" does not stop when asked."""
    origin = Origin("shard", rank)
    return script(origin, _GOOD_CHILD, str(origin), str(events), "0", *options)


def good_router(port: int, events: Path, *options: str) -> ChildCommand:
    """Like `good_shard`, and opens the port."""
    return script(Origin("router"), _GOOD_CHILD, "router", str(events), str(port), *options)


def is_alive(pid: int) -> bool:
    """Whether the process runs; a dead one that nobody has waited for does not."""
    with suppress(FileNotFoundError, ProcessLookupError):
        return not Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].startswith("Z")
    return False
