"""Cutting and healing the links of a cluster that runs with --proxied, through its control socket, as an outsider."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any

import msgspec

from tests.acceptance.cluster import Cluster

_DEADLINE_S = 5.0


def between_controller_and(node: str) -> list[str]:
    """The path between the controller and a node; nobody but the controller connects over it."""
    return [f"controller-agent-{node}"]


def between_nodes(one: str, other: str) -> list[str]:
    """The path between two nodes, whoever connects: agents, standby, witness."""
    pairs = ((one, other), (other, one))
    return [name for a, b in pairs for name in (f"agent-{a}-agent-{b}", f"node-{a}-postgres-{b}")]


def between_server_and(node: str) -> list[str]:
    """The path between the server and a node's PostgreSQL."""
    return [f"server-postgres-{node}"]


def between_server_and_controller() -> list[str]:
    """Both directions."""
    return ["server-controller", "controller-server"]


async def set_links(cluster: Cluster, names: Iterable[str], state: str) -> None:
    """Give each link a state; returns when all are so."""
    await command(cluster, *({"link": name, "state": state} for name in names))


async def heal(cluster: Cluster) -> None:
    """Open every link."""
    (listed,) = await command(cluster, {"command": "list"})
    await set_links(cluster, listed["links"], "open")


async def command(cluster: Cluster, *commands: dict[str, Any]) -> list[dict[str, Any]]:
    """Send commands, one after the other, and return the answers. Fails when one was refused."""
    path = cluster.ready.proxies
    assert isinstance(path, str), "the cluster runs without --proxied"
    answers = []
    async with asyncio.timeout(_DEADLINE_S):
        reader, writer = await asyncio.open_unix_connection(path)
        try:
            for said in commands:
                writer.write(msgspec.json.encode(said) + b"\n")
                answers.append(msgspec.json.decode(await reader.readline(), type=dict[str, Any]))
        finally:
            writer.close()
    assert not [answer for answer in answers if "error" in answer], answers
    return answers
