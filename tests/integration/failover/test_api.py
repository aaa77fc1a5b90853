"""The controller's HTTP interface: every route, every refusal, and what is accepted reaches the core."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest

from failover.errors import ControllerError
from replication.actions import Fence, Unfence
from replication.model import Fault, FaultKind, LedgerStatus, Postmaster, Role, ServerReport, Stage
from replication.wire.http import get_bytes, post_json
from tests.integration.failover.scripted import HEALTHY, TOKEN, Scene, scene

ACTIONS = (
    "/v1/switchover",
    "/v1/failover",
    "/v1/nodes/b/fence",
    "/v1/nodes/b/unfence",
    "/v1/nodes/b/rebuild",
    "/v1/pause",
    "/v1/resume",
    "/v1/incidents/i1/close",
    "/v1/evidence",
)


async def post(made: Scene, path: str, body: Any, *, token: str | None = TOKEN) -> tuple[int, dict[str, Any]]:
    status, answer = await post_json(made.session, made.url + path, body, token=token, deadline_ms=9_000)
    found: dict[str, Any] = json.loads(answer)
    return status, found


async def test_actions_need_the_token_and_reads_do_not(tmp_path: Path) -> None:
    async with scene(tmp_path) as made, made.controller():
        for path in ACTIONS:
            for token in (None, "wrong"):
                status, answer = await post(made, path, {"expected_term": 3}, token=token)
                assert (status, answer["error"]) == (401, "unauthorized"), path
        for path in ("/livez", "/readyz", "/metrics", "/v1/cluster", "/v1/incidents"):
            assert (await get_bytes(made.session, made.url + path, deadline_ms=1_000))[0] == 200, path
        assert made.a.actions == [] and made.b.actions == []


@pytest.mark.parametrize(
    ("path", "body", "status", "words"),
    [
        ("/v1/switchover", {"expected_term": 2, "reason": "x"}, 409, "the term is 3, not 2"),
        ("/v1/switchover", {"reason": "x"}, 400, "expected_term"),
        ("/v1/switchover", {"expected_term": "3"}, 400, "int"),
        ("/v1/switchover", [], 400, "object"),
        ("/v1/switchover", {"expected_term": 3, "accept_loss": True}, 400, "accept_loss"),
        ("/v1/switchover", {"expected_term": 3, "to": "zebra"}, 404, "no node zebra; nodes: a, b"),
        ("/v1/switchover", {"expected_term": 3, "to": "a"}, 409, "primary already"),
        ("/v1/failover", {"expected_term": 3, "to": "b", "reason": 7}, 400, "str"),
        ("/v1/nodes/zebra/fence", {"expected_term": 3}, 404, "no node zebra"),
        ("/v1/nodes/b/polish", {"expected_term": 3}, 404, "there are fence, rebuild, scrub, unfence"),
        ("/v1/nodes/a/rebuild", {"expected_term": 3}, 409, "switch over first"),
        ("/v1/pause", {"expected_term": 3, "for": "soon"}, 422, "write 90s, 30m or 2h"),
        ("/v1/pause", {"expected_term": 3, "for": "0s"}, 422, "above zero"),
        ("/v1/incidents/i9/close", {"expected_term": 3, "note": "x"}, 404, "no incident i9"),
        ("/v1/evidence", {"server": "s"}, 400, "term"),
        ("/v1/nothing", {}, 404, "Not Found"),
        ("/v1/cluster", {}, 405, "Method Not Allowed"),
    ],
)
async def test_what_is_refused_says_why(tmp_path: Path, path: str, body: Any, status: int, words: str) -> None:
    async with scene(tmp_path) as made, made.controller():
        got, answer = await post(made, path, body)
        assert (got, words in answer["sentence"]) == (status, True), answer
        assert set(answer) == {"error", "sentence"}
        assert made.a.actions == [] and made.b.actions == []
        assert (await made.client().cluster())["term"] == 3


async def test_bodies_that_are_no_json_or_too_large_are_refused(tmp_path: Path) -> None:
    async with scene(tmp_path) as made, made.controller():
        headers = {"Authorization": f"Bearer {TOKEN}"}
        for content, status in ((b"{", 400), (b"\xff\xfe", 400), (b" " * 300_000, 413)):
            async with made.session.post(f"{made.url}/v1/pause", data=content, headers=headers) as answer:
                assert answer.status == status
                assert "sentence" in await answer.json()


async def test_pause_and_resume(tmp_path: Path) -> None:
    async with scene(tmp_path) as made, made.controller():
        client = made.client()
        assert "1800 s" in await client.command("/v1/pause", 3, "maintenance of the switch", **{"for": "30m"})
        cluster = await client.cluster()
        assert cluster["paused"] is True
        assert 1_700_000 < cluster["pause_ends_in_ms"] <= 1_800_000
        assert cluster["pause_reason"] == "maintenance of the switch"
        made.a.tell(postmaster=Postmaster.EXITED, in_recovery=None)
        await asyncio.sleep(0.5)
        assert made.b.actions == [], "a pause stops promotions"
        await client.command("/v1/resume", 3, "done")
        await made.b.until_action("promote")


async def test_fence_and_unfence_reach_the_node(tmp_path: Path) -> None:
    async with scene(tmp_path) as made, made.controller():
        client = made.client()
        await client.command("/v1/nodes/b/fence", 3, "drill")
        _, action = await made.b.until_action("fence")
        assert (action.op, action.term, action.boot_id) == (Fence(hold=True), 3, "boot-b")
        assert action.revision > HEALTHY.revision
        made.b.finish(
            action, fence_held=True, fenced=True, postmaster=Postmaster.EXITED, in_recovery=None, receiver=None
        )
        cluster = await made.wait(lambda now: now["nodes"]["b"]["state"] == "fenced")
        assert cluster["nodes"]["b"]["promotable"] is False
        assert await client.command("/v1/nodes/b/unfence", 3, "drill over")
        _, action = await made.b.until_action("unfence")
        assert action.op == Unfence()


async def test_a_switchover_begins_with_a_checkpoint(tmp_path: Path) -> None:
    async with scene(tmp_path) as made, made.controller():
        await made.wait(lambda now: now["phase"] == "healthy")
        sentence = await made.client().command("/v1/switchover", 3, "rolling upgrade", to="b")
        assert "from a to b" in sentence
        _, action = await made.a.until_action("checkpoint")
        with pytest.raises(ControllerError, match="under way") as refused:
            await made.client().command("/v1/switchover", 3, "again")
        assert refused.value.status == 409
        made.a.finish(action)
        await made.wait(lambda now: now["phase"] == "switching_over")
        await made.a.until_action("stop")


async def test_evidence_is_shown_and_wakes_the_loop(tmp_path: Path) -> None:
    async with scene(tmp_path) as made, made.controller() as controller:
        await made.wait(lambda now: now["phase"] == "healthy")
        report = ServerReport(server="s1", term=3, phase="healthy", primary="a", held_requests=4)
        status, _ = await post(made, "/v1/evidence", msgspec.to_builtins(report))
        assert status == 202
        cluster = await made.wait(lambda now: now["server_terms"] == {"s1": 3}, deadline_s=1)
        assert cluster["held_requests"] == 4
        assert controller.loop is not None


async def test_an_open_incident_is_closed_by_hand_with_a_note(tmp_path: Path) -> None:
    async with scene(tmp_path) as made, made.controller():
        await made.wait(lambda now: now["phase"] == "healthy")
        made.a.tell(postmaster=Postmaster.EXITED, in_recovery=None, exit_sentence="killed by signal 9")
        await made.b.until_action("promote")
        [incident] = await made.client().incidents()
        assert incident["verdict"]["cause"] == "process"
        assert (await made.client().cluster())["open_incident"]["id"] == incident["id"]
        with pytest.raises(ControllerError, match="under way"):
            await made.client().close_incident(incident["id"], 4, "looked at it")
        _, promote = await made.b.until_action("promote")
        made.b.finish(
            promote,
            in_recovery=False,
            configured_role=Role.PRIMARY,
            stage=Stage.OPEN,
            timeline=3,
            receiver=None,
            receive_lsn=None,
            replay_lsn=None,
        )
        await made.wait(lambda now: now["primary"] == "b")
        with pytest.raises(ControllerError, match="say why") as refused:
            await made.client().command(f"/v1/incidents/{incident['id']}/close", 4, "")
        assert refused.value.status == 422
        await made.client().close_incident(incident["id"], 4, "looked at it")
        closed = await made.client().incident(incident["id"])
        assert closed["closed_at"] is not None
        assert "looked at it" in closed["timeline"][-1]["sentence"]
        assert (await made.client().cluster())["open_incident"] is None
        with pytest.raises(ControllerError, match="was closed at"):
            await made.client().close_incident(incident["id"], 4, "again")


_LEDGER = LedgerStatus(
    lag_bytes=11,
    since_lsn=1 << 24,
    read_to_lsn=1 << 25,
    entries=7,
    verified_lsn=1 << 24,
    verified_blocks=7,
    chain_checked=True,
    images=3,
    unverified_bytes=4_096,
)


async def test_metrics_say_what_the_cluster_says(tmp_path: Path) -> None:
    async with scene(tmp_path) as made, made.controller():
        await made.wait(lambda now: now["phase"] == "healthy")
        made.b.tell(ledger=_LEDGER)
        await made.wait(lambda now: now["nodes"]["b"]["ledger"])
        _, body = await get_bytes(made.session, f"{made.url}/metrics", deadline_ms=1_000)
        lines = body.decode().splitlines()
        for line in (
            'locum_phase{phase="healthy"} 1.0',
            'locum_phase{phase="no_primary"} 0.0',
            "locum_term 3.0",
            'locum_node_promotable{node="b"} 1.0',
            "locum_controller_leading 1.0",
            'locum_ledger_lag_bytes{node="b"} 11.0',
            'locum_ledger_unverified_bytes{node="b"} 4096.0',
        ):
            assert line in lines
        assert any(line.startswith("locum_controller_round_seconds_count") for line in lines)


async def test_an_alarm_is_shown_and_told_to_the_hook_once(tmp_path: Path) -> None:
    told = tmp_path / "told"
    hook = [sys.executable, "-c", "import sys; open(sys.argv[1], 'a').write(sys.stdin.read() + '\\n')", str(told)]
    async with scene(tmp_path, alarm_command=hook) as made, made.controller():
        await made.wait(lambda now: now["phase"] == "healthy")
        made.b.tell(faults=(Fault(FaultKind.STORAGE_FULL, 1.0, "", "The disk of b is full."),))
        cluster = await made.wait(lambda now: now["alarms"])
        assert cluster["alarms"][0]["name"] == "fault.b.storage_full"
        made.b.tell(faults=())
        await made.wait(lambda now: not now["alarms"])
        async with asyncio.timeout(10):
            while not told.exists() or len(told.read_text().splitlines()) < 2:
                await asyncio.sleep(0.02)
        changes = [json.loads(line) for line in told.read_text().splitlines()]
        assert [(change["state"], change["name"]) for change in changes] == [
            ("raised", "fault.b.storage_full"),
            ("cleared", "fault.b.storage_full"),
        ]
        assert changes[0]["sentence"] == "The disk of b is full."
