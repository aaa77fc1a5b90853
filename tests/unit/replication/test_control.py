"""pg_control that went back is damage, also when only PostgreSQL itself has seen how far it had come."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from replication.control_file import ControlData
from replication.model import DataDirectory, FaultKind
from replication.scrub import control
from replication.scrub.control import ControlWatch
from replication.scrub.findings import Findings


class Found:
    def __init__(self) -> None:
        self.kinds: list[FaultKind] = []

    def add(self, kind: FaultKind, sentence: str, **_more: object) -> None:
        assert "went back" in sentence
        self.kinds.append(kind)


def watch(highest_redo: int, found: Found) -> ControlWatch:
    memory = SimpleNamespace(
        data=DataDirectory.PRESENT, doing=None, sql=SimpleNamespace(facts=None, highest_redo=highest_redo)
    )
    local = SimpleNamespace(memory=memory, state=SimpleNamespace(rebuilt_revision=1), node=None)
    return ControlWatch(cast("Any", local), cast("Findings", found))


@pytest.mark.parametrize(
    ("redo", "highest", "kinds"), [(900, 900, []), (900, 800, []), (900, 901, [FaultKind.CONTROL_CORRUPT])]
)
async def test_it_must_not_lie_before_a_checkpoint_that_postgresql_has_told_of(
    monkeypatch: pytest.MonkeyPatch, redo: int, highest: int, kinds: list[FaultKind]
) -> None:
    read = ControlData(**{**dict.fromkeys(ControlData.__struct_fields__, 1), "checkpoint_lsn": 1_000, "redo_lsn": redo})

    async def read_control(_node: object) -> ControlData:
        return read

    monkeypatch.setattr(control, "read_control", read_control)
    found = Found()
    await watch(highest, found).look()
    assert found.kinds == kinds
