"""`locum up`: everything on one machine. Checks first, then two agents, the controller and the server as children; with
--proxied one more, which hosts the links between them, and with --faultfs a disk for each node.

`up` decides nothing about the database: it starts processes, restarts those that die, and stops them in order. The
controller starts, fences and promotes nodes through the agents.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import signal
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

from compose import ready
from compose.adopt import DISKS, PROCESSES, end_leftovers, leftovers, record
from compose.checks import all_or_nothing, check_directory, check_options, check_ports, check_version, exclusive
from compose.credentials import ensure_secrets
from compose.development_auth import ensure_key
from compose.disks import arrange, take_away, until_mounted
from compose.errors import UpRefused
from compose.layout import NODES, WORKERS_MAX, Layout, Ports, worker_names
from compose.links import links_between
from compose.options import UpOptions
from compose.processes import Child, open_log
from compose.progress import Progress
from compose.settings_files import check_settings, write_settings
from compose.shutdown import stop_in_order
from compose.watch import until_bookings_work, watch_primary
from replication.errors import InstallationError
from replication.installation import Installation, find_installation
from replication.wire import log


def run_up(options: UpOptions, progress: Progress) -> int:
    """Run until SIGINT, SIGTERM or SIGHUP; 0 when everything stopped by itself, 1 when something had to be killed.

    Raises UpRefused (nothing was made), SecretError, and ChildFailed (everything was stopped again).
    """
    check_options(options)
    layout, ports = Layout(options.data), Ports(options.port, options.proxied)
    check_directory(layout)
    installation = _installation(options)
    check_version(layout, installation.version[0])
    with _prepared(layout, ports, options) as adopted:
        progress.starting(layout, installation.version, adopted)
        with io.TextIOWrapper(open_log(layout.log("up")), line_buffering=True) as log_file:
            log.configure("up", file=log_file)
            return asyncio.run(_Up(layout, ports, options, progress).run())


def _installation(options: UpOptions) -> Installation:
    try:
        return find_installation(options.pg_bindir)
    except InstallationError as error:
        raise UpRefused(str(error)) from error


@contextmanager
def _prepared(layout: Layout, ports: Ports, options: UpOptions) -> Iterator[list[str]]:
    """Hold the lock and have every file in place; yields the names of what an earlier `up` had left running."""
    with ExitStack() as stack:
        fresh_root = _make_root(layout)
        stack.enter_context(exclusive(layout))
        with all_or_nothing(layout, remove_root=fresh_root):
            found = leftovers(layout)
            check_ports(layout, ports, ours=_ports_of(found, layout))
            end_leftovers(found)
            for directory in layout.directories():
                directory.mkdir(mode=0o700, exist_ok=True)
            arrange(layout, faultfs=options.faultfs)
            ensure_secrets(layout)
            if options.auth:
                ensure_key(layout)
            write_settings(layout, ports, options)
            check_settings(layout)
        yield [name for name, _process in found]


def _make_root(layout: Layout) -> bool:
    if layout.root.exists():
        return False
    try:
        layout.root.mkdir(mode=0o700, parents=True)
    except OSError as error:
        raise UpRefused(f"{layout.root} cannot be made: {error.strerror}; choose another with --data") from error
    return True


def _ports_of(found: Sequence[tuple[str, object]], layout: Layout) -> set[int]:
    """The ports on which leftovers listen, as the earlier `up` wrote them down."""
    if not found:
        return set()
    try:
        old = ready.read(layout.locum_json)
    except (OSError, ValueError):
        return set()
    base = int(old.server.rpartition(":")[2])
    urls = [old.server, old.controller, *(node.agent for node in old.nodes.values())]
    links = [Ports(base).link(link) for link in links_between(NODES)] if old.proxies else []
    return {*(int(url.rpartition(":")[2]) for url in urls), *links}


class _Up:
    """One run: the children, what is written about them, and how they end."""

    def __init__(self, layout: Layout, ports: Ports, options: UpOptions, progress: Progress) -> None:
        self._layout = layout
        self._ports = ports
        self._options = options
        self._progress = progress
        self._bookings_work = False
        self._writing = asyncio.Lock()
        # The agents first, since PostgreSQL takes longest to come up; before them the links through which they talk.
        names = [
            *(DISKS if options.faultfs else ()),
            *(["proxies"] if ports.proxied else []),
            *sorted(set(PROCESSES) - {"proxies", *DISKS, *worker_names(WORKERS_MAX)[options.workers :]}),
        ]
        self._children = {
            name: Child(name, layout.settings(name), layout.log(name), progress.child_died) for name in names
        }

    async def run(self) -> int:
        """Start all, tell when bookings work, wait for a signal, stop all."""
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            loop.add_signal_handler(number, stop.set)
        keepers = [asyncio.create_task(child.keep_running(self._write)) for child in self._of(disks=True)]
        mounting = asyncio.create_task(self._mounted())
        stopping = asyncio.create_task(stop.wait())
        announcing = asyncio.create_task(self._announce())
        try:
            await asyncio.wait([stopping, mounting, *keepers], return_when=asyncio.FIRST_COMPLETED)
            if mounting.done() and not stopping.done():
                mounting.result()
                keepers += [asyncio.create_task(child.keep_running(self._write)) for child in self._of(disks=False)]
                await asyncio.wait([stopping, announcing, *keepers], return_when=asyncio.FIRST_COMPLETED)
        finally:
            mounting.cancel()
            announcing.cancel()
            clean = await self._stop()
            stopping.cancel()
            ended = await asyncio.gather(*keepers, announcing, return_exceptions=True)
            await asyncio.to_thread(take_away, self._layout)
        for result in ended:
            if isinstance(result, Exception):
                raise result
        return 0 if clean else 1

    def _of(self, *, disks: bool) -> list[Child]:
        return [child for name, child in self._children.items() if (name in DISKS) is disks]

    async def _mounted(self) -> None:
        if self._options.faultfs:
            await until_mounted(self._layout)

    async def _announce(self) -> None:
        """Write the ready file once bookings work, then tell every change of the primary until cancelled."""
        if self._options.ready_file is not None:
            await asyncio.to_thread(self._options.ready_file.unlink, missing_ok=True)
        server, controller = self._ports.url(self._ports.server), self._ports.url(self._ports.controller)
        await until_bookings_work(server, controller, self._progress)
        self._bookings_work = True
        for child in self._children.values():
            child.must_stay_up = True
        await self._write()
        self._progress.bookings_work(server, controller, self._layout)
        await watch_primary(controller, self._progress)

    async def _write(self) -> None:
        """Bring pids.json, locum.json and the ready file up to date."""
        async with self._writing:
            running = {name: child.process for name, child in self._children.items() if child.process is not None}
            await asyncio.to_thread(record, self._layout, running)
            now = ready.describe(self._layout, self._ports, running, faultfs=self._options.faultfs)
            await asyncio.to_thread(ready.write, self._layout.locum_json, now)
            if self._bookings_work and self._options.ready_file is not None:
                await asyncio.to_thread(ready.write, self._options.ready_file, now)

    async def _stop(self) -> bool:
        self._progress.stopping()
        controller = self._ports.url(self._ports.controller)
        clean = await stop_in_order(self._children, controller, self._progress)
        if self._options.ready_file is not None:
            with contextlib.suppress(OSError):
                await asyncio.to_thread(self._options.ready_file.unlink, missing_ok=True)
        return clean
