"""Clock, loop lag, evidence, desk, storage trend, durations: each by itself, with a clock of the test's own."""

from __future__ import annotations

import asyncio

import msgspec
import pytest

from failover.api import duration_ms
from failover.clock import ClusterClock, LoopLag
from failover.controller import server_dsn
from failover.core.model import Command, CommandKind, Reply
from failover.desk import Desk
from failover.errors import CommandUnanswered
from failover.evidence import ServersSeen
from failover.storage_trend import StorageTrend
from replication.model import ServerReport


class Hands:
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


def test_the_cluster_clock_goes_on_from_the_stored_state() -> None:
    hands = Hands()
    clock = ClusterClock(70_000, hands)
    assert clock.now_ms() == 70_000
    hands.now += 1.5
    assert clock.now_ms() == 71_500


async def test_a_loop_that_sleeps_is_seen_to_sleep() -> None:
    hands = Hands()
    lag = LoopLag(hands)
    began = hands()
    napping = asyncio.ensure_future(lag.run())
    await asyncio.sleep(0)
    hands.now += 0.04
    assert lag.worst_ms(began) == 0
    hands.now += 2.01
    assert 1_990 <= lag.worst_ms(began) <= 2_010, "the nap under way counts"
    lag.note()
    assert 1_990 <= lag.worst_ms(began) <= 2_010, "and it is remembered"
    hands.now += 1
    assert lag.worst_ms(hands()) == 0, "but not for a question that was asked later"
    napping.cancel()


def report(**changes: object) -> ServerReport:
    return msgspec.structs.replace(ServerReport(server="s", term=1, phase="healthy"), **changes)


def test_servers_are_seen_with_their_age_and_forgotten() -> None:
    hands = Hands()
    servers = ServersSeen(hands)
    assert servers.note(report())
    hands.now += 0.25
    assert [(seen.report.server, seen.age_ms) for seen in servers.seen()] == [("s", 250)]
    hands.now += 60
    assert servers.seen() == ()


@pytest.mark.parametrize(
    ("changes", "is_news"),
    [
        ({}, False),
        ({"held_requests": 3}, False),
        ({"term": 2}, True),
        ({"connect_error": "refused"}, True),
        ({"writes_failing_ms": 10}, True),
        ({"phase": "switching_over"}, True),
        ({"writes_in_flight": 1}, True),
    ],
)
def test_what_a_server_says_anew_is_news(changes: dict[str, object], is_news: bool) -> None:
    servers = ServersSeen(Hands())
    servers.note(report())
    assert servers.note(report(**changes)) is is_news


def command(name: str) -> Command:
    return Command(id=name, kind=CommandKind.PAUSE, expected_term=1)


async def test_commands_wait_in_order_until_each_is_answered() -> None:
    desk, woken = Desk(), list[int]()
    first = asyncio.ensure_future(desk.ask(command("1"), deadline_ms=5_000, wake=lambda: woken.append(1)))
    second = asyncio.ensure_future(desk.ask(command("2"), deadline_ms=5_000, wake=lambda: woken.append(2)))
    await asyncio.sleep(0)
    assert woken == [1, 2]
    assert [waiting.id for waiting in desk.next()] == ["1"]
    assert [waiting.id for waiting in desk.next()] == ["1"], "one without a reply is handed over again"
    desk.answer((Reply("1", 202, "yes"),))
    assert [waiting.id for waiting in desk.next()] == ["2"]
    desk.answer((Reply("2", 409, "no"), Reply("unknown", 202, "")))
    assert desk.next() == ()
    assert [(await first).status, (await second).status] == [202, 409]


async def test_a_command_that_nobody_waits_for_any_more_is_not_carried_out() -> None:
    desk = Desk()
    with pytest.raises(CommandUnanswered, match="pause"):
        await desk.ask(command("1"), deadline_ms=10, wake=lambda: None)
    assert desk.next() == ()


def test_time_to_full() -> None:
    trend = StorageTrend()
    trend.note(1_000_000, 0)
    assert trend.full_in_s() is None
    trend.note(900_000, 10_000)
    assert trend.full_in_s() is None, "too new to tell"
    trend.note(500_000, 50_000)
    assert trend.full_in_s() == 50
    trend.note(2_000_000, 60_000)
    assert trend.full_in_s() is None, "it does not shrink"
    trend.note(None, 70_000)


@pytest.mark.parametrize(
    ("text", "expected"),
    [("90s", 90_000), ("30m", 1_800_000), ("2h", 7_200_000), ("250ms", 250), ("0s", 0), ("30", None), ("-1s", None)],
)
def test_durations(text: str, expected: int | None) -> None:
    assert duration_ms(text) == expected


def test_dsns_name_no_password_and_bracket_addresses() -> None:
    assert server_dsn("127.0.0.1", 8101, "locum") == "postgresql://locum_server@127.0.0.1:8101/locum"
    assert server_dsn("::1", 8101, "locum") == "postgresql://locum_server@[::1]:8101/locum"
