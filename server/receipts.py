"""Receipts: what was acknowledged, on a disk of its own, before the answer goes out (DESIGN section 4, receipts).

One thread writes; everybody who waits for it shares an fsync. Where the disk of the receipts fails, bookings go on: they
are committed on two nodes, and the receipt is kept in memory and written again, while an alarm says so.
"""

from __future__ import annotations

import asyncio
import contextlib
import queue
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import msgspec
import structlog

from replication.model import Receipt
from server.acknowledged import Acknowledged, acknowledged, opened, sealed
from server.expected import Expected
from server.idempotency import Claim
from server.patience import within
from server.receipt_file import FILE_BYTES, Damage, ReceiptFiles, Stored
from server.seal import Seal
from server.store import Kept

_log = structlog.get_logger()

DEADLINE_S = 2.0
"""A receipt that is not on its disk by then does not hold the answer up any longer."""
_BATCH_MAX = 512
_TRY_AGAIN_S = 1.0


class Noted(msgspec.Struct, frozen=True):
    """Where the primary's WAL was flushed to, read after the rows were seen there."""

    timeline: int
    flush_lsn: int


class Receipts:
    """Kept in memory too: the newest of each id, and in which file it lies. Touched on the event loop only; the thread
    gets what it writes through a queue. `changed(sentence)`: told when the disk fails (a sentence) or works (None)."""

    def __init__(
        self, directory: Path, seal: Seal, changed: Callable[[str | None], None], *, file_bytes: int = FILE_BYTES
    ) -> None:
        self.problem: str | None = None
        self.expected = Expected()
        self.batches = 0
        self._files = ReceiptFiles(directory, file_bytes)
        self._seal = seal
        self._changed = changed
        self._newest: dict[str, Receipt] = {}
        self._learned: dict[str, tuple[Receipt, float]] = {}
        """What other workers of this host have acknowledged, and since when it is known here."""
        self._known_s: dict[str, float] = {}
        """Since when the newest version is known (time.monotonic)."""
        self._seen_at: dict[str, Noted] = {}
        """Where the WAL was flushed to when the newest version of a row had been seen on a primary."""
        self._in_file: dict[int, dict[str, int]] = {}
        """For each file the newest version of each id in it."""
        self._queue: queue.SimpleQueue[tuple[Stored, asyncio.Future[None]] | None] = queue.SimpleQueue()
        self._loop = asyncio.get_running_loop()
        self._thread = threading.Thread(target=self._write_all, name="receipts", daemon=True)

    def load(self, adopted: Iterable[Path] = ()) -> list[Damage]:
        """Read what an earlier server kept, and begin to write. `adopted`: directories of workers that run no more, whose
        receipts become this one's. Blocks. Raises OSError."""
        found, damage = self._files.read()
        if adopted:
            for directory in adopted:
                self._files.take_over(directory)
            self._files.close()
            found, again = self._files.read()
            damage += again
        for number, stored in found.items():
            for item in stored:
                self._note(number, item.receipt)
        for item in (item for stored in found.values() for item in stored):
            self._expect(item)
        self._thread.start()
        return damage

    def close(self) -> None:
        """Write what waits, and end the thread."""
        self._queue.put(None)

    async def keep(self, kept: Kept, claim: Claim) -> None:
        """Return when the receipt of this answer is on its disk, or when its disk fails or is too slow."""
        stored = sealed(self._seal, kept, claim)
        receipt = stored.receipt
        self.expected.note(kept.appointment, claim.key)
        written: asyncio.Future[None] = self._loop.create_future()
        self._queue.put((stored, written))
        try:
            await within(written, DEADLINE_S)
        except TimeoutError:
            self._know(receipt)
            self._fails(f"the disk of the receipts did not answer within {DEADLINE_S:g} s")

    def newest(self) -> list[Receipt]:
        """The newest receipt of each id."""
        return list(self._newest.values())

    async def acknowledged(self, names: Iterable[str]) -> dict[str, Acknowledged]:
        """What was acknowledged of these ids, decrypted; those whose newest row a file has lost are left out. Raises OSError."""
        wanted = {name: self._newest[name].version for name in names if name in self._newest}
        stored = await asyncio.to_thread(self._files.look_up, wanted)
        found = {}
        for name, version in wanted.items():
            readable = (opened(self._seal, item) for item in stored.get(name, ()))
            one = acknowledged((item for item in readable if item is not None), version)
            if one is not None:
                found[name] = one
        return found

    def known_before(self, name: str, moment_s: float) -> Receipt | None:
        """The newest receipt of an id, when it was known before this moment: a question that began then must show it."""
        receipt = self._newest.get(name)
        own = receipt if receipt is not None and self._known_s[name] < moment_s else None
        learned, learned_s = self._learned.get(name, (None, 0.0))
        if learned is None or learned_s >= moment_s or (own is not None and own.version >= learned.version):
            return own
        return learned

    def learn(self, stored: Iterable[Stored], forgotten: Iterable[str]) -> None:
        """What other workers have acknowledged, and what they keep no more."""
        now_s = time.monotonic()
        for name in forgotten:
            self._learned.pop(name, None)
            if name not in self._newest:
                self.expected.forget(name)
        for item in stored:
            known, _ = self._learned.get(item.receipt.id, (None, 0.0))
            if known is None or known.version < item.receipt.version:
                self._learned[item.receipt.id] = (item.receipt, now_s)
                self._expect(item)

    def seen(self, checked: Iterable[Receipt], noted: Noted) -> None:
        """These rows were found on the primary: all of them lie below what it had flushed afterwards."""
        for receipt in checked:
            if self._newest.get(receipt.id) == receipt:
                self._seen_at[receipt.id] = noted

    async def forget_certified(self, timeline: int, lsn: int, *, kept_s: float = 0.0) -> None:
        """Remove files in which everything is older than what the standby is certified to hold, and than `kept_s`: so long
        the guard compares every answer with them, whatever was certified."""
        before_s = time.monotonic() - kept_s
        for number, members in list(self._in_file.items())[:-1]:
            if any(self._known_s.get(name, 0.0) > before_s for name in members):
                continue
            if not all(self._is_certified(name, version, timeline, lsn) for name, version in members.items()):
                continue
            await asyncio.to_thread(self._files.remove, number)
            del self._in_file[number]
            for name, version in members.items():
                if name in self._newest and self._newest[name].version <= version:
                    del self._newest[name]
                    del self._known_s[name]
                    self.expected.forget(name)
                    self._seen_at.pop(name, None)
            _log.info("server.receipts_certified", file=number, receipts=len(members))

    def _is_certified(self, name: str, version: int, timeline: int, lsn: int) -> bool:
        """Nothing is lost with this record: a newer one is kept elsewhere, or the standby is certified to hold it."""
        newest = self._newest.get(name)
        if newest is None or newest.version > version:
            return True
        seen = self._seen_at.get(name)
        return seen is not None and seen.timeline == timeline and seen.flush_lsn <= lsn

    def _know(self, receipt: Receipt) -> None:
        """Compared with the primary from now on, on its disk or not: somebody was, or will be, told of it."""
        known = self._newest.get(receipt.id)
        if known is None or receipt.version > known.version:
            self._newest[receipt.id] = receipt
            self._known_s[receipt.id] = time.monotonic()
            self._seen_at.pop(receipt.id, None)

    def _note(self, number: int, receipt: Receipt) -> None:
        self._know(receipt)
        members = self._in_file.setdefault(number, {})
        members[receipt.id] = max(receipt.version, members.get(receipt.id, 0))

    def _expect(self, stored: Stored) -> None:
        found = opened(self._seal, stored)
        if found is not None:
            self.expected.note(found.appointment, None if found.answer is None else found.answer.key)

    def _fails(self, problem: str) -> None:
        if self.problem is None:
            _log.error("server.receipts_failing", problem=problem)
            self.problem = problem
            self._changed(problem)

    def _wrote(self, number: int, batch: list[tuple[Stored, asyncio.Future[None]]]) -> None:
        self.batches += 1
        for stored, written in batch:
            self._note(number, stored.receipt)
            if not written.done():
                written.set_result(None)
        if self.problem is not None:
            _log.info("server.receipts_work_again")
            self.problem = None
            self._changed(None)

    def _let_go(self, problem: str, batch: list[tuple[Stored, asyncio.Future[None]]]) -> None:
        self._fails(problem)
        for stored, written in batch:
            self._know(stored.receipt)
            if not written.done():
                written.set_result(None)

    # --- in the thread ---

    def _write_all(self) -> None:
        while (first := self._queue.get()) is not None:
            batch = [first]
            with contextlib.suppress(queue.Empty):
                while len(batch) < _BATCH_MAX:
                    item = self._queue.get_nowait()
                    if item is None:
                        self._queue.put(None)
                        break
                    batch.append(item)
            self._write(batch)
        self._files.close()

    def _write(self, batch: list[tuple[Stored, asyncio.Future[None]]]) -> None:
        while True:
            try:
                number = self._files.append(stored for stored, _ in batch)
            except OSError as error:
                if not self._tell(self._let_go, f"{error.strerror or error}", batch):
                    return
                time.sleep(_TRY_AGAIN_S)  # in a thread of its own, which has nothing else to do
                continue
            self._tell(self._wrote, number, batch)
            if self._files.is_next_due():
                with contextlib.suppress(OSError):  # told when it is needed and still cannot be made
                    self._files.prepare()
            return

    def _tell(self, call: Callable[..., None], *args: object) -> bool:
        try:
            self._loop.call_soon_threadsafe(call, *args)
        except RuntimeError:  # the loop has ended: nobody waits any more
            return False
        return True
