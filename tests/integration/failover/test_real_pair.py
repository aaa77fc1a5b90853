"""The controller with two real agents and their PostgreSQL: first start, failover, rebuild, a controller's death."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from failover.client import ControllerClient
from failover.controller import running_controller
from failover.settings import ControllerSettings, NodeAddress
from replication.model import ReceiptCheck, ServerReport
from replication.wire.http import post_json
from tests.nodes import HOST, NodeUnderTest, Pair, two_nodes
from tests.ports import free_port


def settings_for(pair: Pair, root: Path) -> ControllerSettings:
    return ControllerSettings(
        store_path=root / "locum.sqlite",
        token_file=pair.a.settings.secrets_dir / "token",
        nodes={
            node.settings.name: NodeAddress(node.url, HOST, node.settings.postgres_port) for node in (pair.a, pair.b)
        },
        listen_port=free_port(),
    )


async def wait_cluster(
    client: ControllerClient, condition: Callable[[dict[str, Any]], bool], *, deadline_s: float = 90
) -> dict[str, Any]:
    end = time.monotonic() + deadline_s
    while True:
        cluster = await client.cluster()
        if condition(cluster):
            return cluster
        assert time.monotonic() < end, cluster
        await asyncio.sleep(0.02)


@asynccontextmanager
async def controlled(pair: Pair, settings: ControllerSettings) -> AsyncIterator[ControllerClient]:
    async with running_controller(settings) as controller:
        client = ControllerClient(pair.a.session, f"http://{HOST}:{settings.listen_port}", pair.a.token)
        await client.ready(deadline_ms=5_000)
        yield client
        assert controller.loop is not None


def kill_postgres(node: NodeUnderTest, incarnation: str) -> None:
    os.kill(int(incarnation.split(":", maxsplit=1)[0]), signal.SIGKILL)


async def compared(pair: Pair, settings: ControllerSettings, *, term: int, lost: int) -> None:
    """What a server says of its receipts."""
    check = ReceiptCheck(term, 9, 9 - lost, lost=lost, missing=("x",) * lost)
    report = ServerReport(server="s1", term=term, phase="healthy", primary="b", receipts=check)
    url = f"http://{HOST}:{settings.listen_port}/v1/evidence"
    status, _ = await post_json(pair.a.session, url, report, token=pair.a.token, deadline_ms=5_000)
    assert status == 202


async def wait_incident(client: ControllerClient, done: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    """Until the newest incident fits."""
    end = time.monotonic() + 10
    while not done(incident := (await client.incidents())[-1]):
        assert time.monotonic() < end, incident
        await asyncio.sleep(0.02)
    return incident


def is_healthy(cluster: dict[str, Any]) -> bool:
    return bool(cluster["phase"] == "healthy")


async def test_from_nothing_through_a_failover_and_a_switchover(tmp_path: Path) -> None:
    """DESIGN 4: "A running immediate CHECKPOINT holds relax and grow back until it ends"."""
    async with two_nodes(tmp_path) as pair:
        settings = settings_for(pair, tmp_path)
        async with controlled(pair, settings) as client:
            cluster = await wait_cluster(client, is_healthy)
            assert (cluster["primary"], cluster["term"]) == ("a", 1)
            assert cluster["confirming"] == ["b_g1"]

            killed = time.monotonic()
            kill_postgres(pair.a, (await pair.a.report()).incarnation or "")
            await wait_cluster(client, lambda now: bool(now["primary"] == "b"))
            print(f"primary b shown {1000 * (time.monotonic() - killed):.0f} ms after the kill")
            cluster = await wait_cluster(client, is_healthy)
            assert (cluster["primary"], cluster["term"], cluster["confirming"]) == ("b", 2, ["a_g1"])
            [incident] = await client.incidents()
            assert (incident["node"], incident["verdict"]["kind"]) == ("a", "process_dead")
            assert incident["closed_at"] is None, "no server has compared its receipts"
            await compared(pair, settings, term=2, lost=1)
            await wait_incident(client, lambda incident: bool(incident["receipts"]))
            assert (await client.incidents())[0]["closed_at"] is None, "a lost write keeps it open"
            assert any(alarm["name"] == "receipts_lost" for alarm in (await client.cluster())["alarms"])
            await compared(pair, settings, term=2, lost=0)
            incident = await wait_incident(client, lambda incident: incident["closed_at"] is not None)
            assert (incident["receipts"]["acknowledged"], incident["receipts"]["lost"]) == (9, 0)
            assert incident["outage_ms"] is not None
            ops = [action["op"] for action in incident["actions"]]
            assert ops[:2] == ["fence", "promote"]
            assert ops[-4:] == ["rebuild", "start_standby", "certify", "grow"]

        async with controlled(pair, settings) as client:
            cluster = await wait_cluster(client, is_healthy)
            assert (cluster["primary"], cluster["term"]) == ("b", 2), "a new controller changes nothing"
            asked = time.monotonic()
            await client.command("/v1/switchover", 2, "drill")
            await wait_cluster(client, lambda now: bool(now["primary"] == "a"))
            print(f"switched over {1000 * (time.monotonic() - asked):.0f} ms after it was asked for")
            cluster = await wait_cluster(client, is_healthy)
            assert (cluster["term"], cluster["confirming"]) == (3, ["b_g2"])
            assert len(await client.incidents()) == 1, "a switchover is no incident"
        rebuilds, switchovers = 2, 1
        assert len(immediate_checkpoints(pair)) == rebuilds + switchovers


def immediate_checkpoints(pair: Pair) -> list[str]:
    """What both nodes' logs say of checkpoints at full speed. Each holds a change of names back until it ends: DESIGN 4,
    "A running immediate CHECKPOINT holds relax and grow back until it ends"."""
    messages: list[str] = []
    for node in (pair.a, pair.b):
        for path in node.running.node.log_dir.glob("*.json"):
            messages += [json.loads(line)["message"] for line in path.read_text(encoding="utf-8").splitlines()]
    asked = re.compile(r"(checkpoint|restartpoint) starting:(?!.*(shutdown|end-of-recovery)).* (immediate|fast)")
    return [message for message in messages if asked.match(message)]
