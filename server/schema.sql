-- The scheduling schema. Applied by the primary's agent as superuser, in the closed stage, in one go; every statement may
-- be repeated. What must never happen (one practitioner, room or patient in two places at once) is forbidden here, by
-- exclusion constraints, whatever the code above does. Ids are made by the server (UUIDv7), never by a sequence: nextval is
-- not waited for by synchronous replication, so a promoted standby would hand the same value out again.

CREATE EXTENSION IF NOT EXISTS btree_gist;
CREATE EXTENSION IF NOT EXISTS amcheck;
CREATE EXTENSION IF NOT EXISTS pageinspect;
CREATE EXTENSION IF NOT EXISTS pg_visibility;

CREATE TABLE IF NOT EXISTS site (
    id uuid PRIMARY KEY,
    name text NOT NULL,
    time_zone text NOT NULL
);

CREATE TABLE IF NOT EXISTS room (
    id uuid PRIMARY KEY,
    site_id uuid NOT NULL REFERENCES site,
    name text NOT NULL
);

CREATE TABLE IF NOT EXISTS practitioner (
    id uuid PRIMARY KEY,
    name text NOT NULL,
    specialty text NOT NULL
);

CREATE TABLE IF NOT EXISTS schedule (
    id uuid PRIMARY KEY,
    practitioner_id uuid NOT NULL REFERENCES practitioner,
    room_id uuid NOT NULL REFERENCES room
);

CREATE TABLE IF NOT EXISTS slot (
    id uuid PRIMARY KEY,
    schedule_id uuid NOT NULL REFERENCES schedule,
    starts_at timestamptz NOT NULL,
    ends_at timestamptz NOT NULL,
    CONSTRAINT slot_is_forward CHECK (ends_at > starts_at),
    CONSTRAINT slot_once UNIQUE (schedule_id, starts_at)
);
CREATE INDEX IF NOT EXISTS slot_starts_at ON slot (starts_at, schedule_id);

-- Minimal on purpose: the identifier that the frontend uses, and nothing that a log line could leak.
CREATE TABLE IF NOT EXISTS patient (
    id text PRIMARY KEY,
    resource jsonb NOT NULL
);

-- A hold is a pending appointment that expires. An expired one is cancelled by whoever wants its time, in the same
-- transaction, since an exclusion constraint cannot look at the clock.
CREATE TABLE IF NOT EXISTS appointment (
    id uuid PRIMARY KEY,
    version integer NOT NULL DEFAULT 1,
    status text NOT NULL,
    slot_id uuid REFERENCES slot,
    practitioner_id uuid NOT NULL REFERENCES practitioner,
    room_id uuid NOT NULL REFERENCES room,
    patient_id text REFERENCES patient,
    starts_at timestamptz NOT NULL,
    ends_at timestamptz NOT NULL,
    expires_at timestamptz,
    comment text,
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    updated_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    CONSTRAINT appointment_status CHECK (
        status IN ('pending', 'booked', 'arrived', 'checked-in', 'fulfilled', 'noshow', 'cancelled')
    ),
    CONSTRAINT appointment_is_forward CHECK (ends_at > starts_at),
    CONSTRAINT hold_expires CHECK ((status = 'pending') = (expires_at IS NOT NULL)),
    CONSTRAINT booking_has_a_patient CHECK (status = 'pending' OR status = 'cancelled' OR patient_id IS NOT NULL),
    CONSTRAINT practitioner_once EXCLUDE USING gist (
        practitioner_id WITH =, tstzrange(starts_at, ends_at) WITH &&
    ) WHERE (status IN ('pending', 'booked', 'arrived', 'checked-in', 'fulfilled')),
    CONSTRAINT room_once EXCLUDE USING gist (
        room_id WITH =, tstzrange(starts_at, ends_at) WITH &&
    ) WHERE (status IN ('pending', 'booked', 'arrived', 'checked-in', 'fulfilled')),
    CONSTRAINT patient_once EXCLUDE USING gist (
        patient_id WITH =, tstzrange(starts_at, ends_at) WITH &&
    ) WHERE (status IN ('booked', 'arrived', 'checked-in', 'fulfilled') AND patient_id IS NOT NULL)
);
CREATE INDEX IF NOT EXISTS appointment_patient ON appointment (patient_id, starts_at);
CREATE INDEX IF NOT EXISTS appointment_slot ON appointment (slot_id);

-- The answer of every write, in the transaction of the write: a replay finds it, and so an unknown outcome is resolved.
CREATE TABLE IF NOT EXISTS idempotency (
    key text PRIMARY KEY,
    digest bytea NOT NULL,
    status integer NOT NULL,
    headers jsonb NOT NULL,
    body bytea NOT NULL,
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    touched integer NOT NULL DEFAULT 0
);
CREATE INDEX IF NOT EXISTS idempotency_created_at ON idempotency (created_at);

GRANT USAGE ON SCHEMA public TO locum_server;
GRANT SELECT, INSERT ON site, room, practitioner, schedule, slot, patient TO locum_server;
GRANT SELECT, INSERT, UPDATE ON appointment TO locum_server;
GRANT SELECT, INSERT, UPDATE, DELETE ON idempotency TO locum_server;
