"""Checks of the policy: time-outs that contradict each other are refused, with the reason."""

from __future__ import annotations

import msgspec

from failover.core.model import Policy
from failover.core.node_faults import CONVICTING
from failover.errors import FailoverError

DETECTION_MS_MAX = 1_000


class PolicyError(FailoverError):
    """Two values of the policy contradict each other, or one is not positive."""


def check_policy(policy: Policy) -> None:
    """Raises PolicyError with the two keys, their values and what must hold between them."""
    for name, value in msgspec.structs.asdict(policy).items():
        if isinstance(value, int) and not isinstance(value, bool) and value <= 0:
            raise PolicyError(f"policy.{name} is {value}: it must be above zero")
    for kind in policy.alarm_only:
        if kind not in CONVICTING:
            raise PolicyError(
                f"policy.alarm_only names {kind}, for which nobody is promoted anyway; it may name {', '.join(sorted(CONVICTING))}"
            )
    detection_ms = policy.probe_interval_ms + policy.probe_deadline_ms
    if detection_ms > DETECTION_MS_MAX:
        raise PolicyError(
            f"policy.probe_interval_ms {policy.probe_interval_ms} and policy.probe_deadline_ms {policy.probe_deadline_ms} "
            f"add up to {detection_ms}: a hang must be seen within {DETECTION_MS_MAX} ms"
        )
    below = (
        ("heartbeat_ms", "lease_ttl_ms", "a lease lives from heartbeats"),
        ("probe_interval_ms", "lease_ttl_ms", "a lease is renewed by observations"),
        ("probe_interval_ms", "standby_lost_ms", "a standby is called lost only after several observations"),
        ("probe_deadline_ms", "action_ttl_ms", "an action answers an observation that may take its whole deadline"),
        ("retry_ms", "retry_ms_max", "the delay grows from the one to the other"),
        ("standby_lost_ms", "cold_start_ms", "a cold start waits longer for a peer than a running primary does"),
    )
    for low, high, reason in below:
        if getattr(policy, low) >= getattr(policy, high):
            raise PolicyError(
                f"policy.{low} is {getattr(policy, low)} and policy.{high} is {getattr(policy, high)}: "
                f"the first must be below the second, since {reason}"
            )
