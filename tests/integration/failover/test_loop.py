"""The loop against agents that say what the test wants: speed, hung agents, deaths, what it does not do."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import msgspec
import pytest

from failover.controller import running_controller
from failover.core.model import Policy
from failover.errors import StateConflict
from failover.settings import SettingsError
from replication import topology
from replication.actions import Promote
from replication.model import Postmaster, Role, Stage, Witness
from replication.topology import Phase, Topology
from replication.wire.errors import WireError
from replication.wire.http import get_bytes
from replication.wire.sse import subscribe
from tests.integration.failover.scripted import HEALTHY, Scene, scene
from tests.ports import free_port

GENEROUS_MS = 400
PROMOTED: dict[str, Any] = {
    "in_recovery": False,
    "configured_role": Role.PRIMARY,
    "configured_name": None,
    "stage": Stage.OPEN,
    "timeline": 3,
    "promoted_lsn": 0x5000100,
    "flush_lsn": 0x5000200,
    "receiver": None,
    "replay_lsn": None,
    "receive_lsn": None,
}
DEAD: dict[str, Any] = {"postmaster": Postmaster.EXITED, "exit_sentence": "killed by signal 9", "in_recovery": None}


async def topologies(made: Scene) -> AsyncIterator[Topology]:
    async with aclosing(subscribe(made.session, f"{made.url}/v1/topology?server=s", idle_ms=5_000)) as events:
        async for event in events:
            assert event.event == "topology"
            yield topology.decode(event.data)


async def until(stream: AsyncIterator[Topology], primary: str | None, *, deadline_s: float = 5) -> Topology:
    async with asyncio.timeout(deadline_s):
        async for record in stream:
            if (record.primary.name if record.primary is not None else None) == primary:
                return record
    raise AssertionError("the stream ended")


async def test_a_healthy_cluster_is_shown_and_left_alone(tmp_path: Path) -> None:
    async with scene(tmp_path) as made, made.controller():
        cluster = await made.wait(lambda now: now["phase"] == "healthy")
        assert (cluster["term"], cluster["primary"], cluster["confirming"]) == (3, "a", ["b_g4"])
        assert cluster["nodes"]["b"]["promotable"] is True
        assert cluster["nodes"]["a"]["flush_lsn"] == "0/5000000"
        record = await until(topologies(made), "a")
        assert record.primary is not None
        assert record.primary.dsn == "postgresql://locum_server@127.0.0.1:1/locum"
        assert (record.phase, record.term, record.standbys[0].eligible) == (Phase.HEALTHY, 3, True)
        await asyncio.sleep(0.6)
        assert made.a.actions == [] and made.b.actions == []
        assert made.b.witnesses == 0, "a well primary's port is not knocked at"


async def test_from_an_exit_event_to_promote_and_from_promotion_to_topology(tmp_path: Path) -> None:
    async with scene(tmp_path) as made, made.controller():
        stream = topologies(made)
        await until(stream, "a")
        await made.wait(lambda now: now["phase"] == "healthy")
        dead_at = made.a.tell(**DEAD)
        promote_at, promote = await made.b.until_action("promote")
        await made.a.until_action("fence")
        assert isinstance(promote.op, Promote) and promote.op.slots == ("locum_a",)
        assert (promote.term, promote.boot_id) == (4, "boot-b")
        failing = await until(stream, None)
        assert (failing.phase, failing.term) == (Phase.FAILING_OVER, 4)
        promoted_at = made.b.finish(promote, **PROMOTED)
        record = await until(stream, "b")
        pushed_at = time.monotonic()
        assert record.term == 4
        print(
            f"exit event to promote: {1000 * (promote_at - dead_at):.1f} ms; "
            f"promoted event to topology: {1000 * (pushed_at - promoted_at):.1f} ms"
        )
        assert promote_at - dead_at < GENEROUS_MS / 1000
        assert pushed_at - promoted_at < GENEROUS_MS / 1000
        async with asyncio.timeout(5):  # clients are told first, then it is written down
            while (incident := (await made.client().incidents())[0])["outage_ms"] is None:
                await asyncio.sleep(0.005)
        assert incident["verdict"]["kind"] == "process_dead"
        assert incident["outage_ms"] >= 1000 * (promoted_at - promote_at) - 1
        assert {(action["node"], action["op"]) for action in incident["actions"]} >= {("a", "fence"), ("b", "promote")}
        assert incident["closed_at"] is None


async def test_the_primary_is_named_again_and_again_until_a_promotion_is_journalled(tmp_path: Path) -> None:
    async with scene(tmp_path) as made, made.controller():
        await made.wait(lambda now: now["phase"] == "healthy")
        made.a.tell(lease_expires_in_ms=3_000)
        async with asyncio.timeout(5):
            while len(made.a.renewals) < 3:
                await asyncio.sleep(0.01)
        assert {(renewal.term, renewal.boot_id) for renewal in made.a.renewals} == {(3, "boot-a")}
        answered = [renewal.answered_ms for renewal in made.a.renewals]
        assert answered == sorted(set(answered))
        assert (await made.wait(lambda now: now["nodes"]["a"]["lease_expires_in_ms"]))["nodes"]["a"][
            "lease_expires_in_ms"
        ] == 3_000
        made.a.tell(**DEAD)
        await made.b.until_action("promote")
        named = len(made.a.renewals)
        await asyncio.sleep(0.6)
        assert (len(made.a.renewals), made.b.renewals) == (named, [])


async def test_agent_and_postgres_dead_is_known_by_the_refused_connection(tmp_path: Path) -> None:
    async with scene(tmp_path) as made, made.controller():
        await made.wait(lambda now: now["phase"] == "healthy")
        made.b.change(receiver=None, witness=Witness("a", "refused", 1, 30))
        died_at = time.monotonic()
        await made.a.die()
        promote_at, _ = await made.b.until_action("promote")
        print(f"agent's death to promote: {1000 * (promote_at - died_at):.1f} ms")
        assert promote_at - died_at < GENEROUS_MS / 1000
        assert made.b.witnesses > 0


async def test_a_dead_agent_of_a_living_primary_changes_nothing(tmp_path: Path) -> None:
    async with scene(tmp_path) as made, made.controller():
        await made.wait(lambda now: now["phase"] == "healthy")
        await made.a.die()
        cluster = await made.wait(lambda now: now["nodes"]["a"]["state"] == "unreachable")
        assert cluster["nodes"]["a"]["silence"] == "refused"
        await asyncio.sleep(0.5)
        assert made.b.actions == []
        assert (await until(topologies(made), "a")).term == 3


async def test_a_hung_agent_does_not_slow_down_what_follows_its_verdict(tmp_path: Path) -> None:
    async with scene(tmp_path) as made, made.controller():
        stream = topologies(made)
        await until(stream, "a")
        await made.wait(lambda now: now["phase"] == "healthy")
        made.a.hang()
        hung_at = time.monotonic()
        made.b.tell(receiver=None, witness=Witness("a", "timeout", 1, 800))
        promote_at, promote = await made.b.until_action("promote")
        print(f"hang to promote: {1000 * (promote_at - hung_at):.0f} ms")
        assert promote_at - hung_at >= 0.7, "silence takes its whole deadline"
        promoted_at = made.b.finish(promote, **PROMOTED)
        await until(stream, "b")
        assert time.monotonic() - promoted_at < 0.5, "the hung agent's deadline was waited for"
        [incident] = await made.client().incidents()
        assert incident["verdict"]["kind"] == "unreachable"
        made.a.go_on()
        await made.a.until_action("fence", deadline_s=10)


async def test_a_controller_that_dies_in_a_failover_is_followed_by_one_that_finishes_it(tmp_path: Path) -> None:
    async with scene(tmp_path) as made:
        async with made.controller():
            await made.wait(lambda now: now["phase"] == "healthy")
            made.a.tell(**DEAD)
            await made.b.until_action("promote")
        count = len(made.b.actions)
        made.b.change(**PROMOTED, doing=None)
        async with made.controller():
            cluster = await made.wait(lambda now: now["primary"] == "b")
            assert cluster["term"] == 4
            record = await until(topologies(made), "b")
            assert record.term == 4
            assert not any(isinstance(op, Promote) for op in made.b.ops()[count:])
            async with asyncio.timeout(5):
                while (await made.client().incidents())[0]["outage_ms"] is None:
                    await asyncio.sleep(0.01)
            [incident] = await made.client().incidents()
            assert [line["event"] for line in incident["timeline"]].count("opened") == 1


async def test_observe_only_decides_and_touches_nothing(tmp_path: Path) -> None:
    async with scene(tmp_path, policy=Policy(observe_only=True)) as made, made.controller():
        await made.wait(lambda now: now["phase"] == "healthy")
        made.a.tell(**DEAD)
        await asyncio.sleep(0.6)
        assert made.a.actions == [] and made.b.actions == []


async def test_the_second_controller_stands_by_until_the_first_is_gone(tmp_path: Path) -> None:
    async with scene(tmp_path) as made, made.controller():
        port = free_port()
        second = msgspec.structs.replace(made.settings, listen_port=port)
        async with running_controller(second) as waiting:
            url = f"http://127.0.0.1:{port}"
            assert (await get_bytes(made.session, f"{url}/livez", deadline_ms=1_000))[0] == 200
            for path in ("/readyz", "/v1/cluster", "/v1/topology", "/v1/incidents"):
                status, body = await get_bytes(made.session, url + path, deadline_ms=1_000)
                assert (status, b"stands by" in body) == (503, True), path
            assert waiting.loop is None


async def test_the_lease_passes_on(tmp_path: Path) -> None:
    async with scene(tmp_path) as made:
        second = msgspec.structs.replace(made.settings, listen_port=free_port())
        async with made.controller():
            takes_over = asyncio.ensure_future(_lead_once(second))
            await asyncio.sleep(0.3)
            assert not takes_over.done()
        assert await asyncio.wait_for(takes_over, 5) == 3


async def _lead_once(settings: Any) -> int:
    async with running_controller(settings) as controller:
        while controller.loop is None or controller.loop.observation is None:
            await asyncio.sleep(0.01)
        return controller.loop.state.term


async def test_a_state_written_by_another_ends_this_controller(tmp_path: Path) -> None:
    async with scene(tmp_path) as made:
        with pytest.raises(StateConflict, match="revision 99"):
            async with made.controller():
                await made.wait(lambda now: now["phase"] == "healthy")
                with sqlite3.connect(made.settings.store_path) as other:
                    other.execute("UPDATE state SET revision = 99")
                made.a.tell(**DEAD)
                await asyncio.sleep(5)
        assert made.a.actions == [] and made.b.actions == [], "nothing is done that was not stored"


async def test_a_store_of_other_nodes_is_refused(tmp_path: Path) -> None:
    strange = msgspec.structs.replace(HEALTHY, nodes={"x": HEALTHY.nodes["a"], "y": HEALTHY.nodes["b"]})
    async with scene(tmp_path, state=strange) as made:
        with pytest.raises(SettingsError, match="nodes x, y"):
            async with made.controller():
                await asyncio.sleep(5)


async def test_a_refused_action_is_decided_anew_at_once(tmp_path: Path) -> None:
    async with scene(tmp_path) as made, made.controller():
        await made.wait(lambda now: now["phase"] == "healthy")
        made.b.refusals = 1
        dead_at = made.a.tell(**DEAD)
        promote_at, promote = await made.b.until_action("promote")
        assert promote_at - dead_at < 1.5, "the refused one's time to live was waited for"
        assert promote.revision > HEALTHY.revision + 1


async def test_topology_streams_end_with_the_controller(tmp_path: Path) -> None:
    async with scene(tmp_path) as made:
        async with made.controller():
            stream = topologies(made)
            await until(stream, "a")
        with pytest.raises(WireError):
            async with asyncio.timeout(2):
                async for _ in stream:
                    pass
