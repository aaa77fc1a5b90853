"""The controller's process: `run` starts it; `Controller` holds the leader lease and drives the core.

A controller without the lease stands by: it answers /livez and nothing else. The one that has it goes on from the stored
state, so that a death at any point costs only the time to start again.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import structlog

from failover.alarms import AlarmHook
from failover.api import make_app
from failover.core.model import State, initial_state
from failover.desk import Desk
from failover.errors import LeaseHeld, StoreError
from failover.evidence import ServersSeen
from failover.loop import Loop
from failover.metrics import Metrics
from failover.receipts import ServerReceipts
from failover.retries import taking_lease
from failover.settings import ControllerSettings, SettingsError, load
from failover.store.sqlite import SqliteStore
from replication.client import AgentClient
from replication.wire import process
from replication.wire.http import new_session
from replication.wire.secrets import read_secret
from replication.wire.sse import EventHub

_log = structlog.get_logger()


def run(settings_path: Path) -> int:
    """Run the controller of these settings until SIGTERM or SIGINT; the exit code."""
    os.umask(0o077)
    return process.run(lambda: _main(settings_path), "controller", expected=(SettingsError, StoreError))


async def _main(settings_path: Path) -> int:
    settings = await asyncio.to_thread(load, settings_path)
    async with running_controller(settings):
        await process.until_signal()
    return 0


@asynccontextmanager
async def running_controller(settings: ControllerSettings) -> AsyncIterator[Controller]:
    """A controller that listens, and leads as soon as it may.

    Raises SettingsError, SecretError, PortOccupied, or a StoreError when the store failed or another took over.
    """
    token = await asyncio.to_thread(read_secret, settings.token_file)
    async with new_session() as session:
        controller = Controller(settings, session, token)
        async with process.listening(make_app(controller, token), settings.listen_host, settings.listen_port):
            try:
                async with asyncio.TaskGroup() as tasks:
                    leading = tasks.create_task(controller.lead(), name="lead")
                    try:
                        yield controller
                    finally:
                        controller.hub.close()
                        leading.cancel()
            except BaseExceptionGroup as group:
                # One failure is the rule, and its sentence is what a person should read.
                raise _first(group) from group


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    first = group.exceptions[0]
    return _first(first) if isinstance(first, BaseExceptionGroup) else first


class Controller:
    """What the API reads and asks. `loop` is None while another controller leads."""

    def __init__(self, settings: ControllerSettings, session: aiohttp.ClientSession, token: str) -> None:
        self.settings = settings
        self.hub = EventHub()
        self.desk = Desk()
        self.servers = ServersSeen()
        self.metrics = Metrics()
        self.hook = AlarmHook(settings.alarm_command)
        self.agents = {name: AgentClient(session, node.agent_url, token) for name, node in settings.nodes.items()}
        self.receipts = ServerReceipts(session, settings.server_urls, token)
        self.dsns = {
            name: server_dsn(node.postgres_host, node.postgres_port, settings.database)
            for name, node in settings.nodes.items()
        }
        self.loop: Loop | None = None

    async def lead(self) -> None:
        """Take the leader lease, and decide until cancelled. Raises StoreError, SettingsError."""
        store = await self._take_lease()
        try:
            state = await store.load() or initial_state(tuple(self.settings.nodes))
            self._check_nodes(state)
            _log.info("controller.leads", term=state.term, revision=state.revision, primary=state.primary)
            async with asyncio.TaskGroup() as tasks:
                self.loop = Loop(self, store, state, tasks)
                self.metrics.leading.set(1)
                tasks.create_task(self.hook.run(), name="alarm-hook")
                await self.loop.run()
        finally:
            self.loop = None
            self.metrics.leading.set(0)
            await store.close()

    async def _take_lease(self) -> SqliteStore:
        path = self.settings.store_path
        try:
            return await SqliteStore.open(path)
        except LeaseHeld as error:
            _log.info("controller.stands_by", sentence=str(error))
        while True:
            try:
                return await taking_lease()(SqliteStore.open, path)
            except LeaseHeld:
                continue

    def _check_nodes(self, state: State) -> None:
        known, named = sorted(state.nodes), sorted(self.settings.nodes)
        if known != named:
            raise SettingsError(
                f"the store {self.settings.store_path} is of a cluster of nodes {', '.join(known)}, and the settings "
                f"name {', '.join(named)}; use the settings of that cluster, or another store_path"
            )


def server_dsn(host: str, port: int, database: str) -> str:
    """Where servers connect; no password, since each server reads its own from a file (RFC 3986, section 3.2.2)."""
    shown = f"[{host}]" if ":" in host else host
    return f"postgresql://locum_server@{shown}:{port}/{database}"
