"""`locum scrub [NODE] [--now]`: what the search for damaged pages has found, and a pass of it on demand."""

from __future__ import annotations

import asyncio
import time
from typing import Annotated, Any

import msgspec
import typer
from rich.progress import Progress
from rich.table import Table

from compose import flags
from compose.errors import ComposeError
from compose.options import read_config
from compose.progress import console
from compose.target import Target, find_target
from failover.client import ControllerClient
from failover.errors import ControllerError
from replication.wire.http import new_session

_DEADLINE_S = 6 * 3_600.0
_LOOK_EVERY_S = 0.2
_COLUMNS = (
    "node",
    "passes",
    "progress",
    "pages",
    "bad",
    "read",
    "ended",
    "took s",
    "WAL behind",
    "after checkpoints",
    "compared",
)


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(scrub)


def scrub(
    node: Annotated[str | None, typer.Argument(metavar="[NODE]", help="Every node without.")] = None,
    now: Annotated[bool, typer.Option("--now", help="Read all pages now, as fast as the disk is, and wait.")] = False,
    as_json: flags.Json = False,
    controller: flags.Controller = None,
    token_file: flags.TokenFile = None,
    data: flags.Data = None,
    config: flags.Config = None,
) -> None:
    """Show the search for damaged pages, which every node makes all the time. Exit code 1 when a page is bad."""
    target = find_target(read_config(config), controller=controller, token_file=token_file, data=data)
    try:
        nodes = asyncio.run(_scrub(target, node, now=now, quiet=as_json))
    except ControllerError as error:
        raise ComposeError(error.sentence) from error
    if as_json:
        print(msgspec.json.encode({name: _as_json(found) for name, found in nodes.items()}).decode())
    else:
        table = Table(*_COLUMNS, box=None, pad_edge=False)
        for name, found in nodes.items():
            table.add_row(name, *_cells(found["scrub"]), *wal_cells(found))
        console().print(table)
    bad = any((found["scrub"] or {}).get("bad") or found["faults"] for found in nodes.values())
    raise typer.Exit(1 if bad else 0)


async def _scrub(target: Target, node: str | None, *, now: bool, quiet: bool) -> dict[str, Any]:
    """The chosen nodes as the cluster shows them afterwards. Raises ComposeError, ControllerError, WireError."""
    async with new_session() as session:
        token = await asyncio.to_thread(target.token) if now else None
        client = ControllerClient(session, target.controller, token)
        before = await client.cluster()
        names = sorted(before["nodes"]) if node is None else [node]
        unknown = [name for name in names if name not in before["nodes"]]
        if unknown:
            raise ComposeError(f"there is no node {unknown[0]}; nodes: {', '.join(sorted(before['nodes']))}")
        if not now:
            return {name: before["nodes"][name] for name in names}
        for name in names:
            await client.command(f"/v1/nodes/{name}/scrub", before["term"], "asked for")
        return await _wait(client, before, names, quiet=quiet)


async def _wait(client: ControllerClient, before: dict[str, Any], names: list[str], *, quiet: bool) -> dict[str, Any]:
    """Until each has ended one more pass; the one that was under way began anew when it was asked for."""
    wanted = {name: _passes(before["nodes"][name]) + 1 for name in names}
    until_s = time.monotonic() + _DEADLINE_S
    with Progress(console=console(), disable=quiet or not console().is_terminal) as progress:
        tasks = {name: progress.add_task(name, total=1.0) for name in names}
        while True:
            shown = (await client.cluster())["nodes"]
            for name, task in tasks.items():
                done = _passes(shown[name]) >= wanted[name]
                progress.update(task, completed=1.0 if done else (shown[name]["scrub"] or {}).get("progress", 0.0))
            if all(_passes(shown[name]) >= wanted[name] for name in names):
                return {name: shown[name] for name in names}
            if time.monotonic() > until_s:
                raise ComposeError(f"not ended after {_DEADLINE_S:.0f} s; see `locum scrub`")
            await asyncio.sleep(_LOOK_EVERY_S)


def _passes(node: dict[str, Any]) -> int:
    return int((node["scrub"] or {}).get("passes", 0))


def _cells(found: dict[str, Any] | None) -> tuple[str, ...]:
    if found is None:
        return ("-",) * 7
    return (
        str(found["passes"]),
        f"{found['progress']:.0%}",
        str(found["pages"]),
        str(found["bad"]),
        "through the cache" if found["cached"] else "from the disk",
        found["ended_at"] or "-",
        f"{found['took_s']:.1f}",
    )


def wal_cells(node: dict[str, Any]) -> tuple[str, ...]:
    """What WAL and the other node say of the pages: a standby compares, its primary is asked."""
    ledger, compared = node.get("ledger"), node.get("comparison_of_pages")
    pages = str(compared["pages"]) if compared is not None else "-"
    if ledger is None:
        return ("-", "-", pages)
    waits = f", {ledger['unverified_bytes'] / 1e6:.0f} MB to come" if ledger["unverified_bytes"] else ""
    chain = "" if ledger["chain_checked"] else ", no chain check"
    return (f"{ledger['lag_bytes'] / 1e6:.1f} MB", f"{ledger['verified_blocks']} pages{waits}{chain}", pages)


def _as_json(node: dict[str, Any]) -> dict[str, Any]:
    return {
        **(node["scrub"] or {}),
        "ledger": node.get("ledger"),
        "comparison_of_pages": node.get("comparison_of_pages"),
    }
