"""`locum status`: the cluster in one table; exit code 0 only when it is healthy."""

from __future__ import annotations

import asyncio
import time
from typing import Annotated, Any

import aiohttp
import msgspec
import typer
from rich.live import Live

from compose import flags
from compose.agents_view import cluster_by_agents
from compose.options import read_config
from compose.progress import console
from compose.status_view import render
from compose.target import Target, find_target
from replication.wire.errors import WireError
from replication.wire.http import get_bytes, new_session

_ASK_MS = 2_000
_REFRESH_S = 1.0

Watch = Annotated[bool, typer.Option("--watch", help="Refresh every second until Ctrl-C.")]


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(status)


def status(
    watch: Watch = False,
    as_json: flags.Json = False,
    controller: flags.Controller = None,
    token_file: flags.TokenFile = None,
    data: flags.Data = None,
    config: flags.Config = None,
) -> None:
    """Show the cluster. With no controller to ask, the agents are asked. Exits 0 only when the phase is healthy."""

    target = find_target(read_config(config), controller=controller, token_file=token_file, data=data)
    cluster = _watch(target, as_json) if watch else asyncio.run(_once(target, as_json))
    raise typer.Exit(0 if cluster.get("phase") == "healthy" else 1)


async def read_cluster(session: aiohttp.ClientSession, target: Target) -> dict[str, Any]:
    """GET /v1/cluster, or what the agents say when no controller answers."""

    try:
        code, body = await get_bytes(session, f"{target.controller}/v1/cluster", deadline_ms=_ASK_MS)
        if code == 200:
            return msgspec.json.decode(body, type=dict[str, Any])
        error = f"{target.controller} answered {code}"
    except (WireError, msgspec.DecodeError) as failure:
        error = str(failure)
    return await cluster_by_agents(session, target.agents, error)


async def _once(target: Target, as_json: bool) -> dict[str, Any]:

    async with new_session() as session:
        cluster = await read_cluster(session, target)
    _show(cluster, as_json)
    return cluster


def _watch(target: Target, as_json: bool) -> dict[str, Any]:
    cluster: dict[str, Any] = {}
    try:
        if as_json:
            while True:
                cluster = asyncio.run(_once(target, as_json))
                time.sleep(_REFRESH_S)
        asyncio.run(_live(target, cluster))
    except KeyboardInterrupt:
        pass
    return cluster


async def _live(target: Target, last: dict[str, Any]) -> None:
    """Redraw in place; `last` always holds what is on the screen."""

    async with new_session() as session:
        with Live(auto_refresh=False) as live:
            while True:
                last.clear()
                last.update(await read_cluster(session, target))
                live.update(render(last), refresh=True)
                await asyncio.sleep(_REFRESH_S)


def _show(cluster: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print(msgspec.json.encode(cluster).decode())
        return

    console().print(render(cluster))
