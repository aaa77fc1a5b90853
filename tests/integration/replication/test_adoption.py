"""An agent that comes back: it adopts a running postmaster, sees a dead one, and finishes what it had begun."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from replication import actions
from replication.model import Postmaster, Reason, Role, Stage
from replication.state_dir import Accepted
from tests.nodes import NodeUnderTest, one_node, two_nodes


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[NodeUnderTest]:
    async with one_node(tmp_path) as node:
        yield node


async def test_a_running_postmaster_is_adopted_with_its_incarnation_and_stage(node: NodeUnderTest) -> None:
    incarnation = await node.first_start()
    first_boot = (await node.report()).boot_id
    await node.end_agent()
    await node.start_agent()
    report = await node.wait(lambda report: report.postmaster is Postmaster.RUNNING and report.in_recovery is False)
    assert report.incarnation == incarnation and report.boot_id != first_boot
    assert (report.configured_role, report.stage, report.schema_applied) == (Role.PRIMARY, Stage.OPEN, True)
    await (await node.connect("locum_server")).close()


async def test_the_end_of_an_adopted_postmaster_is_seen_at_once(node: NodeUnderTest) -> None:
    incarnation = await node.first_start()
    await node.end_agent()
    await node.start_agent()
    await node.wait(lambda report: report.postmaster is Postmaster.RUNNING)
    os.kill(int(incarnation.split(":")[0]), signal.SIGKILL)
    report = await node.wait(lambda report: report.postmaster is Postmaster.EXITED, deadline_s=2)
    assert report.exit_sentence is not None and report.incarnation == incarnation


async def test_an_adopted_postmaster_can_be_stopped_in_order(node: NodeUnderTest) -> None:
    incarnation = await node.first_start()
    await node.end_agent()
    await node.start_agent()
    await node.wait(lambda report: report.postmaster is Postmaster.RUNNING)
    await node.act(actions.Stop(10_000, incarnation))
    assert (await node.report()).planned_stop is not None


async def test_a_postmaster_that_died_meanwhile_is_seen_as_exited(node: NodeUnderTest) -> None:
    incarnation = await node.first_start()
    await node.end_agent()
    os.kill(int(incarnation.split(":")[0]), signal.SIGKILL)
    await node.start_agent()
    report = await node.report()
    assert report.postmaster is Postmaster.EXITED and report.exit_sentence is not None
    assert report.incarnation == incarnation and report.stage is None


async def test_an_action_that_the_agents_death_cut_off_is_reported(node: NodeUnderTest) -> None:
    await node.first_start()
    await node.running.store.change(revision=40, accepted=Accepted(40, "grow"))
    await node.end_agent()
    await node.start_agent()
    report = await node.report()
    result = report.results[-1]
    assert (result.revision, result.ok, result.reason) == (40, False, Reason.INTERRUPTED)
    assert report.revision == 40


async def test_an_interrupted_change_of_names_is_finished(node: NodeUnderTest) -> None:
    """The intention is on disk before the file: an adopted node gets the file that its state stands for."""
    await node.first_start()
    await node.running.store.change(names=("b_g1",), names_revision=41, revision=41)
    await node.end_agent()
    await node.start_agent()
    await node.wait(lambda report: report.names == ("b_g1",), deadline_s=5)


async def test_an_interrupted_initdb_leaves_an_empty_directory(node: NodeUnderTest) -> None:
    sent = await node.send(await node.action(actions.InitDb()))
    assert sent[0] == 202
    await node.wait(lambda report: report.doing is not None)
    await node.end_agent()
    assert (await asyncio.to_thread(list, node.settings.data_dir.iterdir())) == []
    await node.start_agent()
    assert (await node.report()).data == "empty"
    await node.act(actions.InitDb())


async def test_a_promotion_that_came_true_without_the_agent_is_taken_up(tmp_path: Path) -> None:
    async with two_nodes(tmp_path) as pair:
        await pair.stream()
        await pair.b.end_agent()
        client = await pair.b.connect()
        await client.execute("SELECT pg_promote(wait => true)")
        await client.close()
        await pair.b.start_agent()
        report = await pair.b.wait(lambda report: report.configured_role is Role.PRIMARY, deadline_s=5)
        assert report.in_recovery is False and report.stage is Stage.OPEN
        await asyncio.wait_for(_write(pair.b), 5)


async def _write(node: NodeUnderTest) -> None:
    client = await node.connect("locum_server")
    await client.execute("INSERT INTO appointment VALUES (1, 'x')")
    await client.close()
