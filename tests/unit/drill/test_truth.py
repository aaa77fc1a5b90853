"""Which verdicts are right: each class has some, and none of a disk's is the network's."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from failover.drill.campaign import CLASSES, STORAGE_CLASSES
from failover.drill.faults.damage import Damage
from failover.drill.faults.planted import Planted, what_healed
from failover.drill.judge import Result
from failover.drill.matrix import confusion, matrix, undetected
from failover.drill.runner import Report
from failover.drill.scenario import Files
from failover.drill.truth import RIGHT, wrong_verdicts
from replication.model import FaultKind
from tests.unit.drill.test_judge import GOOD
from tests.unit.drill.test_report import made


def report(name: str, *verdicts: str, blamed: str = "primary", healed: tuple[str, ...] = ()) -> Report:
    one = made(Result.PASSED)
    scenario = msgspec.structs.replace(
        one.scenario, name=f"000 {name}", steps=(Files(node="primary", damage=Damage.STALE),)
    )
    measured = msgspec.structs.replace(GOOD, verdicts=verdicts, blamed=tuple((kind, blamed) for kind in verdicts))
    return msgspec.structs.replace(one, scenario=scenario, measured=measured, healed=healed)


def test_every_class_has_its_right_verdicts_and_they_exist() -> None:
    assert set(RIGHT) == set(CLASSES)
    kinds = {kind.value for kind in FaultKind}
    assert all(named <= kinds for named in RIGHT.values())


@pytest.mark.parametrize("name", sorted(STORAGE_CLASSES))
def test_a_disk_is_never_the_network_nor_the_reverse(name: str) -> None:
    assert "unreachable" not in RIGHT[name]
    assert len(wrong_verdicts(report(name, "unreachable"))) >= 1
    assert not any(FaultKind(kind).cause.value in ("storage", "corruption") for kind in RIGHT["path cut"])


def test_a_verdict_that_names_the_node_that_is_well_is_wrong_however_right_its_kind() -> None:
    assert wrong_verdicts(report("stale page", "stale_page")) == []
    (said,) = wrong_verdicts(report("stale page", "stale_page", blamed="standby"))
    assert "standby, which is well" in said
    assert confusion([report("stale page", "stale_page"), report("stale page", "vm_corrupt")])[:2] == (2, 1)


def test_whatever_is_named_where_nothing_is_wrong_is_wrong() -> None:
    assert wrong_verdicts(report("clock jump", "process_dead")) == ["000 clock jump: named process_dead"]


def test_what_was_written_over_is_not_called_missed_but_healed() -> None:
    missed, healed = report("lost write"), report("lost write", healed=("block 3 was written again",))
    assert [line.partition(":")[0] for line in undetected([missed, healed])] == ["000 lost write"]
    assert matrix([healed])[0][5] == "healed 1"


def test_a_planted_byte_is_healed_when_it_is_written_over_unless_postgres_took_it_for_good(tmp_path: Path) -> None:
    file = tmp_path / "0000"
    file.write_bytes(bytes(64))
    planted = Planted(Damage.TRANSACTION_STATUS, file, 8, b"\x00" * 4)
    assert what_healed(planted) is None
    file.write_bytes(b"\x01" * 64)
    assert "4 bytes at 8 was written again" in (what_healed(planted) or "")
    assert what_healed(planted._replace(damage=Damage.STALE)) is None
    file.unlink()
    assert "removed" in (what_healed(planted) or "")
