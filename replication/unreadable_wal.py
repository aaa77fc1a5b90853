"""A standby's recovery that cannot read WAL which was streamed to it.

The end of what lies in pg_wal is told once, and is no fault. What is told again was streamed: the receiver has written it, the
standby has confirmed it, and the disk gives something else (src/backend/access/transam/xlogrecovery.c,
emode_for_corrupt_record, which makes a second word about a record from pg_wal a matter of debugging).
"""

from __future__ import annotations

import re

from replication.log_tail import LogLine

_RECORD = re.compile(r" at [0-9A-F]+/[0-9A-F]+")
_NO_COMPLAINT = ("waiting for WAL", "redo ", "consistent recovery state", "recovery ", "restored ", "started ")


class UnreadableWal:
    """`heard` each line of the log."""

    def __init__(self) -> None:
        self._last = ""
        self._is_told = False

    def heard(self, line: LogLine) -> bool:
        """Whether the startup process has now said the same of the same record for the second time."""
        if line.backend_type != "startup" or line.error_severity != "LOG" or _RECORD.search(line.message) is None:
            return False
        if line.message.startswith(_NO_COMPLAINT):
            return False
        is_again = line.message == self._last
        tells = is_again and not self._is_told
        self._last, self._is_told = line.message, is_again
        return tells
