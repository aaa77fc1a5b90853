"""POST /fhir/Appointment/$book and $hold (IHE ITI-117 and ITI-116): everything that writes."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable

import asyncpg
import msgspec
from aiohttp import web

from server import context, permission, store
from server.alternatives import with_alternatives
from server.batch import Alone, Member
from server.context import Context
from server.errors import DatabaseConflict, Refusal
from server.idempotency import Claim, digest
from server.identity import kept_key, uuid7
from server.refusals import refusal, refusal_for, refusal_for_conflict
from server.replay import Expect
from server.requests import Booking, Patient, parse_booking, parse_parameters, parse_version
from server.responses import bundle_of_one
from server.scheduling import FROM, MARK_FROM, Intent, Status, earliest_start, hold_until, intent

_ETAG = re.compile(r'(?:W/)?"([^"]*)"')


class Statement(msgspec.Struct, frozen=True):
    """A write by itself; `expect`: what is in its way, its last argument. `member`: the same as one of many."""

    sql: str
    args: tuple[object, ...]
    expect: Expect | None = None
    member: Member | None = None


class Asked(msgspec.Struct, frozen=True):
    """One request to write, made plain. `owner`: the patient to whom the caller is confined."""

    claim: Claim
    agent: str
    owner: str | None
    booking: Booking
    if_match: int | None


Make = Callable[[Context, Asked], Statement]


async def book(request: web.Request) -> web.StreamResponse:
    """Book a proposal or a hold (201), or change or cancel an appointment (200)."""
    return await _write(request, book_statement)


async def hold(request: web.Request) -> web.StreamResponse:
    """Keep a proposal's slot for a while: a pending Appointment (201)."""
    return await _write(request, _hold_statement)


async def _write(request: web.Request, make: Make) -> web.StreamResponse:
    until_s = context.deadline_s(request)
    body = await context.body(request, until_s)
    claim = claimed(request, body)
    kept = await perform(request, make, claim, parse_booking(parse_parameters(body)), until_s)
    return bundle_of_one(request, kept.appointment, kept.status)


def claimed(request: web.Request, body: bytes) -> Claim:
    """The key of this request, its caller's own, and what must be the same under it. Raises Refusal 400."""
    key = kept_key(context.caller(request), request.headers.get("Idempotency-Key"))
    return Claim(key, digest(request.method, request.path, body))


async def perform(request: web.Request, make: Make, claim: Claim, booking: Booking, until_s: float) -> store.Kept:
    """Write this once, whatever happens on the way, and keep its receipt. Raises Refusal."""
    shared, caller = context.of(request), context.caller(request)
    action = "c" if booking.appointment is None else "u"
    permission.require(request, "Appointment", action)
    owner = permission.only_patient(request, "Appointment", action)
    statement = make(shared, Asked(claim, caller, owner, _for_owner(booking, owner), _if_match(request)))
    async with shared.in_flight.only(claim.key, claim.digest, until_s):
        try:
            kept = await _kept(shared, statement, until_s)
        except Refusal as refused:
            raise await with_alternatives(shared, refused, booking.slot, until_s) from None
        await shared.receipts.keep(kept, claim)
    return kept


def _for_owner(booking: Booking, owner: str | None) -> Booking:
    """A patient books for nobody else: without a patient in the request it is the caller. Raises Refusal 403."""
    if owner is None:
        return booking
    if booking.patient is not None and booking.patient.id != owner:
        raise Refusal(
            403, "forbidden", "the token's patient may book for nobody else", expression="Appointment.participant"
        )
    return booking if booking.patient is not None else msgspec.structs.replace(booking, patient=Patient(owner))


async def _kept(shared: Context, statement: Statement, until_s: float) -> store.Kept:
    """What was written. Raises Refusal."""
    if statement.member is not None and statement.expect is not None:
        with contextlib.suppress(Alone):
            found = await shared.replay.take(statement.member, statement.expect, until_s)
            if isinstance(found, str):
                raise refusal(found)
            return found
    try:
        return store.decode_kept(await shared.replay.write(statement.sql, statement.args, until_s, statement.expect))
    except DatabaseConflict as error:
        raise refusal_for_conflict(error) from error
    except asyncpg.PostgresError as error:
        raise refusal_for(error) from error


def book_statement(shared: Context, asked: Asked) -> Statement:
    claim, booking, if_match = asked.claim, asked.booking, asked.if_match
    wanted = intent(booking.status, exists=booking.appointment is not None)
    if wanted is None:
        raise Refusal(422, "business-rule", f"$book cannot be asked for status {booking.status.value} here")
    if wanted is Intent.NEW:
        if booking.patient is None:
            raise refusal("patient-missing")
        return _take(shared, asked, Status.BOOKED)
    who, start = booking.patient, (*claim_of(claim), booking.appointment, if_match, booking.version)
    origin = [status.value for status in FROM[wanted]]
    patient_id = who.id if who else None
    expect, by = _expect(shared, asked), (asked.owner, asked.agent, uuid7())
    if wanted is Intent.CONFIRM:
        args = (*start, origin, patient_id, who.name if who else None, booking.comment, *by)
        return Statement(store.CONFIRM, args, expect)
    if wanted is Intent.CANCEL:
        return Statement(store.CANCEL, (*start, origin, booking.comment, *by), expect)
    if wanted is Intent.MARK:
        if asked.owner is not None:
            raise Refusal(403, "forbidden", "only staff say who came", expression="Appointment.status")
        origin = [status.value for status in MARK_FROM[booking.status]]
        return Statement(store.MARK, (*start, origin, booking.status.value, booking.comment, *by), expect)
    earliest = earliest_start(context.now(), shared.rules)
    target = (booking.slot, booking.practitioner, booking.start)
    return Statement(store.CHANGE, (*start, origin, patient_id, *target, booking.comment, earliest, *by), expect)


def _expect(shared: Context, asked: Asked) -> Expect:
    """Asked at each try: what a person was told of meanwhile is in nobody's way any more."""
    booking, known = asked.booking, shared.receipts.expected
    patient = booking.patient.id if booking.patient else None
    return lambda: known.by(asked.claim.key, booking.slot, patient, booking.appointment)


def _hold_statement(shared: Context, asked: Asked) -> Statement:
    booking, if_match = asked.booking, asked.if_match
    if booking.appointment is not None:
        raise refusal("duplicate")
    if booking.status not in (Status.PENDING, Status.PROPOSED) or if_match is not None:
        raise Refusal(422, "business-rule", "$hold takes a proposed appointment, which has no version yet")
    return _take(shared, asked, Status.PENDING)


def _take(shared: Context, asked: Asked, status: Status) -> Statement:
    claim, booking = asked.claim, asked.booking
    if booking.slot is None and (booking.start is None or booking.practitioner is None):
        raise Refusal(422, "required", "a new appointment needs a slot, or a start and a Practitioner")
    now, who = context.now(), booking.patient
    patient, name = (who.id, who.name) if who is not None else (None, None)
    appointment, audit = uuid7(), uuid7()
    earliest, until = earliest_start(now, shared.rules), hold_until(now, shared.rules)
    held_until = until if status is Status.PENDING else None
    target = (booking.slot, booking.practitioner, booking.start)
    rest = (patient, name, booking.comment, earliest, held_until, asked.agent, audit)
    args = (*claim_of(claim), appointment, status.value, *target, *rest)
    member = None
    if booking.slot is not None and booking.start is None:
        member = Member(
            key=claim.key,
            digest=claim.digest.hex(),
            id=appointment,
            status=status.value,
            slot=booking.slot,
            practitioner=booking.practitioner,
            patient=patient,
            patient_name=name,
            comment=booking.comment,
            not_before=earliest,
            hold_until=held_until,
            agent=asked.agent,
            audit=audit,
        )
    return Statement(store.TAKE, args, _expect(shared, asked), member)


def claim_of(claim: Claim) -> tuple[str, bytes]:
    """The first two arguments of every write function of schema.sql."""
    return claim.key, claim.digest


def _if_match(request: web.Request) -> int | None:
    header = request.headers.get("If-Match")
    if header is None or header.strip() == "*":
        return None
    found = _ETAG.fullmatch(header.strip())
    return parse_version(found[1]) if found else 0
