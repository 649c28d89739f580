"""Where a shard on another node listens: a file that lies where the Unix socket of a shard on this
node would, so that whoever waits for a shard, or for another one in its place, looks for a file
(`socket_file`) and need not know on which node it is.
"""

import json
import os
from dataclasses import dataclass, field
from pathlib import Path

METADATA_KEY = "authorization"


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A TCP address, `host:port`, and the token that who listens there asks for."""

    address: str
    token: str = field(repr=False)

    @classmethod
    def at(cls, path: str | Path) -> "Endpoint | None":
        """What the file says; None if there is none, or a socket."""
        try:
            if not Path(path).is_file():
                return None
            found = json.loads(Path(path).read_text())
            return cls(str(found["address"]), str(found["token"]))
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def write(self, path: str | Path) -> None:
        """Put the file there, mode 0600; who sees it sees all of it."""
        unfinished = f"{path}.new"
        Path(unfinished).unlink(missing_ok=True)
        descriptor = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w") as file:
            json.dump({"address": self.address, "token": self.token}, file)
        Path(unfinished).replace(path)

    @property
    def metadata(self) -> tuple[tuple[str, str]]:
        """What every call sends."""
        return ((METADATA_KEY, f"Bearer {self.token}"),)
