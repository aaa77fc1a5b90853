"""The agent's HTTP interface: tokens, bad bodies, refusals, events; and the agent as a process of its own."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest

from replication import actions
from replication.actions import Refusal
from replication.model import NodeReport, Postmaster
from replication.proc import alive, parse_process_id
from replication.wire.errors import WireError
from replication.wire.http import get_bytes, new_session
from replication.wire.sse import subscribe
from tests.nodes import NodeUnderTest, make_settings, one_node


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[NodeUnderTest]:
    async with one_node(tmp_path) as node:
        yield node


async def test_actions_need_the_token(node: NodeUnderTest) -> None:
    action = await node.action(actions.Fence())
    status, answer = await node.send(action, token="wrong")
    assert (status, answer["error"]) == (401, "unauthorized")
    assert (await node.report()).revision == 0


@pytest.mark.parametrize("body", [b"", b"[]", b"{", b'{"node": "a", "op": {"type": "fly"}}'])
async def test_a_bad_body_is_a_clear_400(node: NodeUnderTest, body: bytes) -> None:
    headers = {"Authorization": f"Bearer {node.token}"}
    async with node.session.post(f"{node.url}/v1/actions", data=body, headers=headers) as answer:
        assert answer.status == 400
        assert (await answer.json())["sentence"]


async def test_an_action_is_accepted_once(node: NodeUnderTest) -> None:
    action = await node.action(actions.Fence())
    first, second = await asyncio.gather(node.send(action), node.send(action))
    assert sorted([first[0], second[0]]) == [202, 409]
    refused = first[1] if first[0] == 409 else second[1]
    assert refused["refused"] == Refusal.STALE_REVISION


async def test_what_was_accepted_stays_accepted_across_a_restart(node: NodeUnderTest) -> None:
    await node.act(actions.Fence(), revision=50, term=7)
    await node.end_agent()
    await node.start_agent()
    for changed in ({"revision": 50, "term": 7}, {"revision": 49, "term": 7}, {"revision": 51, "term": 6}):
        status, _ = await node.send(await node.action(actions.Fence(), **changed))
        assert status == 409
    old_boot = await node.action(actions.Fence(), boot_id="another")
    assert (await node.send(old_boot))[1]["refused"] == Refusal.OTHER_BOOT


async def test_an_action_that_is_late_is_refused(tmp_path: Path) -> None:
    async with one_node(tmp_path, action_ttl_ms=50) as node:
        action = await node.action(actions.Fence())
        await node.wait(lambda report: report.clock_ms > action.observed_clock_ms + 50)
        status, answer = await node.send(action)
        assert (status, answer["refused"]) == (409, Refusal.TOO_LATE)


async def test_events_begin_with_a_fresh_report_and_tell_of_actions(node: NodeUnderTest) -> None:
    events = subscribe(node.session, f"{node.url}/v1/events", idle_ms=3_000)
    async with asyncio.timeout(10):
        first = msgspec.json.decode((await anext(events)).data, type=NodeReport)
        now = await node.report()
        assert first.boot_id == now.boot_id and now.clock_ms - first.clock_ms < 1_000
        await node.act(actions.Fence())
        async for event in events:
            report = msgspec.json.decode(event.data, type=NodeReport)
            if report.results and report.doing is None:
                break
    await events.aclose()  # type: ignore[attr-defined]


async def test_observe_answers_while_postgres_is_frozen(node: NodeUnderTest) -> None:
    incarnation = await node.first_start()
    pid = int(incarnation.split(":")[0])
    probe = node.running.sql._probe._connection.get_server_pid()  # type: ignore[union-attr]
    for victim in (pid, probe):
        os.kill(victim, signal.SIGSTOP)
    report = await node.wait(lambda report: report.sql is not None and not report.sql.ok, deadline_s=5)
    assert report.sql is not None and report.sql.fault == "unresponsive"
    assert report.postmaster is Postmaster.RUNNING
    assert [fault.kind for fault in report.faults] == ["unresponsive"]


async def wait_for_agent(url: str) -> NodeReport:
    async with new_session() as session, asyncio.timeout(20):
        while True:
            try:
                _, body = await get_bytes(session, f"{url}/v1/observe", deadline_ms=1_000)
                return msgspec.json.decode(body, type=NodeReport)
            except WireError:
                await asyncio.sleep(0.02)


def write_settings_file(node: NodeUnderTest, path: Path) -> None:
    """The node's settings as a person would write them."""
    builtins = msgspec.to_builtins(node.settings, enc_hook=str)
    path.write_bytes(msgspec.toml.encode({key: value for key, value in builtins.items() if value is not None}))


def start_process(path: Path) -> subprocess.Popen[bytes]:
    code = "import sys, pathlib; from replication.agent import run; sys.exit(run(pathlib.Path(sys.argv[1])))"
    return subprocess.Popen([sys.executable, "-c", code, str(path)])


async def test_the_agent_as_a_process_sigkill_leaves_postgres_sigterm_stops_it(
    node: NodeUnderTest, tmp_path: Path
) -> None:
    incarnation = await node.first_start()
    await node.end_agent()
    path = tmp_path / "agent.toml"
    await asyncio.to_thread(write_settings_file, node, path)
    process = await asyncio.to_thread(start_process, path)
    try:
        assert (await wait_for_agent(node.url)).incarnation == incarnation
        process.kill()
        await asyncio.to_thread(process.wait)
        assert alive(parse_process_id(incarnation))
        process = await asyncio.to_thread(start_process, path)
        await wait_for_agent(node.url)
        process.send_signal(signal.SIGTERM)
        assert await asyncio.to_thread(process.wait, 20) == 0
        assert not alive(parse_process_id(incarnation))
    finally:
        if process.poll() is None:
            process.kill()
            await asyncio.to_thread(process.wait)
    await node.start_agent()
    planned = (await node.report()).planned_stop
    assert planned is not None and planned.intact


async def test_an_occupied_port_ends_the_process_with_a_sentence(node: NodeUnderTest, tmp_path: Path) -> None:
    settings = make_settings(tmp_path / "other", ("z",))["z"]
    other = NodeUnderTest(msgspec.structs.replace(settings, listen_port=node.settings.listen_port), node.session)
    path = tmp_path / "other.toml"
    await asyncio.to_thread(write_settings_file, other, path)
    process = await asyncio.to_thread(start_process, path)
    assert await asyncio.to_thread(process.wait, 20) == 1


async def test_the_scrub_rests_when_it_is_asked_to_and_goes_on_when_the_pause_is_ended(node: NodeUnderTest) -> None:
    await node.end_agent()
    node.settings = msgspec.structs.replace(node.settings, scrub_pause_s=0.1, scrub_mb_per_s=0.0)
    await node.start_agent()
    await node.first_start()
    before = await node.wait(lambda report: report.scrub is not None and report.scrub.passes > 0)
    assert await pause(node, -1) == 400
    assert await pause(node, 600) == 200
    rested = await node.report()
    await asyncio.sleep(2)
    after = await node.report()
    assert before.scrub is not None
    assert rested.scrub is not None
    assert after.scrub is not None
    assert after.scrub.passes <= rested.scrub.passes + 1, "one pass may have been under way"
    assert await pause(node, 0) == 200
    await node.wait(lambda report: report.scrub is not None and report.scrub.passes > rested.scrub.passes + 2)


async def pause(node: NodeUnderTest, for_s: float) -> int:
    headers = {"Authorization": f"Bearer {node.token}"}
    async with node.session.post(f"{node.url}/v1/scrub/pause", json={"for_s": for_s}, headers=headers) as answer:
        return answer.status
