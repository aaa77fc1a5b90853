"""The retry policies of the controller, each with its deadline (tenacity)."""

from __future__ import annotations

from tenacity import AsyncRetrying, retry_if_exception_type, stop_after_delay, wait_exponential, wait_fixed

from failover.errors import ControllerError, LeaseHeld
from replication.wire.errors import WireError

_ROUND_S = 60.0


def resubscribing() -> AsyncRetrying:
    """Come back to an agent's stream after 20 ms, then slower, at most 250 ms; the last WireError after a minute."""
    return AsyncRetrying(
        retry=retry_if_exception_type(WireError),
        wait=wait_exponential(multiplier=0.02, max=0.25),
        stop=stop_after_delay(_ROUND_S),
        reraise=True,
    )


def taking_lease() -> AsyncRetrying:
    """Ask for the leader lease every 100 ms; LeaseHeld after a minute."""
    return AsyncRetrying(
        retry=retry_if_exception_type(LeaseHeld),
        wait=wait_fixed(0.1),
        stop=stop_after_delay(_ROUND_S),
        reraise=True,
    )


def becoming_ready(deadline_ms: int) -> AsyncRetrying:
    """Ask every 20 ms until a controller answers and leads; the last error at the deadline."""
    return AsyncRetrying(
        retry=retry_if_exception_type((WireError, ControllerError)),
        wait=wait_fixed(0.02),
        stop=stop_after_delay(deadline_ms / 1000),
        reraise=True,
    )
