"""`locum drill list|run|campaign`: rehearse outages on a cluster that is thrown away afterwards, or against a marked one."""

from __future__ import annotations

import asyncio
import shutil
import signal
import sys
import tempfile
from collections.abc import Coroutine
from pathlib import Path
from typing import Annotated

import msgspec
import typer
from rich.progress import Progress, TimeElapsedColumn
from rich.table import Table

from compose import flags
from compose.errors import ComposeError
from compose.progress import console
from failover.drill import campaign, matrix, report
from failover.drill.errors import DrillError, ScenarioRefused
from failover.drill.judge import Result
from failover.drill.leftovers import heal_leftovers
from failover.drill.runner import Report, run_scenario
from failover.drill.scenario import Scenario, parse_scenario, shipped
from failover.drill.target import Target, find_target
from failover.drill.truth import wrong_verdicts
from replication.wire.secrets import write_private

ReportDir = Annotated[
    Path | None, typer.Option("--report", metavar="DIR", help="Keep report.md, report.json and the histories there.")
]
Junit = Annotated[Path | None, typer.Option(metavar="F", help="Write the result as JUnit.")]
Against = Annotated[
    str | None,
    typer.Option(metavar="URL", help="Of the controller of a running deployment; it must be marked as a drill target."),
]


def register(app: typer.Typer) -> None:
    """Add the group."""
    group = typer.Typer(
        help="Rehearse outages on a throw-away cluster, and judge them from outside.", no_args_is_help=True
    )
    group.command("list")(list_scenarios)
    group.command("run")(run)
    group.command("campaign")(run_campaign)
    app.add_typer(group, name="drill")


def list_scenarios(as_json: flags.Json = False) -> None:
    """The scenarios that come with Locum."""
    found = _shipped()
    if as_json:
        print(msgspec.json.encode(found).decode())
        return
    table = Table("name", "needs", "why", box=None, pad_edge=False)
    for scenario in found:
        needs = [*(["FUSE"] if scenario.needs_fuse else []), *(["proxies"] if scenario.needs_proxies else [])]
        table.add_row(scenario.name, ", ".join(needs), scenario.why)
    console().print(table)


def run(
    names: Annotated[
        list[str], typer.Argument(metavar="NAME…", help="Of `locum drill list`, or files that end in .toml.")
    ],
    seed: Annotated[int, typer.Option(help="Of workload and faults; the same seed gives the same.")] = 1,
    report_dir: ReportDir = None,
    junit: Junit = None,
    against: Against = None,
    as_json: flags.Json = False,
) -> None:
    """Run scenarios one after the other, each on a cluster of its own. Exit code 0 only when all that was expected held."""
    scenarios = [_scenario(name) for name in names]
    with tempfile.TemporaryDirectory(prefix="locum-drill-") as temporary:
        place = report_dir.absolute() if report_dir is not None else Path(temporary)
        reports = asyncio.run(_until_told(_run_all(scenarios, place, seed, against, quiet=as_json)))
        _keep(reports, report_dir, junit)
    if as_json:
        print(report.as_json(reports).decode())
    else:
        _show(reports)
    raise typer.Exit(report.exit_code(reports))


def run_campaign(
    faults: Annotated[int, typer.Option(min=1, help="How many.")],
    seed: Annotated[int, typer.Option(help="The same seed draws the same faults and the same load.")] = 1,
    resume: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Go on with the campaign in DIR; also where a new one is kept.")
    ] = None,
    report_dir: ReportDir = None,
    junit: Junit = None,
    against: Against = None,
) -> None:
    """Draw random faults from the whole catalogue, run each on a cluster of its own, and print class by outcome."""
    place = (resume or Path(f"locum-campaign-{seed}")).absolute()
    reports = asyncio.run(_until_told(_campaign(place, faults, seed, against)))
    table = Table(*matrix.COLUMNS, box=None, pad_edge=False)
    for row in matrix.matrix(reports):
        table.add_row(*row)
    console().print(table)
    _show_objections(reports)
    given, right, wrong = matrix.confusion(reports)
    console().print(f"{right} of {given} verdicts right", *wrong, sep="\n")
    unseen = matrix.undetected(reports)
    console().print(f"{len(unseen)} faults of disk or content were not named", *unseen, sep="\n")
    console().print(f"seed {seed}: {report.summary(reports)}; kept in {place}")
    _keep(reports, report_dir or place, junit)
    raise typer.Exit(report.exit_code(reports))


def _keep(reports: list[Report], report_dir: Path | None, junit: Path | None) -> None:
    if report_dir is not None:
        report_dir.mkdir(parents=True, exist_ok=True)
        (report_dir / "report.md").write_text(report.as_markdown(reports), encoding="utf-8")
        (report_dir / "report.json").write_bytes(report.as_json(reports))
    if junit is not None:
        junit.write_bytes(report.as_junit(reports))


async def _campaign(place: Path, faults: int, seed: int, against: str | None) -> list[Report]:
    """Those that are there already are not run again. Raises ComposeError for a directory of another seed."""
    await asyncio.to_thread(_claim, place, seed)
    target = await _begin(against)
    reports = []
    scenarios = campaign.campaign(seed, faults)
    with _progress(scenarios) as progress:
        task = progress.add_task("campaign", total=sum(scenario.takes_s for scenario in scenarios))
        for number, scenario in enumerate(scenarios):
            progress.update(task, description=f"{scenario.name} of {faults}")
            kept = place / f"{number:03d}.json"
            found = await asyncio.to_thread(_kept, kept)
            if found is None:
                directory = place / f"{number:03d}"
                await asyncio.to_thread(shutil.rmtree, directory, ignore_errors=True)
                found = await run_scenario(
                    scenario, directory, seed=seed * 1_000 + number, tell=lambda _what: None, against=target
                )
                await asyncio.to_thread(write_private, kept, msgspec.json.encode(found).decode())
                if found.result is Result.PASSED and not wrong_verdicts(found):
                    await asyncio.to_thread(shutil.rmtree, directory, ignore_errors=True)
            reports.append(found)
            progress.advance(task, scenario.takes_s)
    return reports


async def _begin(against: str | None) -> Target | None:
    """Undo what a killed drill has left, and look up whom to drill. Raises ComposeError."""
    try:
        await heal_leftovers(lambda what: print(what, file=sys.stderr))  # what is printed for a program stays JSON
        return None if against is None else await find_target(against)
    except DrillError as error:
        raise ComposeError(str(error)) from error


def _progress(scenarios: list[Scenario]) -> Progress:
    """A bar with the time that is left; of one scenario it would say nothing."""
    columns = (*Progress.get_default_columns(), TimeElapsedColumn())
    return Progress(*columns, console=console(), disable=len(scenarios) < 2 or not console().is_terminal)


def _claim(place: Path, seed: int) -> None:
    place.mkdir(parents=True, exist_ok=True)
    mark = place / "seed"
    if mark.exists():
        if mark.read_text(encoding="ascii").strip() != str(seed):
            raise ComposeError(f"{place} holds a campaign of seed {mark.read_text(encoding='ascii').strip()}")
    else:
        mark.write_text(f"{seed}\n", encoding="ascii")


def _kept(path: Path) -> Report | None:
    if not path.exists():
        return None
    try:
        return msgspec.json.decode(path.read_bytes(), type=Report)
    except msgspec.DecodeError:
        return None  # of another version, or cut off: it is run again


async def _until_told(work: Coroutine[None, None, list[Report]]) -> list[Report]:
    """Run it; SIGINT or SIGTERM end it in order: faults healed, cluster stopped. Raises ComposeError then."""
    running = asyncio.create_task(work)
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, running.cancel)
    try:
        return await running
    except asyncio.CancelledError as error:
        raise ComposeError("the drill was aborted: its faults are healed and its cluster is stopped") from error


async def _run_all(
    scenarios: list[Scenario], place: Path, seed: int, against: str | None, *, quiet: bool
) -> list[Report]:
    target = await _begin(against)
    reports = []
    with _progress(scenarios) as progress:
        task = progress.add_task("drills", total=sum(scenario.takes_s for scenario in scenarios))
        for number, scenario in enumerate(scenarios, 1):

            def tell(what: str, prefix: str = f"{number}/{len(scenarios)} {scenario.name}") -> None:
                if not quiet:
                    progress.console.print(f"{prefix}: {what}", highlight=False, markup=False)

            directory = place / f"{number:02d}-{scenario.name}"
            reports.append(await run_scenario(scenario, directory, seed=seed, tell=tell, against=target))
            tell(reports[-1].result.value)
            progress.advance(task, scenario.takes_s)
    return reports


def _show(reports: list[Report]) -> None:
    table = Table(*report.COLUMNS, box=None, pad_edge=False)
    for one in reports:
        table.add_row(*report.row(one))
    console().print(table)
    _show_objections(reports)
    console().print(report.summary(reports))


def _show_objections(reports: list[Report]) -> None:
    for one in reports:
        for sentence in report.said(one):
            console().print(f"{one.scenario.name}: {sentence}", markup=False)


def _scenario(name: str) -> Scenario:
    if name.endswith(".toml"):
        try:
            return parse_scenario(Path(name).read_bytes(), name)
        except OSError as error:
            raise ComposeError(f"{name} cannot be read: {error.strerror}") from error
        except ScenarioRefused as error:
            raise ComposeError(str(error)) from error
    for scenario in _shipped():
        if scenario.name == name:
            return scenario
    raise ComposeError(f"there is no scenario {name}; see `locum drill list`")


def _shipped() -> list[Scenario]:
    try:
        return shipped()
    except ScenarioRefused as error:
        raise ComposeError(str(error)) from error
