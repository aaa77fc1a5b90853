"""Times that several processes must hold in common: said once in the person's file, handed to each of them. Pure."""

from __future__ import annotations

from typing import Any

import msgspec

from compose.errors import BadSettings
from compose.options import UpOptions

SHARED = {
    "agent": ("probe_interval_ms", "probe_deadline_ms", "action_ttl_ms", "lease_ttl_ms", "heartbeat_ms"),
    "server": ("lease_ttl_ms",),
    "failover.policy": ("probe_interval_ms", "probe_deadline_ms", "action_ttl_ms", "lease_ttl_ms", "heartbeat_ms"),
}
"""The table of each process, and which of its keys must have the same value wherever they are."""


def with_shared_times(options: UpOptions) -> UpOptions:
    """The options with every shared time in each table that knows it. Raises BadSettings when two tables differ."""
    tables: dict[str, dict[str, Any]] = {
        "agent": dict(options.agent),
        "server": dict(options.server),
        "failover.policy": dict(options.failover.get("policy", {})),
    }
    said: dict[str, tuple[str, Any]] = {}
    for table, keys in SHARED.items():
        for key in keys:
            if key not in tables[table]:
                continue
            first, value = said.setdefault(key, (table, tables[table][key]))
            if tables[table][key] != value:
                raise BadSettings(
                    f"{key} is {value} in [{first}] and {tables[table][key]} in [{table}]: agents, server and controller "
                    "must agree on it; say it once"
                )
    for table, keys in SHARED.items():
        tables[table] |= {key: said[key][1] for key in keys if key in said}
    failover = (
        {**options.failover, "policy": tables["failover.policy"]} if tables["failover.policy"] else options.failover
    )
    return msgspec.structs.replace(options, agent=tables["agent"], server=tables["server"], failover=failover)
