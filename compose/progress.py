"""What `locum up` says in the terminal: a few lines for a person; the details are in the logs."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING

from rich.console import Console

from compose.layout import Layout
from replication.topology import Phase, Topology

if TYPE_CHECKING:
    from compose.watch import ClusterGlance


class Progress:
    """Lines on standard output, each with the seconds since the start."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._began = time.monotonic()
        self._last: tuple[int, str | None, Phase] | None = None

    def starting(self, layout: Layout, version: tuple[int, int], adopted: list[str]) -> None:
        """The checks passed and the files are in place."""
        self._say(f"PostgreSQL {version[0]}.{version[1]}, data in {layout.root}")
        if adopted:
            self._say(f"ended what an earlier `locum up` had left running: {', '.join(adopted)}")

    def waiting(self, phase: str, glance: ClusterGlance | None) -> None:
        """Bookings do not work yet."""
        step = f"; {glance.next_step}" if glance and glance.next_step else ""
        self._say(f"[yellow]bookings do not work yet[/]: {phase}{step}")

    def bookings_work(self, server: str, controller: str, layout: Layout) -> None:
        """The first moment at which a patient can book."""
        self._say(f"[green]bookings work[/] at [bold]{server}/fhir[/] (controller {controller})")
        self._say(f"look with: locum status --data {layout.root} · logs in {layout.logs} · stop with Ctrl-C")

    def topology(self, record: Topology) -> None:
        """A line when the term, the primary or the phase changed."""
        name = None if record.primary is None else record.primary.name
        seen = (record.term, name, record.phase)
        if seen == self._last:
            return
        self._last = seen
        colour = {Phase.HEALTHY: "green", Phase.NO_PRIMARY: "red"}.get(record.phase, "yellow")
        self._say(f"[{colour}]{record.phase}[/]: term {record.term}, primary {name or 'none'}")

    def child_died(self, name: str, code: int) -> None:
        """A process ended by itself; it is started again."""
        how = f"was killed by signal {-code}" if code < 0 else f"ended with {code}"
        self._say(f"[yellow]the {name} {how}[/] and is started again")

    def stopping(self) -> None:
        """A signal came."""
        self._say("stopping: server, controller, primary, standby")

    def stopped(self, name: str, ended: bool) -> None:
        """One child is gone."""
        self._say(f"{name} stopped" if ended else f"[red]{name} did not stop in time and was killed[/]")

    def _say(self, text: str) -> None:
        self._console.print(f"[dim]{time.monotonic() - self._began:6.1f} s[/]  {text}", highlight=False, soft_wrap=True)


def console() -> Console:
    """Standard output: in colour and as wide as the terminal, or plain and wide enough for every table."""
    return Console() if sys.stdout.isatty() else Console(width=200)
