"""This server as a witness: what it sees of the primary goes to the controller, at once on a change, else every second.

It is the second witness before a promotion (DESIGN section 4), so it must be fast, and must say nothing it has not seen.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from datetime import UTC, datetime

import aiohttp
import msgspec
import structlog

from replication import model
from replication.model import Fault, ReceiptCheck, ServerReport
from replication.topology import Phase, Topology
from replication.wire.errors import WireError
from replication.wire.http import post_json
from server.errors import NotServing
from server.pool import Watcher
from server.witness import WriteWitness, fault_for, word_for

_log = structlog.get_logger()

_EVERY_S = 1.0
_POST_DEADLINE_MS = 1_000
_RESET = "reset"
_PLACES_MAX = 20


class Evidence(Watcher):
    """Collects from pools and writes; `run` posts."""

    def __init__(self, server: str) -> None:
        self.on_connection_change: Callable[[], None] = _nothing
        self.held: Callable[[], int] = _zero
        self.writes_in_flight = 0
        self.receipts: ReceiptCheck | None = None
        self.receipts_problem: str | None = None
        self._receipts_began_ms = 0
        self._server = server
        self._witness = WriteWitness()
        self._connect_error: str | None = None
        self._faults: dict[model.FaultKind, Fault] = {}
        self._topology: Topology | None = None
        self._news = asyncio.Event()

    def obey(self, record: Topology) -> None:
        """The record whose phase the next report repeats."""
        self._topology = record
        self._news.set()

    def new_primary(self) -> None:
        """What was seen of another primary, or in another term, is no evidence against this one."""
        self._witness = WriteWitness()
        self._connect_error = None
        self._faults.clear()

    def receipts_checked(self, result: ReceiptCheck) -> None:
        """A comparison of the receipts with the primary's rows has ended."""
        self.receipts = result
        self._receipts_began_ms = _now_ms() - result.began_ms_ago
        self._news.set()

    def receipts_changed(self, problem: str | None) -> None:
        """The disk of the receipts fails, or works again."""
        self.receipts_problem = problem
        self._news.set()

    def notify_if_first_held(self, held: int) -> None:
        """Requests begin to be held: worth a report at once."""
        if held == 1:
            self._news.set()

    def connected(self) -> None:
        """A checked connection to the primary is there."""
        self._connect_error = None
        self._witness.connected()
        self.on_connection_change()

    def connect_failed(self, error: BaseException) -> None:
        """The primary could not be reached, or is none."""
        self._witness.connect_failed(_now_ms())
        word = word_for(error)
        if word != self._connect_error:
            self._connect_error = word
            self._news.set()

    def disconnected(self) -> None:
        """The primary ended a connection; what a new one meets follows within a millisecond."""
        if self._connect_error is None:
            _log.info("server.disconnected")
            self._connect_error = _RESET
            self._witness.connect_failed(_now_ms())
            self._news.set()
        self.on_connection_change()

    def write_started(self) -> int:
        """A write goes out: its number."""
        return self._witness.started(_now_ms())

    def write_returned(self, number: int) -> None:
        """The primary answered it, whatever it said."""
        self._witness.returned(number, _now_ms())

    def write_failed(self, number: int, error: BaseException) -> None:
        """It did not come back, or the primary cannot serve."""
        if isinstance(error, NotServing) and fault_for(error.sqlstate) is not None:
            # It answered: a fault of its storage, not silence.
            self._witness.returned(number, _now_ms())
            self.answered_with_fault(error)
        else:
            self._witness.failed(number)
        self._news.set()

    def answered_with_fault(self, error: NotServing) -> None:
        """The primary answered a statement with an error; worth a report at once when it shows a fault of its storage."""
        kind = fault_for(error.sqlstate)
        if kind is None:
            return
        where = f" ({error.place})" if error.place is not None else ""
        sentence = f"the primary answered with SQLSTATE {error.sqlstate}{where}"
        self._note_fault(kind, sentence, str(error.sqlstate), error.place)
        self._news.set()

    def row_wrong(self, kind: model.FaultKind, sentence: str, value: str) -> None:
        """The read guard has proof: what this term's primary shows is not what was acknowledged."""
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        seen = model.Evidence(
            what="receipt against row, on both nodes", by=f"server {self._server}", at=now, value=value
        )
        self._faults.setdefault(kind, Fault(kind, 0.95, now, sentence, (seen,)))
        self._news.set()

    def flight_changed(self, by: int) -> None:
        """Client writes that were sent and not answered; none left in a switchover is worth a report at once."""
        self.writes_in_flight += by
        switching = self._topology is not None and self._topology.phase is Phase.SWITCHING_OVER
        if switching and self.writes_in_flight == 0:
            self._news.set()

    def report(self) -> ServerReport:
        """What is known now."""
        record = self._topology
        return ServerReport(
            server=self._server,
            term=record.term if record else 0,
            phase=record.phase.value if record else Phase.STARTING.value,
            primary=record.primary.name if record and record.primary else None,
            writes_in_flight=self.writes_in_flight,
            held_requests=self.held(),
            writes_failing_ms=self._witness.failing_ms(_now_ms()),
            connect_error=self._connect_error,
            faults=tuple(self._faults.values()),
            receipts=self._aged_receipts(),
            receipts_problem=self.receipts_problem,
        )

    def _aged_receipts(self) -> ReceiptCheck | None:
        if self.receipts is None:
            return None
        return msgspec.structs.replace(self.receipts, began_ms_ago=_now_ms() - self._receipts_began_ms)

    async def run(self, session: aiohttp.ClientSession, controller_url: str, token: str) -> None:
        """Post until cancelled. A controller that is away is no reason to stop."""
        heard = True
        while True:
            self._news.clear()
            try:
                status, body = await post_json(
                    session,
                    f"{controller_url}/v1/evidence",
                    self.report(),
                    token=token,
                    deadline_ms=_POST_DEADLINE_MS,
                )
                problem = None if status < 300 else f"{status} {body[:200]!r}"
            except WireError as error:
                problem = str(error)
            if (problem is None) != heard:
                heard = problem is None
                _log.info("server.evidence", heard=heard, problem=problem)
            try:
                async with asyncio.timeout(_EVERY_S):
                    await self._news.wait()
            except TimeoutError:
                continue

    def _note_fault(self, kind: model.FaultKind, sentence: str, value: str, place: model.Place | None) -> None:
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        old = self._faults.get(kind)
        if old is None:
            seen = model.Evidence(what="SQLSTATE of an answer", by=f"server {self._server}", at=now, value=value)
            old = Fault(kind, 0.9, now, sentence, (seen,))
        if place is not None and place not in old.places and len(old.places) < _PLACES_MAX:
            old = msgspec.structs.replace(old, places=(*old.places, place))
        self._faults[kind] = old


def _now_ms() -> int:
    return time.monotonic_ns() // 1_000_000


def _nothing() -> None:
    pass


def _zero() -> int:
    return 0
