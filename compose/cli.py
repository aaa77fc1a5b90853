"""The `locum` command line (DESIGN section 7). Exit codes: 0 done, 1 failed, 2 wrong usage."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from compose import cli_drill, cli_fault, cli_incident, cli_operate, cli_scrub, cli_status, cli_token, flags
from compose.child import run_child
from compose.errors import ComposeError
from compose.layout import WORKERS_MAX
from replication.wire.errors import SecretError, WireError

app = typer.Typer(
    help="Appointment scheduling for hospitals that keeps working when its own disks do not.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def main() -> None:
    """Entry point: an expected error is one line on standard error, and exit code 1."""
    try:
        app()
    except (ComposeError, SecretError, WireError) as error:
        print(f"locum: {error}", file=sys.stderr)
        sys.exit(1)


@app.command()
def up(
    data: flags.Data = None,
    port: Annotated[
        int | None, typer.Option(help="Server; +1 controller, +11.. agents, +21.. PostgreSQL. Default 8080.")
    ] = None,
    nodes: Annotated[int | None, typer.Option(help="Only 2, until quorum promotion exists.")] = None,
    demo_practitioners: Annotated[int | None, typer.Option(help="Size of the demo clinic, 0 to 80; default 3.")] = None,
    no_demo: Annotated[bool, typer.Option("--no-demo", help="No demo clinic.")] = False,
    workers: Annotated[
        int | None,
        typer.Option(min=1, max=WORKERS_MAX, help="Processes that serve the API at the one port. Default 1."),
    ] = None,
    pg_bindir: Annotated[Path | None, typer.Option(metavar="DIR", help="PostgreSQL's binaries, 15 to 18.")] = None,
    observe_only: Annotated[bool, typer.Option("--observe-only", help="Decide and tell, but act on nothing.")] = False,
    proxied: Annotated[
        bool,
        typer.Option(
            "--proxied",
            help="For tests and drills: every process reaches the others through a proxy on PORT + 31 to PORT + 40, so that "
            "each link can be cut or frozen by a line of JSON to DIR/links.sock.",
        ),
    ] = False,
    faultfs: Annotated[
        bool,
        typer.Option(
            "--faultfs",
            help="For tests and drills: put each node's files on a disk that can be made faulty with `locum fault` (needs FUSE).",
        ),
    ] = False,
    drill_target: Annotated[
        bool,
        typer.Option("--drill-target", help="Allow `locum drill run --against` to make this deployment fail."),
    ] = False,
    auth: Annotated[
        bool,
        typer.Option(
            "--auth",
            help="The API needs bearer tokens. `locum token` makes them; or name your issuer in [server.auth].",
        ),
    ] = False,
    ready_file: Annotated[
        Path | None, typer.Option(metavar="F", help="Written once bookings work: addresses and pids, JSON, 0600.")
    ] = None,
    controller: flags.Controller = None,
    token_file: flags.TokenFile = None,
    config: flags.Config = None,
) -> None:
    """Run everything on this machine: two PostgreSQL nodes, their agents, the controller and the server."""
    from compose.local import run_up
    from compose.options import read_config, up_options
    from compose.progress import Progress, console

    if no_demo and demo_practitioners:
        raise typer.BadParameter("--no-demo and --demo-practitioners exclude each other")
    if controller is not None or token_file is not None:
        raise typer.BadParameter("`up` makes its own controller and token; --port and --data say where")
    options = up_options(
        read_config(config),
        data=data,
        port=port,
        nodes=nodes,
        demo_practitioners=0 if no_demo else demo_practitioners,
        pg_bindir=pg_bindir,
        ready_file=ready_file,
        observe_only=observe_only,
        proxied=proxied,
        faultfs=faultfs,
        drill_target=drill_target,
        workers=workers,
        auth=auth,
    )
    raise typer.Exit(run_up(options, Progress(console())))


@app.command()
def agent(config: flags.Part) -> None:
    """Run the agent of one node."""
    raise typer.Exit(run_child("agent", config))


@app.command()
def controller(config: flags.Part) -> None:
    """Run the failover controller."""
    raise typer.Exit(run_child("controller", config))


@app.command()
def server(config: flags.Part) -> None:
    """Run the patient-facing server."""
    raise typer.Exit(run_child("server", config))


cli_status.register(app)
cli_operate.register(app)
cli_incident.register(app)
cli_scrub.register(app)
cli_fault.register(app)
cli_drill.register(app)
cli_token.register(app)
