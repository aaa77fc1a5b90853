"""The page scrub on files that a test has made: what it finds, what it leaves alone, and that it goes on where it was."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from replication.log_faults import LogFaults
from replication.page_size import PAGE_BYTES, PAGES_A_SEGMENT
from replication.scrub.files import relation_files
from replication.scrub.findings import Findings
from replication.scrub.page_service import PageScrub
from replication.scrub.pages import BadPage, Batch, Budget, PagePass, Position
from replication.scrub.pause import Pause
from tests.unit.replication.test_page import whole_page


def data_directory(root: Path) -> Path:
    for folder in ("global", "base/5", "pg_tblspc/16390/PG_18_202506291/5"):
        (root / folder).mkdir(parents=True)
    return root


def write(path: Path, pages: int, *, first: int = 0) -> None:
    path.write_bytes(b"".join(bytes(whole_page(first + block)) for block in range(pages)))


def scrub(data: Path, position: Position = Position()) -> tuple[list[BadPage], int]:  # noqa: B008
    """What a pass finds, and how many pages it reads, the same whether it reads ahead or not."""
    ways: list[tuple[list[Batch], int]] = []
    for reads_ahead in (False, True):
        work, batches = PagePass(data, position, reads_ahead=reads_ahead), []
        while (batch := work.step()) is not None:
            batches.append(batch)
        ways.append((batches, work.position.pages_read))
    assert ways[0] == ways[1]
    return [bad for batch in ways[0][0] for bad in batch.bad], sum(batch.pages for batch in ways[0][0])


def test_files_with_pages_are_listed_and_no_others(tmp_path: Path) -> None:
    data = data_directory(tmp_path)
    for name in (
        "base/5/16384",
        "base/5/16384_vm",
        "base/5/16384.1",
        "global/1262",
        "pg_tblspc/16390/PG_18_202506291/5/7",
    ):
        write(data / name, 1)
    for name in (
        "base/5/PG_VERSION",
        "base/5/pg_filenode.map",
        "base/5/t3_16400",
        "global/pg_control",
        "base/5/16384.tmp",
    ):
        (data / name).write_bytes(b"x")
    found = relation_files(data)
    assert [file.path for file in found] == [
        "base/5/16384", "base/5/16384.1", "base/5/16384_vm", "global/1262", "pg_tblspc/16390/PG_18_202506291/5/7",
    ]  # fmt: skip
    assert found[1].first_block == PAGES_A_SEGMENT
    assert found[1].fork_path == "base/5/16384"


def test_every_damaged_page_is_found_with_its_block_and_nothing_else(tmp_path: Path) -> None:
    data = data_directory(tmp_path)
    write(data / "base/5/16384", 200)
    write(data / "base/5/16384.1", 3, first=PAGES_A_SEGMENT)
    write(data / "global/1262", 5)
    with (data / "base/5/16384").open("r+b") as file:
        for block in (0, 63, 64, 199):
            file.seek(block * PAGE_BYTES + 8_100)
            file.write(b"!")
    with (data / "base/5/16384.1").open("r+b") as file:
        file.seek(PAGE_BYTES + 30)
        file.write(b"\x01")
    found, pages = scrub(data)
    assert pages == 208
    assert sorted(one.block for one in found) == [0, 63, 64, 199, PAGES_A_SEGMENT + 1]
    assert {one.path for one in found} == {"base/5/16384"}


def test_a_pass_goes_on_where_it_was(tmp_path: Path) -> None:
    data = data_directory(tmp_path)
    write(data / "base/5/1", 200)
    write(data / "base/5/2", 200)
    work = PagePass(data)
    for _ in range(3):
        work.step()
    work.close()
    assert work.position == Position("base/5/2", 128, 328, 400)
    assert scrub(data, work.position)[1] == 72


def test_a_page_that_is_just_being_written_is_no_damage(tmp_path: Path) -> None:
    data = data_directory(tmp_path)
    path = data / "base/5/1"
    write(path, 3)
    torn = bytearray(path.read_bytes())
    torn[2 * PAGE_BYTES + 8_000] ^= 1
    path.write_bytes(bytes(torn))

    def finish() -> None:
        time.sleep(0.012)
        write(path, 3)

    writer = threading.Thread(target=finish)
    writer.start()
    work = PagePass(data)
    batch = work.step()
    writer.join()
    assert batch is not None and batch.pages == 3 and batch.bad == ()


def test_a_file_that_is_dropped_on_the_way_is_no_damage(tmp_path: Path) -> None:
    data = data_directory(tmp_path)
    write(data / "base/5/1", 100)
    (data / "base/5/2").write_bytes(b"\xff" * PAGE_BYTES)
    work = PagePass(data)
    work.step()
    (data / "base/5/2").unlink()
    bad = []
    while (batch := work.step()) is not None:
        bad += batch.bad
    assert bad == []


@pytest.mark.parametrize(
    ("latency_ms", "pages", "least_s"), [(None, 1_000, 0.0), (5, 1_000, 0.0), (500, 128, 1.0), (500, 256, 1.0)]
)
def test_slow_bookings_stop_it(latency_ms: int | None, pages: int, least_s: float) -> None:
    assert Budget(1_000.0, 100, monotonic=lambda: 7.0).waits_s(pages, latency_ms) >= least_s


def test_many_small_relations_hold_a_pass_up_no_longer_than_as_many_pages_in_one() -> None:
    budget = Budget(1_000.0, 100, monotonic=lambda: 7.0)
    assert sum(budget.waits_s(1, 500) for _ in range(128)) == pytest.approx(1.0, rel=0.1)


def test_a_budget_holds_on_average_and_zero_means_none() -> None:
    now_s = 100.0
    budget, waited_s = Budget(8.192, 100, monotonic=lambda: now_s), 0.0
    for _ in range(1_000):
        wait_s = budget.waits_s(1, None)
        waited_s += wait_s
        now_s += wait_s
    assert waited_s == pytest.approx(1.0, rel=0.05)
    assert Budget(0, 100).waits_s(10_000, None) == 0.0


@pytest.mark.parametrize(
    ("path", "is_proof"), [("base/5/16384", True), ("base/5/16384_vm", True), ("base/5/16384_fsm", False)]
)
def test_a_torn_map_of_free_space_convicts_nobody(path: str, is_proof: bool) -> None:
    log_faults = LogFaults("a")
    memory: Any = SimpleNamespace(node=SimpleNamespace(name="a"), log_faults=log_faults)
    said: list[str] = []
    nobody = cast(Any, None)
    service = PageScrub(nobody, Findings(memory, said.append), nobody, nobody, lambda: None)
    service._note(Batch("f", 1, 1, (BadPage(path, 3),)), Position(pages_read=1, pages_in_all=1), cached=False)
    (fault,) = log_faults.faults()
    assert (fault.is_proof, fault.places[0].block, said) == (is_proof, 3, ["scrub_found"])


def test_a_pause_is_over_by_itself_and_at_once_when_it_is_ended() -> None:
    now = [100.0]
    pause = Pause(lambda: now[0])
    assert not pause.is_on
    pause.begin(5)
    assert pause.is_on
    now[0] += 5
    assert not pause.is_on
    pause.begin(60)
    pause.begin(0)
    assert not pause.is_on
    for bad in (-1.0, float("nan"), 1e9):
        with pytest.raises(ValueError, match="a pause lasts"):
            pause.begin(bad)


def test_busy_processors_make_it_slower() -> None:
    def waited_s(share: float) -> float:
        return Budget(8.192, 100, lambda: share, lambda: 7.0).waits_s(100, None)

    assert waited_s(0.1) == pytest.approx(10 * waited_s(1.0))
