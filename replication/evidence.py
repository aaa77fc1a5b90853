"""What a node keeps of a fault when it is found, off its own disk: the pages, the other node's, what WAL says of them, the log.

A damaged node is rebuilt within moments, and then only this is left to learn from. The JSON files tell what was seen without a
patient's data; the pages themselves lie beside them (`.page`, `.peer`), mode 0600.
"""

from __future__ import annotations

import asyncio
import io
import struct
import tarfile
from pathlib import Path

import msgspec
import numpy as np
import structlog

from replication.errors import SQL_ERRORS, ActionFailed
from replication.local_node import LocalNode
from replication.model import Fault, NodeReport, Place, format_lsn
from replication.page import as_pages, checksums
from replication.relation_files import page_on_disk
from replication.scrub.compare import JudgePage
from replication.scrub.ledger_service import LedgerService
from replication.scrub.relation_path import relation_at
from replication.threads import in_thread
from replication.wall_clock import wall_now
from replication.wire.errors import WireError
from replication.wire.secrets import write_private

_log = structlog.get_logger()

KEPT_MAX = 40
"""Sets of files; the oldest go first."""
_PLACES_MAX = 4
_RECORDS_MAX = 200
_LOG_LINES_MAX = 30
_PEER_S = 2.0
_READINGS = 3
_BREAKS_OFF: tuple[type[Exception], ...] = (*SQL_ERRORS, ActionFailed, WireError)


class PageHeader(msgspec.Struct, frozen=True):
    """A page's header, decoded (src/include/storage/bufpage.h).

    `checksum_fits`: PostgreSQL would take the page: its checksum is right, or it is all zero, as a page is that the file has
    been extended by and that no checkpoint has written yet (PageIsVerified in src/backend/storage/page/bufpage.c).
    """

    lsn: str
    checksum: int
    checksum_fits: bool
    flags: int
    lower: int
    upper: int
    special: int
    is_zero: bool


class KeptPage(msgspec.Struct, frozen=True):
    """One place: what this node's disk gave, what the other node's did, and what WAL says of the block."""

    place: Place
    header: PageHeader | None = None
    error: str | None = None
    peer_header: PageHeader | None = None
    peer_error: str | None = None
    records: tuple[str, ...] = ()


class Kept(msgspec.Struct, frozen=True):
    """The readable part. `report`: all that the agent knew of its node then, its probes among it."""

    at: str
    node: str
    fault: Fault
    pages: tuple[KeptPage, ...]
    report: NodeReport
    log: tuple[str, ...] = ()


def _page_as_it_lies(data_dir: Path, path: str, block: int) -> bytes | None:
    """Read again where it does not fit, since PostgreSQL may be writing it just then."""
    page = None
    for _ in range(_READINGS):
        page = page_on_disk(data_dir, path, block)
        if page is None or header_of(page, block).checksum_fits:
            break
    return page


def header_of(page: bytes, block: int) -> PageHeader:
    """Decoded, whole or not."""
    high, low, checksum, flags, lower, upper, special = struct.unpack_from("<IIHHHHH", page)
    (right,) = checksums(as_pages(page), np.array([block], dtype=np.uint32))
    is_zero = not any(page)
    fits = is_zero or int(right) == checksum
    return PageHeader(format_lsn(high << 32 | low), checksum, fits, flags, lower, upper, special, is_zero)


class EvidenceKeeper:
    """`look` whenever something was found; `tar` what was kept."""

    def __init__(self, local: LocalNode, ledger: LedgerService) -> None:
        self._local = local
        self._ledger = ledger
        self._folder = local.node.settings.state_dir / "evidence"
        self._seen: set[tuple[str, str]] = set()
        self._turn = asyncio.Lock()
        self._log_lines: list[str] = []

    def heard(self, severity: str, sqlstate: str, message: str) -> None:
        """A line of PostgreSQL's log that tells of a fault."""
        self._log_lines = [*self._log_lines, f"{wall_now()} {severity} {sqlstate}: {message}"][-_LOG_LINES_MAX:]

    async def look(self, report: NodeReport) -> None:
        """Keep what is not kept yet of the faults in this report. Raises nothing but cancellation."""
        async with self._turn:
            for fault in (*report.faults, *report.upstream_faults):
                new = [place for place in fault.places if (fault.kind.value, str(place)) not in self._seen][
                    :_PLACES_MAX
                ]
                if not new:
                    continue
                self._seen |= {(fault.kind.value, str(place)) for place in new}
                await self._keep(fault, new, report)

    async def tar(self) -> bytes:
        """All that is kept, as a tar archive. Raises OSError."""
        return await in_thread(self._tar)

    async def page(self, path: str, block: int) -> bytes | None:
        """For the peer: this node's page as it lies there. Raises OSError."""
        return await in_thread(_page_as_it_lies, self._local.node.data_dir, path, block)

    async def _keep(self, fault: Fault, places: list[Place], report: NodeReport) -> None:
        pages: list[KeptPage] = []
        raw: dict[str, bytes] = {}
        for number, place in enumerate(places):
            kept, files = await self._place(place)
            pages.append(kept)
            raw |= {f"{number}.{name}": data for name, data in files.items()}
        kept_all = Kept(wall_now(), self._local.node.name, fault, tuple(pages), report, tuple(self._log_lines))
        try:
            await in_thread(self._write, fault.kind.value, kept_all, raw)
        except OSError as error:
            _log.warning("agent.evidence_unwritable", error=error.strerror)
            return
        _log.info("agent.evidence_kept", kind=fault.kind.value, pages=len(pages))

    async def _place(self, place: Place) -> tuple[KeptPage, dict[str, bytes]]:
        relation = relation_at(place.path) if place.path is not None else None
        if relation is None or place.block is None or place.path is None:
            return KeptPage(place), {}
        files: dict[str, bytes] = {}
        header = peer_header = error = peer_error = None
        try:
            page = await self.page(place.path, place.block)
            if page is not None:
                files["page"], header = page, header_of(page, place.block)
        except OSError as problem:
            error = problem.strerror
        try:
            peer = await self._of_peer(place.path, place.block)
            if peer is not None:
                files["peer"], peer_header = peer, header_of(peer, place.block)
        except _BREAKS_OFF as problem:
            peer_error = str(problem)[:200]
        records: tuple[str, ...] = ()
        try:
            found = await self._ledger.wal.heap_records(relation, place.block, self._ledger.read_to)
            records = tuple(f"{one.kind} {one.description} xid {one.xid}" for one in found[-_RECORDS_MAX:])
        except _BREAKS_OFF as problem:
            _log.info("agent.evidence_without_wal", error=repr(problem)[:200])
        return KeptPage(place, header, error, peer_header, peer_error, records), files

    async def _of_peer(self, path: str, block: int) -> bytes | None:
        """The first other node that answers."""
        for name in self._local.node.settings.peers:
            return await self._local.peer(name).raw_page(JudgePage(path, block), deadline_ms=int(_PEER_S * 1000))
        return None

    def _write(self, kind: str, kept: Kept, raw: dict[str, bytes]) -> None:
        self._folder.mkdir(mode=0o700, exist_ok=True)
        stem = f"{kept.at[:23].replace(':', '')}-{kind}"
        for name, data in raw.items():
            write_private(self._folder / f"{stem}-{name}", data)
        text = msgspec.json.format(msgspec.json.encode(kept), indent=1).decode()
        write_private(self._folder / f"{stem}.json", text)
        for old in sorted(self._folder.glob("*.json"))[:-KEPT_MAX]:
            for path in self._folder.glob(f"{old.stem}*"):
                path.unlink(missing_ok=True)

    def _tar(self) -> bytes:
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w") as archive:
            for path in sorted(self._folder.glob("*")) if self._folder.exists() else []:
                _add(archive, path)
        return buffer.getvalue()


def _add(archive: tarfile.TarFile, path: Path) -> None:
    data = path.read_bytes()
    entry = tarfile.TarInfo(path.name)
    entry.size, entry.mode, entry.mtime = len(data), 0o600, int(path.stat().st_mtime)
    archive.addfile(entry, io.BytesIO(data))
