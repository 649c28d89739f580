"""What can go wrong in a shard, and how far the damage goes.

ShardError
  ├─ CheckpointError     the model cannot be served; the text names file, key or tensor
  ├─ CapacityError       options cannot be honoured here; the text names the flags
  ├─ RendezvousError     the ranks cannot find each other
  ├─ CollectiveError     fatal: another rank is gone, or too late
  ├─ SocketError         the socket cannot be bound
  ├─ StepRejectedError   recoverable: this step is not computed, the shard goes on
  └─ ProtocolError       fatal: the step stream broke its own rules; the shard cannot trust it
"""


class ShardError(Exception):
    """Base of all errors that a shard raises itself; the text is one line."""


class CheckpointError(ShardError):
    """The model directory is missing something, holds something unknown, or is damaged."""


class CapacityError(ShardError):
    """What is asked for cannot be had with this device, model or memory. To the process it is what
    a bad option is: it ends with 2.
    """


class RendezvousError(ShardError):
    """The address where the ranks meet cannot be used."""


class CollectiveError(ShardError):
    """A collective did not come to its end."""


class SocketError(ShardError):
    """The unix socket cannot be listened on."""


class StepRejectedError(ShardError):
    """The step is not computed, but every rank sees this alike and can go on with the next.

    slots: the sequences that have failed; the step's others may be admitted again.
    """

    def __init__(self, message: str, *, slots: tuple[int, ...]) -> None:
        super().__init__(message)
        self.slots = slots


class ProtocolError(ShardError):
    """The router addressed a slot, block or token that cannot be; going on would be guessing."""
