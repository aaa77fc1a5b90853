"""In which stretches the WAL is read when a process has crashed: what lies far apart is not read for what is between."""

from __future__ import annotations

from replication.scrub.post_mortem import Suspect, by_stretch
from replication.scrub.wal_ledger import Relation

MIB = 1024 * 1024
TABLE = Relation(1663, 5, 16_400)


def lsns(*suspects: int) -> list[list[int]]:
    return [[one.lsn for one in stretch] for stretch in by_stretch([Suspect(lsn, TABLE, 0) for lsn in suspects])]


def test_neighbours_are_read_in_one_go_and_the_shortest_stretch_first() -> None:
    recent = [400 * MIB + step * 100_000 for step in (2, 0, 1)]
    assert lsns(*recent, 14 * MIB) == [[14 * MIB], sorted(recent)]


def test_many_stretches_are_not_all_read() -> None:
    assert len(lsns(*(step * 10 * MIB for step in range(1, 100)))) == 20
    assert lsns() == []
