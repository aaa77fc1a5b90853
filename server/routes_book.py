"""POST /fhir/Appointment/$book and $hold (IHE ITI-117 and ITI-116): everything that writes."""

from __future__ import annotations

import re
import uuid
from collections.abc import Callable

import asyncpg
import msgspec
from aiohttp import web

from server import context, store
from server.context import Context
from server.errors import DatabaseConflict, Refusal
from server.idempotency import digest
from server.identity import parse_key, uuid7
from server.refusals import refusal, refusal_for, refusal_for_conflict
from server.requests import Booking, parse_booking, parse_parameters, parse_version
from server.responses import bundle_of_one
from server.scheduling import FROM, Intent, Status, earliest_start, hold_until, intent

_ETAG = re.compile(r'(?:W/)?"([^"]*)"')


class Claim(msgspec.Struct, frozen=True):
    """The key under which a write happens once, and the digest of what it was asked for."""

    key: str
    digest: bytes


Statement = tuple[str, tuple[object, ...]]
"""SQL and its arguments."""
_Make = Callable[[Context, Claim, Booking, int | None], Statement]


async def book(request: web.Request) -> web.StreamResponse:
    """Book a proposal or a hold (201), or change or cancel an appointment (200)."""
    return await _write(request, _book_statement)


async def hold(request: web.Request) -> web.StreamResponse:
    """Keep a proposal's slot for a while: a pending Appointment (201)."""
    return await _write(request, _hold_statement)


async def _write(request: web.Request, make: _Make) -> web.StreamResponse:
    shared, until_s = context.of(request), context.deadline_s(request)
    body = await context.body(request, until_s)
    header = request.headers.get("Idempotency-Key")
    claim = Claim(
        parse_key(header) if header is not None else f"internal {uuid.uuid4()}",
        digest(request.method, request.path, body),
    )
    booking = parse_booking(parse_parameters(body))
    sql, args = make(shared, claim, booking, _if_match(request))
    async with shared.in_flight.only(claim.key, claim.digest, until_s):
        try:
            kept = store.decode_kept(await shared.replay.write(sql, args, until_s))
        except DatabaseConflict as error:
            raise refusal_for_conflict(error) from error
        except asyncpg.PostgresError as error:
            raise refusal_for(error) from error
        await shared.receipts.keep(kept)
    return bundle_of_one(request, kept.appointment, kept.status)


def _book_statement(shared: Context, claim: Claim, booking: Booking, if_match: int | None) -> Statement:
    wanted = intent(booking.status, exists=booking.appointment is not None)
    if wanted is None:
        raise Refusal(422, "business-rule", f"$book cannot be asked for status {booking.status.value} here")
    if wanted is Intent.NEW:
        if booking.patient is None:
            raise refusal("patient-missing")
        return _take(shared, claim, booking, Status.BOOKED)
    who, start = booking.patient, (*claim_of(claim), booking.appointment, if_match, booking.version)
    origin = [status.value for status in FROM[wanted]]
    patient_id = who.id if who else None
    if wanted is Intent.CONFIRM:
        return store.CONFIRM, (*start, origin, patient_id, who.name if who else None, booking.comment)
    if wanted is Intent.CANCEL:
        return store.CANCEL, (*start, origin, booking.comment)
    earliest = earliest_start(context.now(), shared.rules)
    target = (booking.slot, booking.practitioner, booking.start)
    return store.CHANGE, (*start, origin, patient_id, *target, booking.comment, earliest)


def _hold_statement(shared: Context, claim: Claim, booking: Booking, if_match: int | None) -> Statement:
    if booking.appointment is not None:
        raise refusal("duplicate")
    if booking.status not in (Status.PENDING, Status.PROPOSED) or if_match is not None:
        raise Refusal(422, "business-rule", "$hold takes a proposed appointment, which has no version yet")
    return _take(shared, claim, booking, Status.PENDING)


def _take(shared: Context, claim: Claim, booking: Booking, status: Status) -> Statement:
    if booking.slot is None and (booking.start is None or booking.practitioner is None):
        raise Refusal(422, "required", "a new appointment needs a slot, or a start and a Practitioner")
    now, who = context.now(), booking.patient
    return store.TAKE, (
        *claim_of(claim),
        uuid7(),
        status.value,
        booking.slot,
        booking.practitioner,
        booking.start,
        who.id if who else None,
        who.name if who else None,
        booking.comment,
        earliest_start(now, shared.rules),
        hold_until(now, shared.rules) if status is Status.PENDING else None,
    )


def claim_of(claim: Claim) -> tuple[str, bytes]:
    """The first two arguments of every write function of schema.sql."""
    return claim.key, claim.digest


def _if_match(request: web.Request) -> int | None:
    header = request.headers.get("If-Match")
    if header is None or header.strip() == "*":
        return None
    found = _ETAG.fullmatch(header.strip())
    return parse_version(found[1]) if found else 0
