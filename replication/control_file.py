"""pg_control as pg_controldata tells it: who the cluster is, how it was left, where recovery would begin."""

from __future__ import annotations

import msgspec

from replication.errors import ActionFailed, ForeignData
from replication.model import WAL_SEGMENT_BYTES, WAL_SEGMENT_MB, Reason, parse_lsn
from replication.node import Node
from replication.tools import run_tool

_DEADLINE_S = 5.0


class ControlData(msgspec.Struct, frozen=True):
    """`state` as pg_controldata words it (`in production`, `shut down`, …); LSNs as integers.

    `timeline` is that of the latest checkpoint; `minimum_recovery_lsn` (0: none) and its timeline are a standby's.
    """

    system_identifier: str
    state: str
    timeline: int
    checkpoint_lsn: int
    redo_lsn: int
    redo_wal_file: str
    minimum_recovery_lsn: int
    minimum_recovery_timeline: int
    data_checksums: bool
    wal_segment_bytes: int


async def read_control(node: Node) -> ControlData:
    """Read the local node's pg_control. Raises ActionFailed(FAILED) when there is none or its CRC is wrong."""
    command = node.installation.command("pg_controldata", str(node.data_dir))
    output = await run_tool(command, deadline_s=_DEADLINE_S, warnings=True)
    return parse_control(output.decode(errors="replace"))


async def check_segments(node: Node) -> None:
    """Refuse a cluster with WAL segments of another size: names and positions would be misread. Raises ForeignData.

    A pg_control that is not there or is damaged says nothing of it.
    """
    try:
        control = await read_control(node)
    except ActionFailed:
        return
    if control.wal_segment_bytes != WAL_SEGMENT_BYTES:
        raise ForeignData(
            f"{node.data_dir} has WAL segments of {control.wal_segment_bytes // 1024**2} MB, and Locum works with "
            f"{WAL_SEGMENT_MB} MB: dump that database, make a new cluster and load it there"
        )


def parse_control(text: str) -> ControlData:
    """pg_controldata's output (src/bin/pg_controldata/pg_controldata.c). Raises ActionFailed(FAILED)."""
    if "CRC checksum does not match" in text:
        raise ActionFailed(Reason.FAILED, "pg_control is damaged: its CRC does not fit")
    fields = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in text.splitlines())}
    try:
        return ControlData(
            system_identifier=fields["Database system identifier"],
            state=fields["Database cluster state"],
            timeline=int(fields["Latest checkpoint's TimeLineID"]),
            checkpoint_lsn=parse_lsn(fields["Latest checkpoint location"]),
            redo_lsn=parse_lsn(fields["Latest checkpoint's REDO location"]),
            redo_wal_file=fields["Latest checkpoint's REDO WAL file"],
            minimum_recovery_lsn=parse_lsn(fields["Minimum recovery ending location"]),
            minimum_recovery_timeline=int(fields["Min recovery ending loc's timeline"]),
            data_checksums=fields["Data page checksum version"] != "0",
            wal_segment_bytes=int(fields["Bytes per WAL segment"]),
        )
    except (KeyError, ValueError) as error:
        raise ActionFailed(Reason.FAILED, f"pg_controldata said something unexpected: {error!r}") from error
