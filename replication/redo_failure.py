"""A standby whose recovery broke off: at which record, over which block, and whose page is wrong, its own or the primary's.

A primary that reads back an old page, or another, writes records that fit that page and no other; a standby that replays them on
the right page breaks down. Then the standby has the good copy, up to that record.
"""

from __future__ import annotations

import asyncio
import re

import structlog

from replication.errors import ActionFailed
from replication.local_node import LocalNode
from replication.log_tail import LogLine
from replication.model import RedoFailure, parse_lsn
from replication.scrub.compare import JudgePage
from replication.scrub.relation_path import fork_path
from replication.scrub.wal_ledger import Reading, Relation
from replication.threads import in_thread
from replication.wire.errors import WireError

_log = structlog.get_logger()

_AT = re.compile(r"WAL redo at ([0-9A-F]+/[0-9A-F]+) for ")
_BLOCK = re.compile(r"blkref #0: rel (\d+)/(\d+)/(\d+)(, fork \d+)?, blk (\d+)")
_TRIES, _PAUSE_S = 6, 0.3
_OF_THE_HOST = ("53", "57", "58", "42501")
"""Beginnings of SQLSTATE: no space or memory, stopped by somebody, an error of the system, a disk that is read-only (elog.c,
errcode_for_file_access). The page is not what it broke off over."""


def parse_redo_failure(context: str) -> tuple[int, Relation | None, int | None] | None:
    """(LSN of the record, relation, block) from the context of a startup process's last words; no relation where the record
    names none, or another fork (src/backend/access/transam/xlogrecovery.c, rm_redo_error_callback)."""
    at = _AT.search(context)
    if at is None:
        return None
    block = _BLOCK.search(context)
    if block is None or block[4] is not None:
        return parse_lsn(at[1]), None, None
    return parse_lsn(at[1]), Relation(int(block[1]), int(block[2]), int(block[3])), int(block[5])


class RedoWatch:
    """`heard` each fatal line of the log; `failure` is what is known of the last one."""

    def __init__(self, local: LocalNode) -> None:
        self._local = local

    def heard(self, line: LogLine) -> bool:
        """Whether this line tells of a recovery that broke off over what it read; then `ask` is to be run, and the node is left alone."""
        found = parse_redo_failure(line.context)
        if found is None or line.state_code.startswith(_OF_THE_HOST):
            return False
        lsn, _, block = found
        known = self._local.memory.redo_failure
        if known is not None and known.lsn == lsn:
            return False  # started again, it broke off there again
        self._local.memory.redo_failure = RedoFailure(lsn=lsn, path=None, block=block, said=line.message)
        self._local.publish("redo_failed")
        return True

    async def ask(self, line: LogLine) -> None:
        """Ask the primary whether its own page is what WAL says; told in the report. Raises nothing but cancellation."""
        found, upstream = parse_redo_failure(line.context), self._local.state.upstream
        if found is None or found[1] is None or found[2] is None or upstream is None:
            self._told(asked=True)
            return
        lsn, relation, block = found[0], found[1], found[2]
        path = await in_thread(fork_path, self._local.node.data_dir, relation)
        for _ in range(_TRIES if path is not None else 0):
            try:
                judged = await self._local.peer(upstream).judge(JudgePage(path or "", block, redo_lsn=lsn))
            except (WireError, ActionFailed) as error:
                _log.info("agent.redo_not_judged", error=str(error))
            else:
                if judged.guilty or judged.reading == Reading.FITS:
                    self._told(asked=True, path=path, blamed=upstream if judged.guilty else self._local.node.name)
                    return
            await asyncio.sleep(_PAUSE_S)
        self._told(asked=True, path=path)

    def _told(self, *, asked: bool, path: str | None = None, blamed: str | None = None) -> None:
        known = self._local.memory.redo_failure
        if known is None:
            return
        self._local.memory.redo_failure = RedoFailure(known.lsn, path, known.block, known.said, asked, blamed)
        _log.error("agent.redo_failed", record=known.lsn, path=path, block=known.block, blamed=blamed)
        self._local.publish("redo_judged")
