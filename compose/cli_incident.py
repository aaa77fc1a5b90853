"""`locum incident list|show|bundle|close`: what happened, as the controller recorded it."""

from __future__ import annotations

import asyncio
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer

from compose import flags
from compose.errors import ComposeError
from compose.incident_view import markdown, table
from compose.operate import Request, carry_out
from compose.options import read_config
from compose.progress import console
from compose.target import Target, find_target
from replication.wire.http import get_bytes, new_session, post_json
from replication.wire.secrets import write_private

_ASK_MS = 5_000
_BUNDLE_MS = 60_000


class Format(StrEnum):
    MARKDOWN = "md"
    JSON = "json"


def register(app: typer.Typer) -> None:
    """Add the group."""
    group = typer.Typer(help="Incidents, as they were recorded while they happened.", no_args_is_help=True)
    group.command("list")(list_incidents)
    group.command("show")(show_incident)
    group.command("bundle")(bundle_incident)
    group.command("close")(close_incident)
    app.add_typer(group, name="incident")


def list_incidents(
    as_json: flags.Json = False,
    controller: flags.Controller = None,
    token_file: flags.TokenFile = None,
    data: flags.Data = None,
    config: flags.Config = None,
) -> None:
    """All incidents, newest last."""

    target = find_target(read_config(config), controller=controller, token_file=token_file, data=data)
    body = asyncio.run(_get(target, "/v1/incidents"))
    if as_json:
        print(body.decode())
        return

    console().print(table(_incidents(body)))


def show_incident(
    incident_id: Annotated[str, typer.Argument(metavar="ID")],
    format_: Annotated[Format, typer.Option("--format", help="md or json.")] = Format.MARKDOWN,
    controller: flags.Controller = None,
    token_file: flags.TokenFile = None,
    data: flags.Data = None,
    config: flags.Config = None,
) -> None:
    """One incident: verdict, evidence, what was ruled out, timeline, outage."""

    target = find_target(read_config(config), controller=controller, token_file=token_file, data=data)
    body = asyncio.run(_get(target, f"/v1/incidents/{incident_id}"))
    if format_ is Format.JSON:
        print(body.decode())
        return

    print(markdown(msgspec.json.decode(body, type=dict[str, Any])))


def bundle_incident(
    incident_id: Annotated[str, typer.Argument(metavar="ID")],
    output: Annotated[
        Path | None, typer.Option("--output", help="Where to write it; incident-ID.tar.gz without.")
    ] = None,
    controller: flags.Controller = None,
    token_file: flags.TokenFile = None,
    data: flags.Data = None,
    config: flags.Config = None,
) -> None:
    """One incident with what every node has kept of it, as an archive. Its .page and .peer files hold patients' data."""
    target = find_target(read_config(config), controller=controller, token_file=token_file, data=data)
    body = asyncio.run(_post(target, f"/v1/incidents/{incident_id}/bundle"))
    path = output or Path(f"incident-{incident_id}.tar.gz")
    try:
        write_private(path, body)
    except OSError as error:
        raise ComposeError(f"cannot write {path}: {error.strerror}") from error
    console().print(f"{path}: {len(body)} bytes")


def close_incident(
    incident_id: Annotated[str, typer.Argument(metavar="ID")],
    note: Annotated[str, typer.Option("--note", help="Why it may be closed; it goes into the record.")],
    controller: flags.Controller = None,
    token_file: flags.TokenFile = None,
    data: flags.Data = None,
    config: flags.Config = None,
) -> None:
    """Close an open incident by hand, such as one whose receipts showed a loss that was looked into."""
    target = find_target(read_config(config), controller=controller, token_file=token_file, data=data)
    request = Request(f"/v1/incidents/{incident_id}/close", "", extra={"note": note})
    outcome = asyncio.run(carry_out(target, request, None))
    if not outcome.ok:
        raise ComposeError(outcome.sentence)
    console().print(outcome.sentence)


async def _post(target: Target, path: str) -> bytes:
    async with new_session() as session:
        token = await asyncio.to_thread(target.token)
        status, body = await post_json(session, target.controller + path, {}, token=token, deadline_ms=_BUNDLE_MS)
    if status == 404:
        raise ComposeError("there is no such incident; see `locum incident list`")
    if status != 200:
        raise ComposeError(f"{target.controller}{path} answered {status}: {body[:200].decode(errors='replace')}")
    return body


async def _get(target: Target, path: str) -> bytes:

    async with new_session() as session:
        status, body = await get_bytes(session, target.controller + path, deadline_ms=_ASK_MS)
    if status == 404:
        raise ComposeError(f"there is no {path.removeprefix('/v1/')}; see `locum incident list`")
    if status != 200:
        raise ComposeError(f"{target.controller}{path} answered {status}")
    return body


def _incidents(body: bytes) -> list[dict[str, Any]]:
    found = msgspec.json.decode(body)
    items = found.get("incidents", []) if isinstance(found, dict) else found
    return [item for item in items if isinstance(item, dict)]
