"""All SQL of the server, as named statements, and the rows that they give."""

from __future__ import annotations

import uuid
from datetime import datetime
from typing import Any

import msgspec

from server.link import Link
from server.scheduling import Status

_NOTED = """ || jsonb_build_object('insert_lsn', (pg_current_wal_insert_lsn() - '0/0')::bigint,
                         'wal_file', pg_walfile_name(pg_current_wal_insert_lsn()))"""
"""Where the WAL was when the transaction was about to commit: the commit record is the next but few."""
TAKE = f"SELECT locum_take($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15::jsonb){_NOTED}"
TAKE_MANY = f"SELECT jsonb_build_object('results', locum_take_many($1::jsonb, $2::jsonb)){_NOTED}"
CONFIRM = f"SELECT locum_confirm($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13::jsonb){_NOTED}"
CHANGE = f"SELECT locum_change($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16::jsonb){_NOTED}"
CANCEL = f"SELECT locum_cancel($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11::jsonb){_NOTED}"
MARK = f"SELECT locum_mark($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12::jsonb){_NOTED}"
ANSWER = "SELECT locum_answer($1, $2::jsonb)"
FORGET_KEYS = "SELECT locum_forget_keys($1 * interval '1 hour')"
END_HOLDS = "SELECT locum_end_holds()::text"

ALTERNATIVES = """
SELECT v.* FROM slot w JOIN slot_full v ON v.practitioner_id = w.practitioner_id
WHERE w.id = $1 AND v.id <> w.id AND v.starts_at >= greatest($2::timestamptz, w.starts_at - interval '1 day')
  AND v.starts_at < w.starts_at + interval '14 days'
  AND NOT EXISTS (SELECT FROM appointment a WHERE a.during && tstzrange(v.starts_at, v.ends_at)
                  AND (a.practitioner_id = v.practitioner_id OR a.location_id = v.location_id OR a.device_id = v.device_id)
                  AND a.status IN ('pending', 'booked', 'arrived', 'checked-in', 'fulfilled')
                  AND (a.status <> 'pending' OR a.hold_expires_at > now()))
ORDER BY v.starts_at < w.starts_at, v.starts_at LIMIT 3
"""
"""The next free times of the practitioner whose slot is taken; then those of the day before."""

_IN_THE_WAY = """
SELECT FROM appointment a WHERE a.{who} = v.{who} AND a.during && tstzrange(v.starts_at, v.ends_at)
AND a.status IN ('pending', 'booked', 'arrived', 'checked-in', 'fulfilled') AND (a.status <> 'pending' OR a.hold_expires_at > now())
"""
_HOURS = """
(cardinality($10::int[]) = 0 OR extract(isodow FROM v.starts_at AT TIME ZONE {zone})::int = ANY ($10))
AND (cardinality($11::time[]) = 0 OR EXISTS (
    SELECT FROM unnest($11::time[], $12::time[]) AS span (since, until)
    WHERE (v.starts_at AT TIME ZONE {zone})::time BETWEEN span.since AND span.until))
"""
"""Of the day and the week as the site's clock has them."""
FREE_SLOTS = f"""
SELECT v.* FROM slot_full v
WHERE v.starts_at >= greatest($1, $3::timestamptz) AND v.starts_at < $2 AND v.ends_at <= $2
  AND (cardinality($4::text[]) = 0 OR v.practitioner_id = ANY ($4))
  AND (cardinality($5::text[]) = 0 OR v.location_id = ANY ($5) OR v.site_id = ANY ($5))
  AND (cardinality($6::text[]) = 0 OR v.specialty_code = ANY ($6)) AND (cardinality($9::text[]) = 0 OR v.specialty_code = ANY ($9))
  AND (cardinality($8::text[]) = 0 OR v.site_id = ANY ($8)) AND {_HOURS.format(zone="v.timezone")}
  AND NOT EXISTS ({_IN_THE_WAY.format(who="practitioner_id")}) AND NOT EXISTS ({_IN_THE_WAY.format(who="location_id")})
  AND (v.device_id IS NULL OR NOT EXISTS ({_IN_THE_WAY.format(who="device_id")}))
ORDER BY v.starts_at, v.practitioner_id LIMIT $7
"""  # noqa: S608  constants of ours

FREE_SLOTS_OF = f"""
SELECT v.* FROM (
    SELECT n.id, n.starts_at, n.practitioner_id FROM (SELECT DISTINCT unnest($4::text[]) AS who) AS w
    CROSS JOIN LATERAL (
        SELECT v.id, v.starts_at, v.practitioner_id FROM slot v
        WHERE v.practitioner_id = w.who AND v.starts_at >= greatest($1, $3::timestamptz) AND v.starts_at < $2 AND v.ends_at <= $2
          AND (cardinality($5::text[]) = 0 OR v.location_id = ANY ($5)
               OR EXISTS (SELECT FROM location l WHERE l.id = v.location_id AND l.site_id = ANY ($5)))
          AND (cardinality($6::text[]) = 0
               OR EXISTS (SELECT FROM practitioner p WHERE p.id = w.who AND p.specialty_code = ANY ($6)))
          AND (cardinality($9::text[]) = 0
               OR EXISTS (SELECT FROM practitioner p WHERE p.id = w.who AND p.specialty_code = ANY ($9)))
          AND (cardinality($8::text[]) = 0 AND cardinality($10::int[]) = 0 AND cardinality($11::time[]) = 0
               OR EXISTS (SELECT FROM location l JOIN site t ON t.id = l.site_id WHERE l.id = v.location_id
                          AND (cardinality($8::text[]) = 0 OR t.id = ANY ($8)) AND {_HOURS.format(zone="t.timezone")}))
          AND NOT EXISTS ({_IN_THE_WAY.format(who="practitioner_id")}) AND NOT EXISTS ({_IN_THE_WAY.format(who="location_id")})
          AND (v.device_id IS NULL OR NOT EXISTS ({_IN_THE_WAY.format(who="device_id")}))
        ORDER BY v.starts_at LIMIT $7
    ) AS n
    ORDER BY n.starts_at, n.practitioner_id LIMIT $7
) AS f JOIN slot_full v ON v.id = f.id ORDER BY v.starts_at, v.practitioner_id
"""  # noqa: S608  constants of ours
"""The same of some practitioners: of each only so many as are answered are looked at."""

_SLOTS = """
SELECT v.*, b.busy FROM slot_full v
CROSS JOIN LATERAL (
    SELECT CASE WHEN bool_or(a.status <> 'pending') THEN 'busy' WHEN count(*) > 0 THEN 'busy-tentative' END AS busy
    FROM appointment a WHERE a.practitioner_id = v.practitioner_id AND a.during && tstzrange(v.starts_at, v.ends_at)
      AND a.status IN ('pending', 'booked', 'arrived', 'checked-in', 'fulfilled')
      AND (a.status <> 'pending' OR a.hold_expires_at > now())) AS b
WHERE v.starts_at >= $1 AND v.starts_at < $2
  AND (cardinality($3::text[]) = 0 OR v.practitioner_id = ANY ($3)) AND ($4::uuid IS NULL OR v.id = $4)
  AND (cardinality($5::text[]) = 0 OR coalesce(b.busy, 'free') = ANY ($5))
  AND (cardinality($6::text[]) = 0 OR v.specialty_code = ANY ($6))
"""
SLOTS = f"""
{_SLOTS} AND ($7::timestamptz IS NULL OR (v.starts_at, v.id) > ($7, $8::uuid)) ORDER BY v.starts_at, v.id LIMIT $9
"""
SLOTS_LATEST = f"""
{_SLOTS} AND ($7::timestamptz IS NULL OR (v.starts_at, v.id) < ($7, $8::uuid)) ORDER BY v.starts_at DESC, v.id DESC LIMIT $9
"""
"""By keys, not by number: the next page begins where the last one ended, whatever was booked meanwhile."""
SLOTS_TOTAL = f"SELECT count(*) AS total FROM ({_SLOTS}) AS found"  # noqa: S608  constants of ours

SLOT_TIME = "SELECT starts_at, ends_at FROM slot WHERE id = $1"

APPOINTMENT = """
SELECT to_jsonb(f)::text AS row, f.id, f.version, locum_digest(a) AS digest, locum_broken(a) AS broken
FROM appointment_full f JOIN appointment a ON a.id = f.id WHERE f.id = $1
"""

WARM_UP = (
    "SELECT to_jsonb(f)::text AS row FROM appointment_full f LIMIT 1",
    "SELECT locum_digest(a) FROM appointment a LIMIT 1",
)
"""Reads that fill a new session's catalog caches with most of what a booking needs: its first booking is then 2 ms
faster."""

_APPOINTMENTS = """
FROM appointment_full f JOIN appointment a ON a.id = f.id
WHERE ($1::text IS NULL OR f.patient_id = $1) AND (cardinality($2::text[]) = 0 OR f.practitioner_id = ANY ($2))
  AND (cardinality($3::text[]) = 0 OR f.location_id = ANY ($3)) AND (cardinality($4::text[]) = 0 OR f.status = ANY ($4))
  AND ($5::timestamptz IS NULL OR f.starts_at >= $5) AND ($6::timestamptz IS NULL OR f.starts_at < $6)
  AND ($7::uuid IS NULL OR f.id = $7) AND ($8::uuid IS NULL OR f.slot_id = $8)
  AND (cardinality($9::text[]) = 0 OR f.device_id = ANY ($9))
"""
_SHOWN = "SELECT to_jsonb(f)::text AS row, f.id, f.version, f.starts_at, locum_digest(a) AS digest, locum_broken(a) AS broken"
APPOINTMENTS = f"""
{_SHOWN} {_APPOINTMENTS} AND ($10::timestamptz IS NULL OR (f.starts_at, f.id) > ($10, $11::uuid)) ORDER BY f.starts_at, f.id LIMIT $12
"""
APPOINTMENTS_LATEST = f"""
{_SHOWN} {_APPOINTMENTS} AND ($10::timestamptz IS NULL OR (f.starts_at, f.id) < ($10, $11::uuid))
ORDER BY f.starts_at DESC, f.id DESC LIMIT $12
"""
APPOINTMENTS_TOTAL = f"SELECT count(*) AS total {_APPOINTMENTS}"

PRACTITIONERS = "SELECT * FROM practitioner WHERE cardinality($1::text[]) = 0 OR id = ANY ($1) ORDER BY id"
LOCATIONS = """
SELECT l.id, l.name, l.site_id, t.timezone FROM location l JOIN site t ON t.id = l.site_id
WHERE cardinality($1::text[]) = 0 OR l.id = ANY ($1)
UNION ALL SELECT id, name, NULL, timezone FROM site WHERE cardinality($1::text[]) = 0 OR id = ANY ($1) ORDER BY id
"""
SCHEDULES = """
SELECT p.*, p.given || ' ' || p.family AS name, l.name AS location_name,
       (SELECT min(starts_at) FROM slot s WHERE s.practitioner_id = p.id) AS first_start,
       (SELECT max(ends_at) FROM slot s WHERE s.practitioner_id = p.id) AS last_end
FROM practitioner p JOIN location l ON l.id = p.location_id
WHERE cardinality($1::text[]) = 0 OR p.id = ANY ($1) ORDER BY p.id
"""
ROLES = """
SELECT p.*, p.given || ' ' || p.family AS name, l.name AS location_name, l.site_id FROM practitioner p
JOIN location l ON l.id = p.location_id WHERE cardinality($1::text[]) = 0 OR p.id = ANY ($1) ORDER BY p.id
"""
SERVICES = """
SELECT p.specialty_code AS id, min(p.specialty) AS specialty, array_agg(DISTINCT l.site_id) AS sites FROM practitioner p
JOIN location l ON l.id = p.location_id WHERE cardinality($1::text[]) = 0 OR p.specialty_code = ANY ($1)
GROUP BY p.specialty_code ORDER BY p.specialty_code
"""
DEVICES_OF = "SELECT id, name FROM device WHERE cardinality($1::text[]) = 0 OR id = ANY ($1) ORDER BY id"
ORGANIZATIONS = "SELECT id, name FROM site WHERE cardinality($1::text[]) = 0 OR id = ANY ($1) ORDER BY id"
PATIENTS = "SELECT id, name FROM patient WHERE id = ANY ($1::text[]) ORDER BY id"
NEW_PATIENT = "SELECT locum_new_patient($1, $2, $3, $4)"

_AUDIT = """
FROM audit_event e WHERE ($1::text IS NULL OR e.patient_id = $1) AND (cardinality($2::text[]) = 0 OR e.entity = ANY ($2))
  AND (cardinality($3::text[]) = 0 OR e.agent = ANY ($3)) AND (cardinality($4::text[]) = 0 OR e.action = ANY ($4))
  AND ($5::timestamptz IS NULL OR e.at >= $5) AND ($6::timestamptz IS NULL OR e.at < $6)
"""
_AUDITED = "SELECT e.id, e.at AS starts_at, e.agent, e.action, e.operation, e.entity, e.patient_id"
AUDIT = f"""
{_AUDITED} {_AUDIT} AND ($7::timestamptz IS NULL OR (e.at, e.id) > ($7, $8::uuid)) ORDER BY e.at, e.id LIMIT $9
"""
AUDIT_LATEST = f"""
{_AUDITED} {_AUDIT} AND ($7::timestamptz IS NULL OR (e.at, e.id) < ($7, $8::uuid)) ORDER BY e.at DESC, e.id DESC LIMIT $9
"""
AUDIT_TOTAL = f"SELECT count(*) AS total {_AUDIT}"
AUDIT_ONE = f"{_AUDITED} FROM audit_event e WHERE e.id = $1"
AUDIT_ACCESSES = """
INSERT INTO audit_event (id, at, agent, action, operation, entity, patient_id)
SELECT * FROM unnest($1::uuid[], $2::timestamptz[], $3::text[], $4::text[], $5::text[], $6::text[], $7::text[]) ON CONFLICT (id) DO NOTHING
"""

SITES = "INSERT INTO site SELECT * FROM unnest($1::text[], $2::text[], $3::text[]) ON CONFLICT DO NOTHING"
ROOMS = "INSERT INTO location SELECT * FROM unnest($1::text[], $2::text[], $3::text[]) ON CONFLICT DO NOTHING"
PEOPLE = """
INSERT INTO practitioner SELECT * FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::text[], $6::text[])
ON CONFLICT DO NOTHING
"""
DEVICES = "INSERT INTO device SELECT * FROM unnest($1::text[], $2::text[]) ON CONFLICT DO NOTHING"
NEW_SLOTS = """
INSERT INTO slot (id, practitioner_id, location_id, device_id, starts_at, ends_at)
SELECT md5(m.who || ' ' || extract(epoch FROM m.starts)::bigint)::uuid, m.who, m.room, m.device, m.starts, m.ends
FROM unnest($1::text[], $2::text[], $3::text[], $4::timestamptz[], $5::timestamptz[]) AS m (who, room, device, starts, ends)
ON CONFLICT DO NOTHING
"""


FLUSHED = """
SELECT (pg_current_wal_flush_lsn() - '0/0')::bigint AS flush_lsn, pg_walfile_name(pg_current_wal_flush_lsn()) AS wal_file
"""
"""How far the primary's WAL is flushed; the first eight digits of the file's name are the timeline."""
BROKEN_SEALS = """
SELECT a.id, locum_broken(a) AS broken FROM appointment a WHERE a.id > $1 ORDER BY a.id LIMIT $2
"""
BROKEN_SEAL = "SELECT locum_broken(a) AS broken FROM appointment a WHERE a.id = $1"
"""NULL for a row that was written without the key."""
MISSING = "SELECT id, why FROM locum_missing($1::jsonb)"
SEALED = "SELECT count(*) AS fitting FROM appointment a WHERE a.id = ANY($1::uuid[]) AND NOT locum_broken(a)"
RESTORE = "SELECT locum_restore($1::jsonb, $2::jsonb)"
REINDEX_DAMAGED = "SELECT locum_reindex_damaged($1::bigint, $2::text[])"
"""Which tables' indexes were made anew."""
STRUCTURE = "SELECT locum_structure() AS found"
DOUBLE_BOOKED = "SELECT locum_double_booked() AS found"


class AppointmentRow(msgspec.Struct, frozen=True):
    """A row of the view appointment_full, also as it was when it was answered."""

    id: uuid.UUID
    version: int
    status: Status
    slot_id: uuid.UUID
    starts_at: datetime
    ends_at: datetime
    practitioner_id: str
    practitioner_name: str
    specialty_code: str
    specialty: str
    location_id: str
    location_name: str
    timezone: str
    patient_id: str | None
    patient_name: str | None
    comment: str | None
    hold_expires_at: datetime | None
    created_at: datetime
    updated_at: datetime
    device_id: str | None = None
    device_name: str | None = None


class SlotRow(msgspec.Struct, frozen=True):
    """A slot with who and where; `busy` is None while it is free."""

    id: uuid.UUID
    starts_at: datetime
    ends_at: datetime
    practitioner_id: str
    practitioner_name: str
    specialty_code: str
    specialty: str
    location_id: str
    location_name: str
    timezone: str
    device_id: str | None = None
    device_name: str | None = None
    busy: str | None = None


class KeptRow(msgspec.Struct, frozen=True):
    """The answer of one write among many."""

    status: int
    appointment: AppointmentRow
    digest: str


class Kept(msgspec.Struct, frozen=True):
    """The answer of a write, first or given again: HTTP status, the appointment as it was then, and its digest; where the
    WAL was when this transaction was about to commit."""

    status: int
    appointment: AppointmentRow
    digest: str
    insert_lsn: int
    wal_file: str
    """Its name begins with the timeline, in eight hexadecimal digits (src/include/access/xlog_internal.h)."""

    @property
    def timeline(self) -> int:
        """On which the transaction committed."""
        return timeline_of(self.wal_file)


class Stored(msgspec.Struct, frozen=True):
    """What was answered under a key."""

    status: int
    appointment: AppointmentRow
    created_at: datetime


def timeline_of(wal_file: str) -> int:
    """The timeline in the name of a WAL segment."""
    return int(wal_file[:8], 16)


def decode_kept(value: str) -> Kept:
    """What a write function of schema.sql returned."""
    return msgspec.json.decode(value, type=Kept)


def decode_appointment(value: str) -> AppointmentRow:
    """One row of appointment_full as JSON."""
    return msgspec.json.decode(value, type=AppointmentRow)


def query(sql: str, *args: object) -> Any:
    """A read for Replay.read: the rows of one statement."""

    async def run(link: Link, deadline_s: float) -> list[Any]:
        return await link.fetch(sql, *args, deadline_s=deadline_s)

    return run


def slot_row(row: Any) -> SlotRow:
    """A record of FREE_SLOTS or SLOTS."""
    return msgspec.convert(dict(row), SlotRow, strict=False, from_attributes=False)
