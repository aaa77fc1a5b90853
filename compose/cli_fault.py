"""`locum fault …`: make the disk of a node faulty, on a cluster that was started with --faultfs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer
from rich.table import Table

from compose import flags, ready
from compose.errors import ComposeError
from compose.layout import DEFAULT_DATA, Layout
from compose.options import read_config
from compose.progress import console
from failover.drill.faultfs.client import FaultFsAway, FaultFsClient, FaultFsRefused
from failover.drill.faultfs.spec import Fault, FaultRefused, Files, Kind, Op, parse_fault

Node = Annotated[str, typer.Argument(metavar="NODE")]
Which = Annotated[int | None, typer.Argument(metavar="[ID]", help="As `list` shows it; all without.")]


def register(app: typer.Typer) -> None:
    """Add the group."""
    group = typer.Typer(help="Faults of a node's disk, under `locum up --faultfs`.", no_args_is_help=True)
    group.command("list")(list_faults)
    group.command("arm")(arm)
    group.command("heal")(heal)
    group.command("log")(show_log)
    group.command("power-loss")(lose_power)
    app.add_typer(group, name="fault")


def arm(
    node: Node,
    kind: Annotated[Kind, typer.Argument(help="What happens.")],
    op: Annotated[Op, typer.Option(help="Where it strikes.")] = Op.ANY,
    files: Annotated[Files, typer.Option(help="Which of PostgreSQL's files.")] = Files.ANY,
    path: Annotated[str | None, typer.Option(metavar="PATTERN", help="Below the data directory: base/*/16384.")] = None,
    first_block: Annotated[int | None, typer.Option(help="Of 8 KB, within one file.")] = None,
    last_block: Annotated[int | None, typer.Option(help="Inclusive.")] = None,
    probability: Annotated[float, typer.Option(help="Above 0, at most 1.")] = 1.0,
    seed: Annotated[int, typer.Option(help="The same seed strikes the same operations.")] = 0,
    count: Annotated[int | None, typer.Option(help="So often at most.")] = None,
    duration_ms: Annotated[int | None, typer.Option(help="For so long; else until it is healed.")] = None,
    latency_ms: Annotated[int, typer.Option(help="Of slow.")] = 0,
    to_block: Annotated[int | None, typer.Option(help="Where a misdirected_write goes.")] = None,
    to_path: Annotated[str | None, typer.Option(help="And in which file; the same without.")] = None,
    data: flags.Data = None,
    config: flags.Config = None,
) -> None:
    """Let the disk of NODE do KIND from now on."""
    try:
        fault = parse_fault(
            msgspec.to_builtins(
                Fault(
                    kind=kind,
                    op=op,
                    files=files,
                    path=path,
                    first_block=first_block,
                    last_block=last_block,
                    probability=probability,
                    seed=seed,
                    count=count,
                    duration_ms=duration_ms,
                    latency_ms=latency_ms,
                    to_block=to_block,
                    to_path=to_path,
                )
            )
        )
    except FaultRefused as error:
        raise typer.BadParameter(str(error)) from error
    number = _ask(_disk(node, data, config), {"do": "arm", "fault": msgspec.to_builtins(fault)})["id"]
    console().print(f"fault {number} is armed on {node}; it counts once it has struck: locum fault log {node}")


def heal(node: Node, number: Which = None, data: flags.Data = None, config: flags.Config = None) -> None:
    """End a fault of NODE, or all of them; what they hold up goes on."""
    command: dict[str, Any] = {"do": "disarm"} if number is None else {"do": "disarm", "id": number}
    healed = _ask(_disk(node, data, config), command)["healed"]
    if number is not None and not healed:
        raise ComposeError(f"{node} has no fault {number}; see `locum fault list {node}`")
    console().print(f"{healed} healed on {node}")


def list_faults(node: Node, as_json: flags.Json = False, data: flags.Data = None, config: flags.Config = None) -> None:
    """What is armed on NODE, and how often each has struck."""
    found = _ask(_disk(node, data, config), {"do": "list"})
    if as_json:
        print(msgspec.json.encode(found).decode())
        return
    table = Table("id", "kind", "op", "files", "path", "struck", "over", box=None, pad_edge=False)
    for armed in found["armed"]:
        fault = armed["fault"]
        over = "yes" if armed["over"] else "no"
        where = str(fault["path"] or "")
        table.add_row(str(armed["id"]), fault["kind"], fault["op"], fault["files"], where, str(armed["fired"]), over)
    console().print(table)


def show_log(node: Node, as_json: flags.Json = False, data: flags.Data = None, config: flags.Config = None) -> None:
    """What has struck on NODE: file, block, time, and whether the block existed before."""
    found = _ask(_disk(node, data, config), {"do": "fired"})
    if as_json:
        print(msgspec.json.encode(found).decode())
        return
    table = Table("at", "fault", "kind", "op", "file", "block", "existed", box=None, pad_edge=False)
    for fired in found["fired"]:
        block = "-" if fired["block"] is None else str(fired["block"])
        existed = "yes" if fired["existed"] else "no"
        table.add_row(fired["at"], str(fired["fault"]), fired["kind"], fired["op"], fired["path"], block, existed)
    console().print(table)


def lose_power(node: Node, data: flags.Data = None, config: flags.Config = None) -> None:
    """Everything that NODE has not fsynced is gone. Kill its PostgreSQL first, as the loss of power would."""
    lost = _ask(_disk(node, data, config), {"do": "lose_unsynced"})
    console().print(
        f"{lost['blocks']} blocks of {lost['files']} files and {lost['renames']} renames are lost on {node}"
    )


def _disk(node: str, data: Path | None, config: Path | None) -> FaultFsClient:
    layout = Layout((data or read_config(config).data or DEFAULT_DATA).absolute())
    try:
        found = ready.read(layout.locum_json).nodes
    except (OSError, msgspec.DecodeError) as error:
        raise ComposeError(f"{layout.locum_json} cannot be read: no `locum up` ran there; give --data DIR") from error
    if node not in found:
        raise ComposeError(f"there is no node {node}; nodes: {', '.join(sorted(found))}")
    socket = found[node].faultfs
    if socket is None:
        raise ComposeError("this cluster has plain disks; start it with `locum up --faultfs`")
    return FaultFsClient(Path(socket))


def _ask(disk: FaultFsClient, command: dict[str, Any]) -> dict[str, Any]:
    try:
        return disk.ask(command)
    except (FaultFsAway, FaultFsRefused) as error:
        raise ComposeError(str(error)) from error
