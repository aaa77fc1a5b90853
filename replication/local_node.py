"""All that an action may use of its node: settings files, the postmaster, SQL, memory and the other agents."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import asyncpg
import msgspec

from replication import data_directory
from replication.client import AgentClient
from replication.control_file import read_control
from replication.errors import SQL_ERRORS, ActionFailed
from replication.memory import Memory
from replication.model import DataDirectory, Reason, Role, Stage
from replication.node import Node
from replication.retries import connecting, until
from replication.settings_file import CONF, HBA, IDENT, Written, render_conf, render_hba, render_passfile
from replication.spare import SpareConnection
from replication.state_dir import AgentState, StateDir
from replication.supervisor import Supervisor
from replication.threads import in_thread
from replication.wire.secrets import write_private

_RELOAD_DEADLINE_MS = 3_000
_RELOAD_POLL_MS = 2


class Outcome(msgspec.Struct, frozen=True):
    """What an action achieved, for a person, and what is to be persisted with its result."""

    sentence: str
    changes: dict[str, Any] = {}


class LocalNode:
    """Handed to every action. `refresh` brings fresh SQL facts, `publish` tells the subscribers."""

    def __init__(
        self,
        node: Node,
        store: StateDir,
        supervisor: Supervisor,
        memory: Memory,
        session: aiohttp.ClientSession,
        *,
        refresh: Callable[[], Awaitable[None]],
        publish: Callable[[str], None],
        spare: SpareConnection,
    ) -> None:
        self.node = node
        self.store = store
        self.supervisor = supervisor
        self.memory = memory
        self.refresh = refresh
        self.publish = publish
        self.spare = spare
        self.recorded: asyncio.Future[AgentState] | None = None
        """Done when revision and intention of the action under way are on disk."""
        self._session = session
        self._token = node.secret("token")

    @property
    def state(self) -> AgentState:
        """What is persisted."""
        return self.store.state

    async def until_recorded(self) -> None:
        """Return when the action under way is on disk. Raises StateError when it could not be written."""
        if self.recorded is not None:
            await asyncio.shield(self.recorded)

    def peer(self, name: str) -> AgentClient:
        """Another agent. Raises ActionFailed(CANNOT_ASK) when the settings do not name it."""
        peer = self.node.settings.peers.get(name)
        if peer is None:
            raise ActionFailed(Reason.CANNOT_ASK, f"the settings of node {self.node.name} name no peer {name!r}")
        return AgentClient(self._session, peer.agent_url, self._token)

    async def write_settings(self, revision: int, *, durable: bool = True) -> None:
        """Write all settings files, from the persisted state. Nothing is read again yet.

        Not `durable`: without fsync, where milliseconds count and every start writes them anew anyway.
        """
        await in_thread(self._write_files, written_from(self.state), revision, durable)

    async def reload(self) -> None:
        """SIGHUP, and return when a session that was there before has read the new files.

        The postmaster reads pg_hba right after the settings, before it accepts the next connection
        (src/backend/postmaster/postmaster.c, process_pm_reload_request). Raises ActionFailed(DEADLINE).
        """
        async with self.connection() as connection:
            before = await connection.fetchval("SELECT pg_conf_load_time()")
            self.supervisor.reload()

            async def loaded() -> bool:
                return bool(await connection.fetchval("SELECT pg_conf_load_time() > $1", before))

            await until(
                loaded,
                every_ms=_RELOAD_POLL_MS,
                deadline_ms=_RELOAD_DEADLINE_MS,
                sentence="PostgreSQL has not read its settings again",
            )

    @asynccontextmanager
    async def connection(self, database: str = "postgres") -> AsyncIterator[asyncpg.Connection]:
        """A superuser connection for one action, dropped at the end. Raises ActionFailed(FAILED), at once when PostgreSQL
        does not run (any more): until the action has ended nobody can bring it back."""
        try:
            policy = connecting(lambda: self.supervisor.running)
            connection: asyncpg.Connection = await policy(self.node.connect, database=database)
        except SQL_ERRORS as error:
            raise ActionFailed(Reason.FAILED, f"cannot connect to PostgreSQL: {error!r}") from error
        try:
            yield connection
        except SQL_ERRORS as error:
            raise ActionFailed(Reason.FAILED, f"PostgreSQL said: {error}") from error
        finally:
            connection.terminate()

    async def write_passfile(self) -> None:
        """What libpq's clients (walreceiver, pg_basebackup) need to log in."""
        text = render_passfile(self.node.secret("replication"))
        await in_thread(write_private, self.node.passfile, text)

    async def look_at_data(self) -> None:
        """Note what the data directory is now, and whose."""
        self.memory.data = await in_thread(data_directory.inspect, self.node)
        self.memory.system_identifier = None
        if self.memory.data is DataDirectory.PRESENT:
            try:
                self.memory.system_identifier = (await read_control(self.node)).system_identifier
            except ActionFailed:
                self.memory.system_identifier = None

    def _write_files(self, written: Written, revision: int, durable: bool) -> None:
        texts = {
            self.node.passfile: render_passfile(self.node.secret("replication")),
            self.node.conf_dir / IDENT: "# no maps\n",
            self.node.conf_dir / HBA: render_hba(self.node, written),
            self.node.conf_dir / CONF: render_conf(self.node, written),
        }
        for path, text in texts.items():
            self.store.write_settings(path, text, revision, durable=durable)


def written_from(state: AgentState) -> Written:
    """The settings that the persisted state stands for. Raises ActionFailed when it has no role yet."""
    if state.configured_role is None:
        raise ActionFailed(Reason.WRONG_STATE, "no role was ever given to this node")
    return Written(
        role=state.configured_role,
        term=state.term,
        revision=state.revision,
        stage=state.stage or Stage.CLOSED,
        names=state.names if state.configured_role is Role.PRIMARY else (),
        standby_name=state.configured_name,
        upstream=state.upstream,
        slot=state.slot,
        stop_before_lsn=state.stop_before_lsn,
    )
