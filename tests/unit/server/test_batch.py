"""Group commit: what comes together goes together, each gets its own answer, and nobody waits for a deadline that is not his."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Coroutine, Sequence
from typing import Any

import pytest

from server.batch import BATCHES_MAX, MEMBERS_MAX, Alone, Batcher, Member, Result, Results
from server.errors import ConnectionLost
from server.expected import Standing
from tests.unit.server.test_expected import NINE

FAR_S = 60.0


def member(key: str) -> Member:
    return Member(
        key=key, digest="00", id=uuid.uuid4(), status="booked", slot=uuid.uuid4(), practitioner=None, patient="ada",
        patient_name=None, comment=None, not_before=NINE, hold_until=None, agent="a", audit=uuid.uuid4(),
    )  # fmt: skip


class Writer:
    """Answers each member with its own key, once it may."""

    def __init__(self) -> None:
        self.batches: list[list[str]] = []
        self.expected: list[list[Standing]] = []
        self.may = asyncio.Event()
        self.error: BaseException | None = None
        self.tasks: set[asyncio.Task[None]] = set()
        self.batcher = Batcher(self.send, self.spawn)

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        self.tasks.add(asyncio.ensure_future(work))

    async def send(self, members: Sequence[Member], expected: list[Standing], until_s: float) -> Results:
        del until_s
        self.batches.append([one.key for one in members])
        self.expected.append(expected)
        await self.may.wait()
        if self.error is not None:
            raise self.error
        return Results(tuple(Result(one.n, refused=one.key) for one in members), 1, "000000010000000000000001")

    def submit(self, key: str, *, within_s: float = FAR_S, standing: tuple[Standing, ...] = ()) -> asyncio.Task[Any]:
        return asyncio.ensure_future(
            self.batcher.submit(member(key), lambda: list(standing), time.monotonic() + within_s)
        )


async def settled() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_a_lone_booking_waits_for_nobody_and_what_comes_meanwhile_shares_the_next_batch() -> None:
    writer = Writer()
    first = [writer.submit("0")]
    await settled()
    for number in range(1, BATCHES_MAX):
        first.append(writer.submit(str(number)))
        await settled()
    assert writer.batches == [[str(number)] for number in range(BATCHES_MAX)]
    later = [writer.submit(f"later {number}") for number in range(5)]
    await settled()
    assert len(writer.batches) == BATCHES_MAX, "no more batches at a time"
    writer.may.set()
    assert await asyncio.gather(*first, *later) == [str(n) for n in range(BATCHES_MAX)] + [
        f"later {n}" for n in range(5)
    ]
    assert writer.batches[BATCHES_MAX] == [f"later {n}" for n in range(5)]


async def test_requests_that_come_in_together_go_together_and_no_batch_grows_without_bound() -> None:
    writer = Writer()
    writer.may.set()
    tasks = [writer.submit(str(number)) for number in range(MEMBERS_MAX + 1)]
    await asyncio.gather(*tasks)
    assert [len(batch) for batch in writer.batches] == [MEMBERS_MAX, 1]


async def test_an_error_reaches_every_member_and_the_next_batch_goes_on() -> None:
    writer = Writer()
    writer.may.set()
    writer.error = Alone()
    tasks = [writer.submit(str(number)) for number in range(3)]
    for task in tasks:
        with pytest.raises(Alone):
            await task
    writer.error = None
    assert await writer.submit("next") == "next"


async def test_a_deadline_ends_the_waiting_of_one_and_of_nobody_else() -> None:
    writer = Writer()
    hasty, patient = writer.submit("hasty", within_s=0.05), writer.submit("patient")
    with pytest.raises(ConnectionLost):
        await hasty
    writer.may.set()
    assert await patient == "patient"


async def test_who_hung_up_before_the_batch_began_is_not_written() -> None:
    writer = Writer()
    for number in range(BATCHES_MAX):
        writer.submit(str(number))
        await settled()
    gone, stays = writer.submit("gone"), writer.submit("stays")
    await settled()
    gone.cancel()
    await settled()
    writer.may.set()
    assert await stays == "stays"
    assert writer.batches[-1] == ["stays"]


async def test_what_is_in_the_way_is_asked_for_when_the_batch_begins_each_once() -> None:
    writer = Writer()
    writer.may.set()
    one, two = Standing("1", 1), Standing("2", 5)
    await asyncio.gather(writer.submit("a", standing=(one,)), writer.submit("b", standing=(one, two)))
    assert writer.expected == [[one, two]]
