"""A copy whose source has lost WAL of the backup is no copy: it is said at once, and nothing is started in vain."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from replication import actions
from replication.client import AgentClient
from replication.errors import ActionFailed
from replication.model import WAL_SEGMENT_BYTES, Reason, parse_lsn
from replication.starting import check_backup_wal
from tests.integration.replication.test_wal_end import versions
from tests.nodes import NodeUnderTest, two_nodes

PAGE_BYTES = 8192


def lost_page(node: NodeUnderTest) -> None:
    """The page of WAL on which the copy's recovery begins reads as if it had never been written."""
    label = (node.running.node.data_dir / "backup_label").read_text(encoding="utf-8")
    found = re.search(r"START WAL LOCATION: (\S+) \(file (\w+)\)", label)
    assert found is not None, label
    with (node.running.node.data_dir / "pg_wal" / found[2]).open("r+b") as file:
        file.seek(parse_lsn(found[1]) % WAL_SEGMENT_BYTES // PAGE_BYTES * PAGE_BYTES)
        file.write(bytes(PAGE_BYTES))


@versions
async def test_a_sound_copy_has_the_end_of_its_backup_and_one_without_wal_says_where_it_ends(
    tmp_path: Path, bindir: Path | None
) -> None:
    async with two_nodes(tmp_path, bindir=bindir) as pair:
        await pair.a.first_start()
        await pair.a.act(actions.EnsureSlot("locum_b"))
        await pair.b.act(actions.Rebuild(source="a", slot="locum_b", nonce="n1", fast_checkpoint=True))
        node = pair.b.running.node
        await check_backup_wal(node, "a")
        lost_page(pair.b)
        with pytest.raises(ActionFailed, match="WAL that a gave cannot be read to the end of its backup"):
            await check_backup_wal(node, "a")
        for path in (node.data_dir / "pg_wal").glob("0*"):
            path.unlink()
        with pytest.raises(ActionFailed, match="the copy from a has no WAL to start with"):
            await check_backup_wal(node, "a")


async def test_a_copy_with_a_hole_in_its_wal_stays_half_built_until_the_source_gives_it_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with two_nodes(tmp_path) as pair:
        await pair.stream()
        await pair.b.act(actions.Fence())
        true = AgentClient.copy_wal

        async def with_a_hole(self: AgentClient, name: str) -> bytes | None:
            data = await true(self, name)
            return bytes(len(data)) if data is not None and not name.endswith(".history") else data

        op = actions.Rebuild(source="a", slot="locum_b", nonce="n2", fast_checkpoint=True, only_differences=True)
        monkeypatch.setattr(AgentClient, "copy_wal", with_a_hole)
        result = await pair.b.act(op, ok=False)
        assert result.reason == Reason.FAILED
        assert "WAL that a gave cannot be read" in result.sentence
        start = await pair.b.action(actions.StartStandby(name="b_n2", upstream="a", slot="locum_b"))
        status, answer = await pair.b.send(start)
        assert (status, answer["sentence"]) == (409, "the data directory is half_built")
        monkeypatch.undo()
        await pair.b.act(
            actions.Rebuild(source="a", slot="locum_b", nonce="n3", fast_checkpoint=True, only_differences=True)
        )
        await pair.b.act(actions.StartStandby(name="b_n3", upstream="a", slot="locum_b"))
        await pair.a.wait(lambda report: any(s.name == "b_n3" and s.state == "streaming" for s in report.walsenders))
