"""The commands that act: switchover, failover, fence, unfence, rebuild, pause, resume.

Each sends one request with the term that it has just read, so that a cluster which changed meanwhile refuses it (409),
and then waits until the cluster shows what was asked for.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from compose import flags
from compose.errors import ComposeError
from compose.operate import Request, carry_out
from compose.options import read_config
from compose.target import find_target

Cluster = dict[str, Any]

_UNITS_MS = {"ms": 1, "s": 1_000, "m": 60_000, "h": 3_600_000}

Node = Annotated[str, typer.Argument(metavar="NODE", help="Name of a node.")]
AcceptDamage = Annotated[
    bool, typer.Option("--accept-damage", help="Although the node carries an unresolved integrity fault.")
]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    for command in (switchover, failover, fence, unfence, rebuild, pause, resume):
        app.command()(command)


def switchover(
    to: Annotated[
        str | None, typer.Option("--to", metavar="NODE", help="The new primary; default: the standby.")
    ] = None,
    reason: flags.Reason = "",
    no_wait: flags.NoWait = False,
    controller: flags.Controller = None,
    token_file: flags.TokenFile = None,
    data: flags.Data = None,
    config: flags.Config = None,
) -> None:
    """Move the primary, planned: nothing is lost and nobody sees an error."""
    request = Request("/v1/switchover", reason, extra={} if to is None else {"to": to})
    _run(request, _moved, "{primary} is primary in term {term}", no_wait, controller, token_file, data, config)


def failover(
    to: Annotated[str, typer.Option("--to", metavar="NODE", help="The node to promote.")],
    accept_data_loss: Annotated[
        bool, typer.Option("--accept-data-loss", help="Even if acknowledged bookings are not on that node.")
    ] = False,
    primary_is_dead: Annotated[
        bool, typer.Option("--primary-is-dead", help="You have made sure that an unreachable primary cannot go on.")
    ] = False,
    accept_damage: AcceptDamage = False,
    reason: flags.Reason = "",
    no_wait: flags.NoWait = False,
    controller: flags.Controller = None,
    token_file: flags.TokenFile = None,
    data: flags.Data = None,
    config: flags.Config = None,
) -> None:
    """Promote a node although the primary did not step down."""
    extra = {
        "to": to,
        "accept_data_loss": accept_data_loss,
        "primary_is_dead": primary_is_dead,
        "accept_damage": accept_damage,
    }
    request = Request("/v1/failover", reason, extra=extra)

    def promoted(_before: Cluster, now: Cluster) -> bool:
        return now["primary"] == to and now["phase"] in ("healthy", "degraded")

    _run(request, promoted, "{primary} is primary in term {term}", no_wait, controller, token_file, data, config)


def fence(
    node: Node,
    reason: flags.Reason = "",
    no_wait: flags.NoWait = False,
    controller: flags.Controller = None,
    token_file: flags.TokenFile = None,
    data: flags.Data = None,
    config: flags.Config = None,
) -> None:
    """Stop every process of a node's PostgreSQL at once, and keep it stopped until `unfence`."""

    def fenced(_before: Cluster, now: Cluster) -> bool:
        return _node(now, node).get("state") == "fenced"

    request = Request(f"/v1/nodes/{node}/fence", reason)
    _run(request, fenced, f"{node} is fenced", no_wait, controller, token_file, data, config)


def unfence(
    node: Node,
    reason: flags.Reason = "",
    no_wait: flags.NoWait = False,
    controller: flags.Controller = None,
    token_file: flags.TokenFile = None,
    data: flags.Data = None,
    config: flags.Config = None,
) -> None:
    """Undo `fence`: the controller may start the node again."""

    def unfenced(_before: Cluster, now: Cluster) -> bool:
        return _node(now, node).get("state") not in ("fenced", "unreachable")

    request = Request(f"/v1/nodes/{node}/unfence", reason)
    _run(request, unfenced, f"{node} is no longer fenced", no_wait, controller, token_file, data, config)


def rebuild(
    node: Node,
    accept_damage: AcceptDamage = False,
    reason: flags.Reason = "",
    no_wait: flags.NoWait = False,
    controller: flags.Controller = None,
    token_file: flags.TokenFile = None,
    data: flags.Data = None,
    config: flags.Config = None,
) -> None:
    """Make a standby anew from the primary."""
    seen: set[str] = set()

    def rebuilt(_before: Cluster, now: Cluster) -> bool:
        found = _node(now, node)
        seen.add(str(found.get("state")))
        return "rebuilding" in seen and found.get("state") == "running" and found.get("eligible") is True

    request = Request(
        f"/v1/nodes/{node}/rebuild", reason, extra={"accept_damage": accept_damage}, deadline_ms=3_600_000
    )
    _run(request, rebuilt, f"{node} is rebuilt and eligible", no_wait, controller, token_file, data, config)


def pause(
    for_: Annotated[str, typer.Option("--for", metavar="TIME", help="How long: 90s, 30m, 2h.")],
    reason: Annotated[str, typer.Option("--reason", help="Why; kept in the records.")],
    controller: flags.Controller = None,
    token_file: flags.TokenFile = None,
    data: flags.Data = None,
    config: flags.Config = None,
) -> None:
    """Stop new promotions, in-place starts and rebuilds for a time; everything else goes on."""
    request = Request("/v1/pause", reason, extra={"for": parse_duration(for_)})
    _run(request, lambda _before, now: bool(now["paused"]), "paused", False, controller, token_file, data, config)


def resume(
    reason: flags.Reason = "",
    controller: flags.Controller = None,
    token_file: flags.TokenFile = None,
    data: flags.Data = None,
    config: flags.Config = None,
) -> None:
    """End a pause."""
    request = Request("/v1/resume", reason)
    _run(request, lambda _before, now: not now["paused"], "resumed", False, controller, token_file, data, config)


def parse_duration(text: str) -> str:
    """Check `90s`, `30m`, `2h`, and return it as it is, since the controller takes the same. Raises BadParameter."""
    match = re.fullmatch(r"(\d{1,9})(ms|s|m|h)", text)
    if match is None or int(match[1]) * _UNITS_MS[match[2]] < 1_000:
        raise typer.BadParameter(f"{text!r} is not a time; write 90s, 30m or 2h", param_hint="--for")
    return text


def _moved(before: Cluster, now: Cluster) -> bool:
    moved = now["primary"] not in (None, before["primary"])
    return moved and now["phase"] in ("healthy", "degraded")


def _node(cluster: Cluster, name: str) -> dict[str, Any]:
    found = cluster["nodes"].get(name)
    return found if isinstance(found, dict) else {}


def _run(
    request: Request,
    done: Callable[[Cluster, Cluster], bool],
    sentence: str,
    no_wait: bool,
    controller: str | None,
    token_file: Path | None,
    data: Path | None,
    config: Path | None,
) -> None:

    target = find_target(read_config(config), controller=controller, token_file=token_file, data=data)
    outcome = asyncio.run(carry_out(target, request, None if no_wait else done))
    if not outcome.ok:
        raise ComposeError(outcome.sentence)
    print(sentence.format(**outcome.after) if outcome.after else outcome.sentence)
