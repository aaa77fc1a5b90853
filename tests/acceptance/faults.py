"""The faults of the outage benchmark and of the acceptance tests: each is injected by an outsider, by pid or HTTP."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Awaitable, Callable

import msgspec

from tests.acceptance.cluster import Cluster
from tests.acceptance.corruption import noise_under_an_appointment
from tests.acceptance.killing import signal_postmaster


class Fault(msgspec.Struct, frozen=True):
    """`inject` takes the cluster and the primary's name, and returns when it was done (time.monotonic()).

    `verdict`: the kind that the incident must name; None when nothing is wrong, as in a planned switchover.
    """

    name: str
    inject: Callable[[Cluster, str], Awaitable[float]]
    verdict: str | None
    heal: Callable[[Cluster, str], Awaitable[None]] | None = None
    """Called once bookings go on; None where nothing is to be healed."""


async def kill_primary(cluster: Cluster, primary: str) -> float:
    """SIGKILL of the postmaster with its children: its agent sees the death."""
    began = time.monotonic()
    await asyncio.to_thread(cluster.kill_postgres, primary)
    return began


async def kill_agent_and_primary(cluster: Cluster, primary: str) -> float:
    """SIGKILL of the agent, then of its PostgreSQL: nobody is left there to tell."""

    def kill_both() -> None:
        postmaster_first = cluster.postmaster(primary)
        cluster.kill_agent(primary)
        assert cluster.postmaster(primary) == postmaster_first
        cluster.kill_postgres(primary)

    began = time.monotonic()
    await asyncio.to_thread(kill_both)
    return began


async def freeze_node(cluster: Cluster, primary: str) -> float:
    """SIGSTOP of the agent and of every process of its PostgreSQL: the node hangs, and its host takes connections."""

    def freeze() -> None:
        cluster.kill_agent(primary, signal.SIGSTOP)
        signal_postmaster(cluster.postmaster(primary), signal.SIGSTOP)

    began = time.monotonic()
    await asyncio.to_thread(freeze)
    return began


async def thaw_node(cluster: Cluster, primary: str) -> None:
    """SIGCONT of all that `freeze_node` stopped, PostgreSQL first."""

    def thaw() -> None:
        signal_postmaster(cluster.postmaster(primary), signal.SIGCONT)
        cluster.kill_agent(primary, signal.SIGCONT)

    await asyncio.to_thread(thaw)


async def switch_over(cluster: Cluster, primary: str) -> float:
    """A planned switchover, asked for over HTTP."""
    term = (await cluster.view())["term"]
    began = time.monotonic()
    status, answer = await cluster.post("/v1/switchover", {"expected_term": term, "reason": f"{primary} gets new fans"})
    assert status < 300, answer
    return began


async def corrupt_page(cluster: Cluster, primary: str) -> float:
    """A patient reads an appointment whose page on the primary's disk has turned to noise."""
    appointment = await noise_under_an_appointment(cluster, primary)
    began = time.monotonic()
    async with cluster.session.get(f"{cluster.ready.server}/fhir/Appointment/{appointment}") as answer:
        assert answer.status == 200, await answer.text()
        assert (await answer.json(content_type=None))["id"] == appointment
    return began


async def kill_primary_and_controller(cluster: Cluster, primary: str) -> float:
    """SIGKILL of the controller the moment the primary is killed: nobody decides until it was started again."""

    def kill_both() -> None:
        os.kill(cluster.ready.pids.controller or 0, signal.SIGKILL)
        cluster.kill_postgres(primary)

    began = time.monotonic()
    await asyncio.to_thread(kill_both)
    return began


KILL_PRIMARY = Fault("SIGKILL of the primary", kill_primary, "process_dead")
KILL_BOTH = Fault("SIGKILL of agent and primary", kill_agent_and_primary, "process_dead")
HANG = Fault("SIGSTOP of agent and primary", freeze_node, "unresponsive", thaw_node)
SWITCHOVER = Fault("planned switchover", switch_over, None)
CORRUPT_PAGE = Fault("read of a corrupt heap page", corrupt_page, "page_corrupt")
"""Needs PostgreSQL 17 or newer: an older one cannot be made to read the page again while it runs."""
KILL_CONTROLLER_TOO = Fault("SIGKILL of primary and controller", kill_primary_and_controller, "process_dead")
FAULTS = (KILL_PRIMARY, KILL_BOTH, HANG, CORRUPT_PAGE, KILL_CONTROLLER_TOO, SWITCHOVER)
