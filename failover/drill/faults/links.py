"""The links of a cluster that was started with --proxied: one line of JSON a command to their control socket."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec

from failover.drill.cluster import Cluster
from failover.drill.errors import ClusterAway, NotInjected, Skipped

_SOCKET_S = 5.0
_LINE_BYTES_MAX = 1 << 20


async def list_links(cluster: Cluster) -> list[str]:
    """Their names. Raises Skipped where there are none, ClusterAway."""
    return list((await _say(cluster, {"command": "list"}))["links"])


async def set_link(cluster: Cluster, name: str, state: str) -> None:
    """Raises NotInjected when it is refused."""
    answer = await _say(cluster, {"link": name, "state": state})
    if "error" in answer:
        raise NotInjected(str(answer["error"]))


async def open_links(cluster: Cluster) -> None:
    """All of them, where there are any. Raises ClusterAway."""
    if cluster.ready.get("proxies") is not None:
        for name in await list_links(cluster):
            await set_link(cluster, name, "open")


async def _say(cluster: Cluster, command: dict[str, Any]) -> dict[str, Any]:
    socket = cluster.ready.get("proxies")
    if socket is None:
        raise Skipped("needs a cluster that was started with --proxied")
    try:
        async with asyncio.timeout(_SOCKET_S):
            reader, writer = await asyncio.open_unix_connection(socket, limit=_LINE_BYTES_MAX)
            try:
                writer.write(msgspec.json.encode(command) + b"\n")
                answer: dict[str, Any] = msgspec.json.decode(await reader.readline())
            finally:
                writer.close()
    except (OSError, TimeoutError, msgspec.DecodeError) as error:
        raise ClusterAway(f"the links do not answer: {error!r}") from error
    return answer
