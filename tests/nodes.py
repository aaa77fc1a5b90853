"""Real nodes for tests: one or two agents in this process, each with a real PostgreSQL, on free ports, in temp dirs.

`async with nodes(tmp_path) as pair:` gives agents `a` and `b`; `pair.a.act(op)` sends an action over HTTP as the
controller would and waits for its result. Everything started is ended by pid when the block ends.
"""

from __future__ import annotations

import asyncio
import secrets
import shutil
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import asyncpg
import msgspec

from replication import actions
from replication.actions import Action, Op
from replication.agent import Agent, running_agent
from replication.fence import fence
from replication.model import ActionResult, NodeReport, Stage
from replication.settings import AgentSettings, Peer
from replication.wire.http import get_bytes, new_session, post_json
from replication.wire.secrets import write_private
from tests.ports import free_port

HOST = "127.0.0.1"
POSTGRES_15 = Path("/usr/lib/postgresql/15/bin")
SCHEMA = "CREATE TABLE IF NOT EXISTS appointment (id bigint PRIMARY KEY, note text);\n" \
    "GRANT SELECT, INSERT, UPDATE, DELETE ON appointment TO locum_server;\n"  # fmt: skip
ACTION_DEADLINE_S = 60.0
_SMALL = {"shared_buffers": "16MB", "max_wal_size": "256MB", "min_wal_size": "32MB", "wal_keep_size": "32MB"}


_SECRETS = {name: secrets.token_hex(32) for name in ("token", "superuser", "replication", "server")}
_SCRATCH = tempfile.TemporaryDirectory(prefix="locum-templates-")


def _template_of(agent: Agent) -> Path:
    """Where this run's ready-made cluster of a PostgreSQL version lies."""
    return Path(_SCRATCH.name, agent.node.installation.version_text)


def _keep_template(data_dir: Path, template: Path) -> None:
    half = template.with_suffix(".half")
    shutil.copytree(data_dir, half, symlinks=True)
    half.rename(template)


def make_settings(
    root: Path, names: tuple[str, ...], *, bindir: Path | None = None, **more: Any
) -> dict[str, AgentSettings]:
    """Settings of agents that know each other, with secrets and a small schema under `root`."""
    folder = root / "secrets"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    for name, text in _SECRETS.items():
        write_private(folder / name, text + "\n")
    schema = root / "schema.sql"
    schema.write_text(SCHEMA, encoding="utf-8")
    ports = {name: (free_port(), free_port()) for name in names}
    more = {"lease_ttl_ms": 120_000, **more}  # no controller is here to renew it
    postgres = {**_SMALL, **more.pop("postgres", {})}
    return {
        name: AgentSettings(
            name=name,
            data_dir=root / "nodes" / name / "pgdata",
            state_dir=root / "agents" / name,
            secrets_dir=folder,
            schema_file=schema,
            listen_port=ports[name][0],
            postgres_port=ports[name][1],
            peers={
                peer: Peer(f"http://{HOST}:{ports[peer][0]}", HOST, ports[peer][1]) for peer in names if peer != name
            },
            bindir=bindir,
            postgres=postgres,
            **more,
        )
        for name in names
    }


class NodeUnderTest:
    """One agent, and the controller's side of its HTTP interface."""

    def __init__(self, settings: AgentSettings, session: aiohttp.ClientSession) -> None:
        self.settings = settings
        self.session = session
        self.url = f"http://{HOST}:{settings.listen_port}"
        self.agent: Agent | None = None
        self.term = 1
        self._refused_revision = 0
        """The highest that the agent refused: no controller gives it to another action."""
        self._stack = AsyncExitStack()

    @property
    def running(self) -> Agent:
        """The agent, which must have been started."""
        assert self.agent is not None
        return self.agent

    @property
    def token(self) -> str:
        """The bearer token."""
        return (self.settings.secrets_dir / "token").read_text().strip()

    async def start_agent(self) -> None:
        """Begin a run of the agent (a new boot id)."""
        (self.settings.data_dir.parent).mkdir(parents=True, exist_ok=True)
        self.agent = await self._stack.enter_async_context(running_agent(self.settings))

    async def end_agent(self) -> None:
        """The agent goes; its PostgreSQL runs on, as after a SIGKILL of the agent."""
        stack, self._stack = self._stack, AsyncExitStack()
        await stack.aclose()
        self.agent = None

    async def clean_up(self) -> None:
        """End the agent and every process of the node."""
        await self.end_agent()
        await asyncio.to_thread(fence, None, str(self.settings.data_dir.resolve()))

    async def report(self, *, witness: bool = False) -> NodeReport:
        """What the agent says now."""
        status, body = await get_bytes(
            self.session, f"{self.url}/v1/observe{'?witness=1' if witness else ''}", deadline_ms=3_000
        )
        assert status == 200, body
        return msgspec.json.decode(body, type=NodeReport)

    async def action(self, op: Op, **changed: Any) -> Action:
        """An action that answers a report of now; fields can be changed to make it a bad one."""
        report = await self.report()
        fields: dict[str, Any] = {
            "node": report.node,
            "term": max(self.term, report.term),
            "revision": max(report.revision, self._refused_revision) + 1,
            "boot_id": report.boot_id,
            "observed_clock_ms": report.clock_ms,
            **changed,
        }
        return Action(op=op, **fields)

    async def send(self, action: Action, *, token: str | None = None) -> tuple[int, dict[str, Any]]:
        """POST it: status and answer."""
        status, body = await post_json(
            self.session, f"{self.url}/v1/actions", action, token=token or self.token, deadline_ms=5_000
        )
        if status == 409 and action.boot_id == self.running.memory.boot_id and action.node == self.settings.name:
            self._refused_revision = max(self._refused_revision, action.revision)
        return status, msgspec.json.decode(body)

    async def act(self, op: Op, *, ok: bool = True, **changed: Any) -> ActionResult:
        """Send an action, wait for its end, and check that it went as expected."""
        action = await self.action(op, **changed)
        status, answer = await self.send(action)
        assert status == 202, answer
        report = await self.wait(
            lambda report: report.doing is None and any(result.revision == action.revision for result in report.results)
        )
        result = next(result for result in report.results if result.revision == action.revision)
        assert result.ok is ok, result
        return result

    async def wait(self, condition: Callable[[NodeReport], object], *, deadline_s: float | None = None) -> NodeReport:
        """Poll the report until the condition holds."""
        end = time.monotonic() + (ACTION_DEADLINE_S if deadline_s is None else deadline_s)
        while True:
            report = await self.report()
            if condition(report):
                return report
            assert time.monotonic() < end, report
            await asyncio.sleep(0.01)

    async def first_start(self, *, stage: Stage = Stage.OPEN, fresh: bool = False) -> str:
        """A running primary with the schema: the incarnation. Unless `fresh`, the cluster is a copy of one that was
        made earlier in this test run; with it, the whole way from initdb is gone."""
        template = _template_of(self.running)
        if not fresh and template.exists():
            await asyncio.to_thread(
                shutil.copytree, template, self.settings.data_dir, symlinks=True, dirs_exist_ok=True
            )
            await self.running.local.look_at_data()
            await self.running.store.change(schema_applied=True)
        else:
            await self._make_cluster()
            if not fresh:
                await asyncio.to_thread(_keep_template, self.settings.data_dir, template)
        await self.act(actions.StartPrimary())
        incarnation = (await self.report()).incarnation
        assert incarnation is not None
        if stage is not Stage.CLOSED:
            await self.act(actions.SetStage(stage, incarnation))
        return incarnation

    async def _make_cluster(self) -> None:
        await self.act(actions.InitDb())
        await self.act(actions.StartPrimary())
        incarnation = (await self.report()).incarnation or ""
        await self.act(actions.ApplySchema(incarnation))
        await self.act(actions.Stop(20_000, incarnation))

    async def connect(self, user: str = "postgres", database: str = "locum") -> asyncpg.Connection:
        """Over TCP, as a client from outside."""
        secret = {"postgres": "superuser", "locum_server": "server", "locum_replication": "replication"}[user]
        return await asyncpg.connect(
            host=HOST,
            port=self.settings.postgres_port,
            user=user,
            password=(self.settings.secrets_dir / secret).read_text().strip(),
            database=database,
            timeout=10,
            ssl=False,
        )


class Pair:
    """Two nodes that know each other."""

    def __init__(self, a: NodeUnderTest, b: NodeUnderTest) -> None:
        self.a = a
        self.b = b

    async def stream(self, name: str = "b_g1") -> None:
        """a: first start, open. b: rebuilt from a and streaming under `name`; no grow yet."""
        await self.a.first_start()
        await self.a.act(actions.EnsureSlot("locum_b"))
        await self.b.act(actions.Rebuild(source="a", slot="locum_b", nonce="n1", fast_checkpoint=True, self_test_mb=1))
        await self.b.act(actions.StartStandby(name=name, upstream="a", slot="locum_b"))
        await self.a.wait(lambda report: any(s.name == name and s.state == "streaming" for s in report.walsenders))


@asynccontextmanager
async def one_node(root: Path, *, bindir: Path | None = None, **more: Any) -> AsyncIterator[NodeUnderTest]:
    """A running agent without a peer; nothing is in its data directory."""
    settings = make_settings(root, ("a",), bindir=bindir, **more)
    async with new_session() as session:
        node = NodeUnderTest(settings["a"], session)
        try:
            await node.start_agent()
            yield node
        finally:
            await node.clean_up()


@asynccontextmanager
async def two_nodes(root: Path, *, bindir: Path | None = None, **more: Any) -> AsyncIterator[Pair]:
    """Two running agents; nothing is in their data directories."""
    settings = make_settings(root, ("a", "b"), bindir=bindir, **more)
    async with new_session() as session:
        pair = Pair(NodeUnderTest(settings["a"], session), NodeUnderTest(settings["b"], session))
        try:
            await pair.a.start_agent()
            await pair.b.start_agent()
            yield pair
        finally:
            await pair.b.clean_up()
            await pair.a.clean_up()
