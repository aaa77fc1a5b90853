"""What a receipt seals, and what is found in it again: the row as it was answered, and the idempotency key that it answered. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import msgspec
import structlog

from replication.model import Receipt
from server.idempotency import Claim
from server.receipt_file import Stored
from server.seal import Seal, SealBroken
from server.store import AppointmentRow, Kept, KeptRow

_log = structlog.get_logger()


class Answered(msgspec.Struct, frozen=True):
    """Under which key a row was the answer, with which HTTP status. `digest`: of the request, hexadecimal."""

    key: str
    digest: str
    status: int


class Answer(msgspec.Struct, frozen=True):
    """A row of the table `idempotency`, as locum_restore reads it."""

    key: str
    digest: str
    answer: KeptRow


class Opened(NamedTuple):
    """One receipt, decrypted. `answer`: None in files of older servers, which kept no key."""

    receipt: Receipt
    row: bytes
    appointment: AppointmentRow
    answer: Answer | None


class Acknowledged(NamedTuple):
    """All that is kept of one appointment: its newest row as JSON, and what was answered under which keys."""

    row: bytes
    answers: tuple[Answer, ...]


def sealed(seal: Seal, kept: Kept, claim: Claim) -> Stored:
    """The receipt of an answer, ready to be written."""
    row, answered = kept.appointment, Answered(claim.key, claim.digest.hex(), kept.status)
    receipt = Receipt(str(row.id), row.version, kept.timeline, kept.insert_lsn, kept.digest)
    return Stored(
        receipt,
        seal.close(msgspec.json.encode(row), receipt.id),
        seal.close(msgspec.json.encode(answered), _answered_name(receipt.id)),
    )


def opened(seal: Seal, stored: Stored) -> Opened | None:
    """What is in it; None, which is told, when the row is not what was written, or was written with another key."""
    try:
        row = seal.open(stored.row, stored.receipt.id)
        appointment = msgspec.json.decode(row, type=AppointmentRow)
    except (SealBroken, msgspec.DecodeError) as error:
        _log.error("server.receipt_unreadable", error=type(error).__name__)
        return None
    return Opened(stored.receipt, row, appointment, _answer(seal, stored, appointment))


def _answer(seal: Seal, stored: Stored, appointment: AppointmentRow) -> Answer | None:
    """A row without its key is better than none."""
    if stored.answered is None:
        return None
    try:
        found = msgspec.json.decode(seal.open(stored.answered, _answered_name(stored.receipt.id)), type=Answered)
    except (SealBroken, msgspec.DecodeError) as error:
        _log.error("server.receipt_key_unreadable", error=type(error).__name__)
        return None
    return Answer(found.key, found.digest, KeptRow(found.status, appointment, stored.receipt.digest))


def acknowledged(found: Iterable[Opened], version: int) -> Acknowledged | None:
    """Of one appointment, whose newest version is this one; None when that is not among them. Each key as it was answered first."""
    row: bytes | None = None
    answers: dict[str, Answer] = {}
    for one in found:
        if one.receipt.version == version:
            row = one.row
        if one.answer is not None:
            answers.setdefault(one.answer.key, one.answer)
    return None if row is None else Acknowledged(row, tuple(answers.values()))


def _answered_name(name: str) -> str:
    """What the key of an answer is authenticated with: not what its row is."""
    return f"{name} answered"
