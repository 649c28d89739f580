"""When to refuse a request at once instead of letting it wait in vain."""

import math
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What the server has to do before a new request's turn."""

    # Requests in the server, waiting or running.
    num_requests: int
    # Seconds until a request that arrives now would be read, as far as can be told.
    predicted_wait: float


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a request is not taken, and when to ask again (whole seconds)."""

    reason: str
    retry_after: int


@dataclass(frozen=True, slots=True, kw_only=True)
class OverloadPolicy:
    """Refuses early, so that a client can go elsewhere while that still helps.

    A request is refused when `max_requests` are in the server (TGI's max_concurrent_requests), or
    when its predicted wait is longer than `max_wait_seconds`: no client waits that long for a first
    token. With nothing ahead of it the predicted wait is zero, so an idle server takes everything.
    """

    max_requests: int
    max_wait_seconds: float = 60.0

    def refusal(self, load: Load) -> Refusal | None:
        """The answer to a request that arrives under this load; None takes it."""
        retry_after = max(1, math.ceil(load.predicted_wait))
        if load.num_requests >= self.max_requests:
            return Refusal(f"{load.num_requests} requests are being served already", retry_after)
        if load.predicted_wait > self.max_wait_seconds:
            return Refusal(
                f"the predicted wait of {load.predicted_wait:.0f} s is longer than "
                f"{self.max_wait_seconds:.0f} s",
                retry_after,
            )
        return None
