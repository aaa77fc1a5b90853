-- Locum's booking database: applied by the primary's agent, as superuser, in one transaction, at every first start of a
-- primary; so everything here is idempotent. Works on PostgreSQL 15 to 18. Rows are written by the role locum_server only.
--
-- Each write is one function call, hence one round trip and one transaction: it claims the idempotency key, does the
-- booking, and keeps the answer. A refusal is an exception of class LC whose message is a word of server/refusals.py:
-- nothing of it is kept, the claim neither.

CREATE EXTENSION IF NOT EXISTS btree_gist;
CREATE EXTENSION IF NOT EXISTS amcheck;
CREATE EXTENSION IF NOT EXISTS pageinspect;
CREATE EXTENSION IF NOT EXISTS pg_visibility;

CREATE TABLE IF NOT EXISTS site (
    id text PRIMARY KEY,
    name text NOT NULL,
    timezone text NOT NULL
);

CREATE TABLE IF NOT EXISTS location (
    id text PRIMARY KEY,
    name text NOT NULL,
    site_id text NOT NULL REFERENCES site
);

CREATE TABLE IF NOT EXISTS practitioner (
    id text PRIMARY KEY,
    given text NOT NULL,
    family text NOT NULL,
    specialty_code text NOT NULL,
    specialty text NOT NULL,
    location_id text NOT NULL REFERENCES location
);

CREATE TABLE IF NOT EXISTS device (
    id text PRIMARY KEY,
    name text NOT NULL
);

-- The id is derived from practitioner and start (server/demo.py), so that a proposal keeps its meaning for ever.
-- No foreign keys here: each costs a look-up and a lock for each of 40,000 rows, and rows are made by one statement
-- that selects from practitioner.
CREATE TABLE IF NOT EXISTS slot (
    id uuid PRIMARY KEY,
    practitioner_id text NOT NULL,
    location_id text NOT NULL,
    starts_at timestamptz NOT NULL,
    ends_at timestamptz NOT NULL,
    CONSTRAINT slot_in_order CHECK (starts_at < ends_at)
);
ALTER TABLE slot ADD COLUMN IF NOT EXISTS device_id text;
CREATE INDEX IF NOT EXISTS slot_starts_at ON slot (starts_at, practitioner_id);
CREATE INDEX IF NOT EXISTS slot_practitioner ON slot (practitioner_id, starts_at);

CREATE TABLE IF NOT EXISTS patient (
    id text PRIMARY KEY,
    name text,
    created_at timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE IF NOT EXISTS appointment (
    id uuid PRIMARY KEY,
    version integer NOT NULL CHECK (version > 0),
    status text NOT NULL CHECK (status IN
        ('pending', 'booked', 'arrived', 'checked-in', 'fulfilled', 'noshow', 'cancelled')),
    slot_id uuid NOT NULL REFERENCES slot,
    practitioner_id text NOT NULL,
    location_id text NOT NULL,
    patient_id text REFERENCES patient,
    during tstzrange NOT NULL CHECK (NOT isempty(during) AND NOT lower_inf(during) AND NOT upper_inf(during)),
    comment text,
    hold_expires_at timestamptz,
    created_at timestamptz NOT NULL,
    updated_at timestamptz NOT NULL,
    CONSTRAINT appointment_has_patient CHECK (patient_id IS NOT NULL OR status IN ('pending', 'cancelled')),
    CONSTRAINT appointment_hold_ends CHECK (hold_expires_at IS NOT NULL OR status <> 'pending'),
    CONSTRAINT appointment_practitioner_free EXCLUDE USING gist (practitioner_id WITH =, during WITH &&)
        WHERE (status IN ('pending', 'booked', 'arrived', 'checked-in', 'fulfilled')),
    CONSTRAINT appointment_location_free EXCLUDE USING gist (location_id WITH =, during WITH &&)
        WHERE (status IN ('pending', 'booked', 'arrived', 'checked-in', 'fulfilled')),
    CONSTRAINT appointment_patient_free EXCLUDE USING gist (patient_id WITH =, during WITH &&)
        WHERE (status IN ('pending', 'booked', 'arrived', 'checked-in', 'fulfilled'))
);
CREATE INDEX IF NOT EXISTS appointment_pending ON appointment (hold_expires_at) WHERE status = 'pending';
CREATE INDEX IF NOT EXISTS appointment_patient ON appointment (patient_id);

-- answer: {"status": HTTP status, "appointment": the row as it was answered}; null only inside the claiming transaction.
CREATE TABLE IF NOT EXISTS idempotency (
    key text PRIMARY KEY,
    digest bytea NOT NULL,
    answer jsonb,
    created_at timestamptz NOT NULL DEFAULT now(),
    touched_at timestamptz NOT NULL DEFAULT now()
) WITH (fillfactor = 70);

-- Who did what to whose appointment: written in the transaction of what was done (FHIR R4 AuditEvent, IHE ATNA).
-- action: C, R, U, D, E as in http://hl7.org/fhir/audit-event-action.
CREATE TABLE IF NOT EXISTS audit_event (
    id uuid PRIMARY KEY,
    at timestamptz NOT NULL DEFAULT clock_timestamp(),
    agent text NOT NULL,
    action text NOT NULL CHECK (action IN ('C', 'R', 'U', 'D', 'E')),
    operation text NOT NULL,
    entity text NOT NULL,
    patient_id text
);

-- A seal: see locum_seal. What an appointment needs besides a practitioner and a room, such as an ultrasound; most need nothing.
ALTER TABLE appointment ADD COLUMN IF NOT EXISTS seal bytea;
ALTER TABLE appointment ADD COLUMN IF NOT EXISTS device_id text;
DO $$ BEGIN
    IF NOT EXISTS (SELECT FROM pg_constraint WHERE conname = 'appointment_device_free') THEN
        ALTER TABLE appointment ADD CONSTRAINT appointment_device_free EXCLUDE USING gist (device_id WITH =, during WITH &&)
            WHERE (device_id IS NOT NULL AND status IN ('pending', 'booked', 'arrived', 'checked-in', 'fulfilled'));
    END IF;
END $$;

CREATE INDEX IF NOT EXISTS audit_event_at ON audit_event USING brin (at);  -- it only grows: an index that costs nothing

CREATE OR REPLACE VIEW appointment_full AS
SELECT a.id, a.version, a.status, a.slot_id, lower(a.during) AS starts_at, upper(a.during) AS ends_at,
       a.practitioner_id, p.given || ' ' || p.family AS practitioner_name, p.specialty_code, p.specialty,
       a.location_id, l.name AS location_name, s.timezone, a.patient_id, t.name AS patient_name,
       a.comment, a.hold_expires_at, a.created_at, a.updated_at, a.device_id, e.name AS device_name
FROM appointment a
JOIN practitioner p ON p.id = a.practitioner_id
JOIN location l ON l.id = a.location_id
JOIN site s ON s.id = l.site_id
LEFT JOIN device e ON e.id = a.device_id
LEFT JOIN patient t ON t.id = a.patient_id;

CREATE OR REPLACE VIEW slot_full AS
SELECT s.id, s.starts_at, s.ends_at, s.practitioner_id, p.given || ' ' || p.family AS practitioner_name,
       p.specialty_code, p.specialty, s.location_id, l.name AS location_name, l.site_id, t.timezone,
       s.device_id, e.name AS device_name
FROM slot s
JOIN practitioner p ON p.id = s.practitioner_id
JOIN location l ON l.id = s.location_id
JOIN site t ON t.id = l.site_id
LEFT JOIN device e ON e.id = s.device_id;

DROP FUNCTION IF EXISTS locum_blocking(timestamptz, timestamptz);

-- What an appointment means, in one number: independent of settings and of how the row lies on its page.
CREATE OR REPLACE FUNCTION locum_digest(a appointment) RETURNS text LANGUAGE sql IMMUTABLE AS $$
    SELECT encode(sha256(convert_to(jsonb_build_array(
        a.id, a.version, a.status, a.slot_id, a.practitioner_id, a.location_id, a.patient_id,
        extract(epoch FROM lower(a.during)), extract(epoch FROM upper(a.during)), a.comment,
        extract(epoch FROM a.hold_expires_at))::text || coalesce(' device ' || a.device_id, ''), 'UTF8')), 'hex');
$$;

-- The seal of a row: what it means and when it was written, under a key that only the server has, and only while it is connected.
-- NULL without the key.
CREATE OR REPLACE FUNCTION locum_seal(a appointment) RETURNS bytea LANGUAGE sql STABLE AS $$
    SELECT substr(sha256(k || '\x02'::bytea), 1, 2) || substr(sha256(k || sha256(k || convert_to(
        concat_ws(' ', locum_digest(a), extract(epoch FROM a.created_at), extract(epoch FROM a.updated_at)), 'UTF8'))), 1, 12)
    FROM (SELECT decode(nullif(current_setting('locum.seal_key', true), ''), 'hex') AS k) AS secret;
$$;

-- As rows were sealed before their times were part of it: they are what they were until they are next changed.
CREATE OR REPLACE FUNCTION locum_former_seal(a appointment) RETURNS bytea LANGUAGE sql STABLE AS $$
    SELECT substr(sha256(k), 1, 2) || substr(sha256(k || sha256(k || convert_to(locum_digest(a), 'UTF8'))), 1, 12)
    FROM (SELECT decode(nullif(current_setting('locum.seal_key', true), ''), 'hex') AS k) AS secret;
$$;

-- Whether a row does not fit its seal: NULL without a seal, without the key, and under the seal of another key, which its first
-- two bytes tell.
CREATE OR REPLACE FUNCTION locum_broken(a appointment) RETURNS boolean LANGUAGE sql STABLE AS $$
    SELECT CASE substr(a.seal, 1, 2) WHEN substr(fitting, 1, 2) THEN a.seal <> fitting ELSE (
               SELECT CASE substr(a.seal, 1, 2) WHEN substr(former, 1, 2) THEN a.seal <> former END
               FROM (SELECT locum_former_seal(a) AS former) AS f) END
    FROM (SELECT locum_seal(a) AS fitting) AS s;
$$;

-- Every write seals anew; a row that was altered behind PostgreSQL's back is not sealed over, but for its restoration.
CREATE OR REPLACE FUNCTION locum_sealing() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'UPDATE' AND locum_broken(OLD) AND current_setting('locum.restoring', true) IS DISTINCT FROM 'on' THEN
        RAISE EXCEPTION USING ERRCODE = 'LC002', MESSAGE = 'seal_broken';
    END IF;
    NEW.seal := locum_seal(NEW);
    RETURN NEW;
END $$;
CREATE OR REPLACE TRIGGER appointment_sealed BEFORE UPDATE ON appointment
    FOR EACH ROW EXECUTE FUNCTION locum_sealing();
CREATE OR REPLACE TRIGGER appointment_sealed_first BEFORE INSERT ON appointment
    FOR EACH ROW WHEN (NEW.seal IS NULL) EXECUTE FUNCTION locum_sealing();  -- locum_take_many seals by itself

-- Receipts [{"id", "version", "digest"}] against the rows: those whose row is missing, older, or altered. Each by
-- its primary key, as whoever asks for it finds it: a row that its index does not lead to is served to nobody.
CREATE OR REPLACE FUNCTION locum_missing(p_receipts jsonb) RETURNS TABLE (id uuid, why text) LANGUAGE sql STABLE
SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off AS $$
    SELECT r.id, CASE WHEN a.id IS NULL THEN 'missing' WHEN a.version < r.version THEN 'older' ELSE 'altered' END
    FROM jsonb_to_recordset(p_receipts) AS r (id uuid, version integer, digest text)
    LEFT JOIN appointment a ON a.id = r.id
    WHERE a.id IS NULL OR a.version < r.version
       OR (a.version = r.version AND (locum_digest(a) <> r.digest OR locum_broken(a) IS TRUE));
$$;

-- How many appointments overlap an earlier one of the same practitioner, room, device or patient. Read from the table itself: an
-- index that is damaged is what lets this happen.
CREATE OR REPLACE FUNCTION locum_double_booked() RETURNS bigint LANGUAGE sql STABLE
SET enable_indexscan = off SET enable_indexonlyscan = off SET enable_bitmapscan = off AS $$
    WITH taken AS (
        SELECT a.id, a.during, whose.who
        FROM appointment a
        CROSS JOIN LATERAL (VALUES ('practitioner ' || a.practitioner_id), ('location ' || a.location_id),
                                   ('patient ' || a.patient_id), ('device ' || a.device_id)) AS whose (who)
        WHERE whose.who IS NOT NULL AND a.status IN ('pending', 'booked', 'arrived', 'checked-in', 'fulfilled')
    ), ordered AS (
        SELECT id, lower(during) AS starts_at,
               max(upper(during)) OVER (PARTITION BY who ORDER BY lower(during), id
                                        ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING) AS busy_until
        FROM taken
    )
    SELECT count(DISTINCT id) FROM ordered WHERE starts_at < busy_until;
$$;

-- The stored answer of this key, or null when this transaction is the one that claims it. A second transaction with the
-- same key waits here for the first one, also while that waits for the standby. The stored row is touched: an answer
-- given again must itself have committed, or it could acknowledge what the standby does not have.
CREATE OR REPLACE FUNCTION locum_claim(p_key text, p_digest bytea) RETURNS jsonb LANGUAGE plpgsql AS $$
DECLARE
    stored idempotency;
BEGIN
    INSERT INTO idempotency AS i (key, digest) VALUES (p_key, p_digest)
    ON CONFLICT (key) DO UPDATE SET touched_at = clock_timestamp()
    RETURNING i.* INTO stored;
    IF stored.digest <> p_digest THEN
        RAISE EXCEPTION 'key-reused' USING ERRCODE = 'LC001';
    END IF;
    RETURN stored.answer;
END $$;

DROP FUNCTION IF EXISTS locum_keep(text, uuid, integer);
CREATE OR REPLACE FUNCTION locum_keep(
    p_key text, p_id uuid, p_http_status integer, p_agent text, p_audit uuid, p_action text, p_operation text
) RETURNS jsonb LANGUAGE plpgsql AS $$
DECLARE
    made jsonb;
BEGIN
    SELECT jsonb_build_object('status', p_http_status, 'appointment', to_jsonb(f), 'digest', locum_digest(a)) INTO STRICT made
    FROM appointment_full f JOIN appointment a ON a.id = f.id WHERE f.id = p_id;
    UPDATE idempotency SET answer = made WHERE key = p_key;
    INSERT INTO audit_event (id, agent, action, operation, entity, patient_id)
    VALUES (p_audit, p_agent, p_action, p_operation, 'Appointment/' || p_id, made #>> '{appointment,patient_id}');
    RETURN made;
END $$;

-- Appointments that were acknowledged and stand in the way of this write, or are what it changes, or were answered under its key, as
-- far as the server remembers: [{"id", "version"}]. An index that does not show one of them would let two people in at once; and one
-- that this primary lost is not changed, and its request not done again, before it was put back (locum_restore).
CREATE OR REPLACE FUNCTION locum_expect(p_expected jsonb) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    IF p_expected IS NOT NULL AND EXISTS (
        SELECT FROM jsonb_to_recordset(p_expected) AS e (id uuid, version integer) LEFT JOIN appointment a ON a.id = e.id
        WHERE a.id IS NULL OR a.version < e.version
    ) THEN
        RAISE EXCEPTION USING ERRCODE = 'LC003', MESSAGE = 'acknowledged_row_missing';
    END IF;
END $$;

-- Those who want the same slot or patient go one after the other. Without it two of them would wait for each other in
-- an exclusion constraint until deadlock_timeout (check_exclusion_or_unique_constraint in execIndexing.c). Always in
-- the same order; the constraints, not these locks, are what makes a double booking impossible.
CREATE OR REPLACE FUNCTION locum_queue(p_slot uuid, p_patient text) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    a bigint := hashtextextended('slot ' || p_slot::text, 0);
    b bigint := hashtextextended('patient ' || p_patient, 0);
BEGIN
    PERFORM pg_advisory_xact_lock(least(a, b));
    IF a <> b THEN
        PERFORM pg_advisory_xact_lock(greatest(a, b));
    END IF;
END $$;

-- An exclusion constraint cannot look at the clock: holds that have run out are ended before it is asked.
CREATE OR REPLACE FUNCTION locum_end_holds() RETURNS void LANGUAGE sql AS $$
    UPDATE appointment SET status = 'cancelled', version = version + 1, updated_at = clock_timestamp()
    WHERE id IN (SELECT id FROM appointment WHERE status = 'pending' AND hold_expires_at <= clock_timestamp()
                 FOR UPDATE SKIP LOCKED);
$$;

CREATE OR REPLACE FUNCTION locum_know_patient(p_patient text, p_name text) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    IF p_patient IS NOT NULL AND NOT EXISTS (SELECT FROM patient WHERE id = p_patient) THEN
        INSERT INTO patient (id, name) VALUES (p_patient, p_name) ON CONFLICT (id) DO NOTHING;
    END IF;
END $$;

-- A patient with this id: true when it is new.
CREATE OR REPLACE FUNCTION locum_new_patient(p_patient text, p_name text, p_agent text, p_audit uuid) RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO patient (id, name) VALUES (p_patient, p_name) ON CONFLICT (id) DO NOTHING;
    IF FOUND THEN
        INSERT INTO audit_event (id, agent, action, operation, entity, patient_id)
        VALUES (p_audit, p_agent, 'C', 'create', 'Patient/' || p_patient, p_patient);
        RETURN true;
    END IF;
    RETURN false;
END $$;

-- The slot that is meant, by its id or by practitioner and start. When both are given and differ, the one that differs
-- from the current slot is what the client changed.
CREATE OR REPLACE FUNCTION locum_pick_slot(p_current uuid, p_slot uuid, p_practitioner text, p_start timestamptz)
RETURNS slot LANGUAGE plpgsql AS $$
DECLARE
    named slot;
    described slot;
    who text := p_practitioner;
BEGIN
    SELECT * INTO named FROM slot WHERE id = coalesce(p_slot, p_current);
    IF p_slot IS NOT NULL AND named.id IS NULL THEN
        RAISE EXCEPTION 'slot-unknown' USING ERRCODE = 'LC001';
    END IF;
    IF p_start IS NULL THEN
        IF named.id IS NULL OR (who IS NOT NULL AND who <> named.practitioner_id) THEN
            RAISE EXCEPTION 'slot-unknown' USING ERRCODE = 'LC001';
        END IF;
        RETURN named;
    END IF;
    who := coalesce(who, named.practitioner_id);
    SELECT * INTO described FROM slot WHERE starts_at = p_start AND practitioner_id = who;
    IF p_slot IS NULL OR described.id = p_slot OR p_slot = p_current THEN
        IF described.id IS NULL THEN
            RAISE EXCEPTION 'slot-unknown' USING ERRCODE = 'LC001';
        END IF;
        RETURN described;
    END IF;
    IF described.id = p_current THEN
        RETURN named;
    END IF;
    RAISE EXCEPTION 'slot-mismatch' USING ERRCODE = 'LC001';
END $$;

-- $hold, and $book of something new: one appointment in a free slot.
DROP FUNCTION IF EXISTS locum_take(text, bytea, uuid, text, uuid, text, timestamptz, text, text, text, timestamptz, timestamptz);
CREATE OR REPLACE FUNCTION locum_take(
    p_key text, p_digest bytea, p_id uuid, p_status text, p_slot uuid, p_practitioner text, p_start timestamptz,
    p_patient text, p_patient_name text, p_comment text, p_not_before timestamptz, p_hold_until timestamptz,
    p_agent text, p_audit uuid, p_expected jsonb
) RETURNS jsonb LANGUAGE plpgsql AS $$
DECLARE
    stored jsonb := locum_claim(p_key, p_digest);
    s slot;
BEGIN
    IF stored IS NOT NULL THEN
        RETURN stored;
    END IF;
    s := locum_pick_slot(NULL, p_slot, p_practitioner, p_start);
    IF s.starts_at < p_not_before THEN
        RAISE EXCEPTION 'slot-past' USING ERRCODE = 'LC001';
    END IF;
    PERFORM locum_queue(s.id, p_patient);
    PERFORM locum_end_holds();
    PERFORM locum_expect(p_expected);
    PERFORM locum_know_patient(p_patient, p_patient_name);
    INSERT INTO appointment (id, version, status, slot_id, practitioner_id, location_id, patient_id, during, comment,
                             hold_expires_at, created_at, updated_at, device_id)
    VALUES (p_id, 1, p_status, s.id, s.practitioner_id, s.location_id, p_patient, tstzrange(s.starts_at, s.ends_at),
            p_comment, p_hold_until, clock_timestamp(), clock_timestamp(), s.device_id);
    RETURN locum_keep(p_key, p_id, 201, p_agent, p_audit, 'C', CASE p_status WHEN 'pending' THEN 'hold' ELSE 'book' END);
END $$;

-- Whether nobody is in the way of this slot, for its practitioner, its room or its device.
CREATE OR REPLACE FUNCTION locum_is_free(p_slot uuid) RETURNS boolean LANGUAGE sql STABLE AS $$
    SELECT NOT EXISTS (
        SELECT FROM slot s JOIN appointment a ON a.during && tstzrange(s.starts_at, s.ends_at)
            AND (a.practitioner_id = s.practitioner_id OR a.location_id = s.location_id OR a.device_id = s.device_id)
        WHERE s.id = p_slot AND a.status IN ('pending', 'booked', 'arrived', 'checked-in', 'fulfilled'));
$$;

-- Many new appointments in one transaction, each with its own result: [{"n", "kept"}] or [{"n", "refused"}], in the order of the
-- members. The same rules as locum_take, as sets instead of row by row. Members name their slot by its id. What it does not
-- decide (a key that is claimed twice at once, a deadlock) is an error of the whole, and each is then written alone.
-- Keys are looked up by their index: a scan of the table ends where the file ends, and a disk that forgot to make it longer hides
-- the rows of its last page, which their index leads to; the patient would be told that his own booking is in the way.
CREATE OR REPLACE FUNCTION locum_take_many(p_members jsonb, p_expected jsonb) RETURNS jsonb LANGUAGE plpgsql
SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off AS $$
DECLARE
    results jsonb;
BEGIN
    PERFORM pg_advisory_xact_lock(wanted.lock) FROM (
        SELECT DISTINCT hashtextextended(said.kind || said.id, 0) AS lock
        FROM jsonb_to_recordset(p_members) AS m (slot text, patient text)
        CROSS JOIN LATERAL (VALUES ('slot ', m.slot), ('patient ', m.patient)) AS said (kind, id)
        WHERE said.id IS NOT NULL ORDER BY 1
    ) AS wanted;
    IF EXISTS (SELECT FROM appointment WHERE status = 'pending' AND hold_expires_at <= clock_timestamp()) THEN
        PERFORM locum_end_holds();
    END IF;
    PERFORM locum_expect(p_expected);
    INSERT INTO patient (id, name)
    SELECT DISTINCT ON (m.patient) m.patient, m.patient_name FROM jsonb_to_recordset(p_members) AS m (patient text, patient_name text)
    WHERE m.patient IS NOT NULL AND NOT EXISTS (SELECT FROM patient k WHERE k.id = m.patient)
    ON CONFLICT (id) DO NOTHING;
    WITH member AS MATERIALIZED (
        SELECT * FROM jsonb_to_recordset(p_members) AS m (
            n integer, key text, digest text, id uuid, status text, slot uuid, practitioner text, patient text, comment text,
            not_before timestamptz, hold_until timestamptz, agent text, audit uuid)
    ), known AS (
        UPDATE idempotency i SET touched_at = clock_timestamp() FROM member m WHERE i.key = m.key RETURNING i.key, i.digest, i.answer
    ), asked AS MATERIALIZED (
        SELECT m.*, s.starts_at, s.ends_at, s.practitioner_id, s.location_id, s.device_id, k.answer AS stored,
               clock_timestamp() AS now,
               CASE WHEN k.key IS NOT NULL AND k.digest <> decode(m.digest, 'hex') THEN 'key-reused'
                    WHEN k.key IS NOT NULL THEN NULL
                    WHEN s.id IS NULL OR m.practitioner <> s.practitioner_id THEN 'slot-unknown'
                    WHEN s.starts_at < m.not_before THEN 'slot-past' END AS refused
        FROM member m LEFT JOIN slot s ON s.id = m.slot LEFT JOIN known k ON k.key = m.key
    ), made AS (
        INSERT INTO appointment (id, version, status, slot_id, practitioner_id, location_id, patient_id, during, comment,
                                 hold_expires_at, created_at, updated_at, device_id, seal)
        SELECT a.id, 1, a.status, a.slot, a.practitioner_id, a.location_id, a.patient, tstzrange(a.starts_at, a.ends_at),
               a.comment, a.hold_until, a.now, a.now, a.device_id,
               locum_seal(ROW(a.id, 1, a.status, a.slot, a.practitioner_id, a.location_id, a.patient,
                              tstzrange(a.starts_at, a.ends_at), a.comment, a.hold_until, a.now, a.now, NULL, a.device_id)::appointment)
        FROM asked a WHERE a.refused IS NULL AND a.stored IS NULL ORDER BY a.n
        ON CONFLICT DO NOTHING
        RETURNING appointment.*
    ), answered AS (
        SELECT a.n, a.key, decode(a.digest, 'hex') AS digest, a.agent, a.audit, a.status, d.id, d.patient_id,
               jsonb_build_object('status', 201, 'digest', locum_digest(d::appointment), 'appointment', to_jsonb(f)) AS answer
        FROM made d JOIN asked a ON a.id = d.id
        JOIN practitioner p ON p.id = d.practitioner_id JOIN location l ON l.id = d.location_id JOIN site s ON s.id = l.site_id
        LEFT JOIN patient t ON t.id = d.patient_id LEFT JOIN device e ON e.id = d.device_id
        CROSS JOIN LATERAL (
            SELECT d.id, d.version, d.status, d.slot_id, lower(d.during) AS starts_at, upper(d.during) AS ends_at,
                   d.practitioner_id, p.given || ' ' || p.family AS practitioner_name, p.specialty_code, p.specialty,
                   d.location_id, l.name AS location_name, s.timezone, d.patient_id, t.name AS patient_name,
                   d.comment, d.hold_expires_at, d.created_at, d.updated_at, d.device_id, e.name AS device_name
        ) AS f
    ), keyed AS (
        INSERT INTO idempotency (key, digest, answer) SELECT key, digest, answer FROM answered
    ), audited AS (
        INSERT INTO audit_event (id, agent, action, operation, entity, patient_id)
        SELECT audit, agent, 'C', CASE status WHEN 'pending' THEN 'hold' ELSE 'book' END, 'Appointment/' || id, patient_id FROM answered
    )
    SELECT jsonb_agg(jsonb_strip_nulls(jsonb_build_object('n', a.n, 'refused', coalesce(a.refused,
               CASE WHEN d.answer IS NULL AND a.stored IS NULL THEN 'conflict' END)))
           || CASE WHEN coalesce(d.answer, a.stored) IS NOT NULL AND a.refused IS NULL
                   THEN jsonb_build_object('kept', coalesce(d.answer, a.stored)) ELSE '{}' END ORDER BY a.n)
    INTO results FROM asked a LEFT JOIN answered d ON d.n = a.n;
    IF results @> '[{"refused": "conflict"}]' THEN
        SELECT jsonb_agg(CASE WHEN r.value ->> 'refused' = 'conflict' THEN jsonb_build_object('n', r.value -> 'n', 'refused',
                   CASE WHEN locum_is_free(m.slot) THEN 'patient-overlap' ELSE 'slot-taken' END) ELSE r.value END ORDER BY m.n)
        INTO results
        FROM jsonb_array_elements(results) AS r
        JOIN jsonb_to_recordset(p_members) AS m (n integer, slot uuid) ON m.n = (r.value ->> 'n')::integer;
    END IF;
    RETURN results;
END $$;

-- The row to be changed, locked; refused when the client looked at another version, or names another patient. p_owner: the only
-- patient whose appointments the caller may know of.
DROP FUNCTION IF EXISTS locum_lock_appointment(uuid, integer, integer, text);
CREATE OR REPLACE FUNCTION locum_lock_appointment(p_id uuid, p_if_match integer, p_version integer, p_patient text, p_owner text)
RETURNS appointment LANGUAGE plpgsql AS $$
DECLARE
    a appointment;
BEGIN
    SELECT * INTO a FROM appointment WHERE id = p_id FOR UPDATE;
    IF a.id IS NULL OR a.patient_id IS DISTINCT FROM coalesce(p_owner, a.patient_id) THEN
        RAISE EXCEPTION 'appointment-unknown' USING ERRCODE = 'LC001';  -- another patient's is not there
    END IF;
    IF a.version <> p_if_match THEN
        RAISE EXCEPTION 'precondition-failed' USING ERRCODE = 'LC001';
    END IF;
    IF a.version <> p_version THEN
        RAISE EXCEPTION 'stale-version' USING ERRCODE = 'LC001';
    END IF;
    IF a.patient_id <> p_patient THEN
        RAISE EXCEPTION 'patient-differs' USING ERRCODE = 'LC001';
    END IF;
    RETURN a;
END $$;

-- $book of a hold.
DROP FUNCTION IF EXISTS locum_confirm(text, bytea, uuid, integer, integer, text[], text, text, text);
CREATE OR REPLACE FUNCTION locum_confirm(
    p_key text, p_digest bytea, p_id uuid, p_if_match integer, p_version integer, p_from text[],
    p_patient text, p_patient_name text, p_comment text, p_owner text, p_agent text, p_audit uuid, p_expected jsonb
) RETURNS jsonb LANGUAGE plpgsql AS $$
DECLARE
    stored jsonb := locum_claim(p_key, p_digest);
    a appointment;
BEGIN
    IF stored IS NOT NULL THEN
        RETURN stored;
    END IF;
    PERFORM locum_expect(p_expected);
    a := locum_lock_appointment(p_id, p_if_match, p_version, p_patient, p_owner);
    IF a.status <> ALL (p_from) THEN
        RAISE EXCEPTION '%', CASE WHEN a.status = 'cancelled' THEN 'hold-expired' ELSE 'duplicate' END
            USING ERRCODE = 'LC001';
    END IF;
    IF a.hold_expires_at <= clock_timestamp() THEN
        RAISE EXCEPTION 'hold-expired' USING ERRCODE = 'LC001';
    END IF;
    IF coalesce(p_patient, a.patient_id) IS NULL THEN
        RAISE EXCEPTION 'patient-missing' USING ERRCODE = 'LC001';
    END IF;
    PERFORM locum_queue(a.slot_id, coalesce(p_patient, a.patient_id));
    PERFORM locum_end_holds();
    PERFORM locum_know_patient(p_patient, p_patient_name);
    UPDATE appointment SET status = 'booked', version = version + 1, patient_id = coalesce(p_patient, patient_id),
        comment = coalesce(p_comment, comment), hold_expires_at = NULL, updated_at = clock_timestamp()
    WHERE id = p_id;
    RETURN locum_keep(p_key, p_id, 201, p_agent, p_audit, 'U', 'book');
END $$;

-- $book of an existing appointment: another slot, another comment.
DROP FUNCTION IF EXISTS locum_change(text, bytea, uuid, integer, integer, text[], text, uuid, text, timestamptz, text, timestamptz);
CREATE OR REPLACE FUNCTION locum_change(
    p_key text, p_digest bytea, p_id uuid, p_if_match integer, p_version integer, p_from text[],
    p_patient text, p_slot uuid, p_practitioner text, p_start timestamptz, p_comment text, p_not_before timestamptz,
    p_owner text, p_agent text, p_audit uuid, p_expected jsonb
) RETURNS jsonb LANGUAGE plpgsql AS $$
DECLARE
    stored jsonb := locum_claim(p_key, p_digest);
    a appointment;
    s slot;
BEGIN
    IF stored IS NOT NULL THEN
        RETURN stored;
    END IF;
    PERFORM locum_expect(p_expected);
    a := locum_lock_appointment(p_id, p_if_match, p_version, p_patient, p_owner);
    IF a.status <> ALL (p_from) THEN
        RAISE EXCEPTION 'status-forbids' USING ERRCODE = 'LC001';
    END IF;
    IF lower(a.during) <= clock_timestamp() THEN
        RAISE EXCEPTION 'appointment-past' USING ERRCODE = 'LC001';
    END IF;
    s := locum_pick_slot(a.slot_id, p_slot, p_practitioner, p_start);
    IF s.id <> a.slot_id THEN
        IF s.starts_at < p_not_before THEN
            RAISE EXCEPTION 'slot-past' USING ERRCODE = 'LC001';
        END IF;
        PERFORM locum_queue(s.id, a.patient_id);
        PERFORM locum_end_holds();
    END IF;
    UPDATE appointment SET version = version + 1, slot_id = s.id, practitioner_id = s.practitioner_id,
        location_id = s.location_id, device_id = s.device_id, during = tstzrange(s.starts_at, s.ends_at), comment = coalesce(p_comment, comment),
        updated_at = clock_timestamp()
    WHERE id = p_id;
    RETURN locum_keep(p_key, p_id, 200, p_agent, p_audit, 'U', 'change');
END $$;

-- $book with status cancelled. Cancelling again changes nothing and is not an error.
DROP FUNCTION IF EXISTS locum_cancel(text, bytea, uuid, integer, integer, text[], text);
DROP FUNCTION IF EXISTS locum_cancel(text, bytea, uuid, integer, integer, text[], text, text, text, uuid);
CREATE OR REPLACE FUNCTION locum_cancel(
    p_key text, p_digest bytea, p_id uuid, p_if_match integer, p_version integer, p_from text[], p_comment text,
    p_owner text, p_agent text, p_audit uuid, p_expected jsonb
) RETURNS jsonb LANGUAGE plpgsql AS $$
DECLARE
    stored jsonb := locum_claim(p_key, p_digest);
    a appointment;
BEGIN
    IF stored IS NOT NULL THEN
        RETURN stored;
    END IF;
    PERFORM locum_expect(p_expected);
    a := locum_lock_appointment(p_id, p_if_match, p_version, NULL, p_owner);
    IF a.status <> 'cancelled' THEN
        IF a.status <> ALL (p_from) THEN
            RAISE EXCEPTION 'status-forbids' USING ERRCODE = 'LC001';
        END IF;
        IF a.status = 'booked' AND lower(a.during) <= clock_timestamp() THEN
            RAISE EXCEPTION 'appointment-past' USING ERRCODE = 'LC001';
        END IF;
        UPDATE appointment SET status = 'cancelled', version = version + 1, hold_expires_at = NULL,
            comment = coalesce(p_comment, comment), updated_at = clock_timestamp()
        WHERE id = p_id;
    END IF;
    RETURN locum_keep(p_key, p_id, 200, p_agent, p_audit, 'U', 'cancel');
END $$;

-- The status of somebody who came, was seen, or did not come. To say it again changes nothing and is not an error.
DROP FUNCTION IF EXISTS locum_mark(text, bytea, uuid, integer, integer, text[], text, text, text, text, uuid);
CREATE OR REPLACE FUNCTION locum_mark(
    p_key text, p_digest bytea, p_id uuid, p_if_match integer, p_version integer, p_from text[], p_status text, p_comment text,
    p_owner text, p_agent text, p_audit uuid, p_expected jsonb
) RETURNS jsonb LANGUAGE plpgsql AS $$
DECLARE
    stored jsonb := locum_claim(p_key, p_digest);
    a appointment;
BEGIN
    IF stored IS NOT NULL THEN
        RETURN stored;
    END IF;
    PERFORM locum_expect(p_expected);
    a := locum_lock_appointment(p_id, p_if_match, p_version, NULL, p_owner);
    IF a.status <> p_status THEN
        IF a.status <> ALL (p_from) THEN
            RAISE EXCEPTION 'status-forbids' USING ERRCODE = 'LC001';
        END IF;
        IF p_status = 'noshow' AND lower(a.during) > clock_timestamp() THEN
            RAISE EXCEPTION 'appointment-ahead' USING ERRCODE = 'LC001';
        END IF;
        UPDATE appointment SET status = p_status, version = version + 1, comment = coalesce(p_comment, comment),
            updated_at = clock_timestamp()
        WHERE id = p_id;
    END IF;
    RETURN locum_keep(p_key, p_id, 200, p_agent, p_audit, 'U', p_status);
END $$;

-- What was answered under a key; NULL for a key that nobody has used, or that was forgotten. It is touched, so that whoever is told
-- of it is told only what the standby has.
DROP FUNCTION IF EXISTS locum_answer(text);
CREATE OR REPLACE FUNCTION locum_answer(p_key text, p_expected jsonb) RETURNS jsonb LANGUAGE sql AS $$
    SELECT locum_expect(p_expected);
    UPDATE idempotency SET touched_at = clock_timestamp() WHERE key = p_key
    RETURNING answer || jsonb_build_object('created_at', created_at);
$$;

-- Keys that nobody has to remember any more: how many were forgotten, at most so many in one transaction.
CREATE OR REPLACE FUNCTION locum_forget_keys(p_age interval) RETURNS bigint LANGUAGE sql SECURITY DEFINER SET search_path = public AS $$
    WITH old AS (SELECT key FROM idempotency WHERE touched_at < now() - p_age LIMIT 500000 FOR UPDATE SKIP LOCKED),
    gone AS (DELETE FROM idempotency i USING old WHERE i.key = old.key RETURNING 1)
    SELECT count(*) FROM gone;
$$;
REVOKE ALL ON FUNCTION locum_forget_keys(interval) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION locum_forget_keys(interval) TO locum_server;

-- An acknowledged row as its receipt has it, put where the table has none, an older one, or an altered one. A newer row stays.
-- A constraint may forbid it (23P01): then a person decides. The keys under which it was answered come back with it, [{"key", "digest",
-- "answer"}]: whoever did not hear the answer asks again, and would be told that his own booking is in the way.
DROP FUNCTION IF EXISTS locum_restore(jsonb);
CREATE OR REPLACE FUNCTION locum_restore(p_row jsonb, p_answers jsonb) RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN
    PERFORM set_config('locum.restoring', 'on', true);
    INSERT INTO idempotency (key, digest, answer, created_at)
    SELECT w.key, decode(w.digest, 'hex'), w.answer, (w.answer #>> '{appointment,updated_at}')::timestamptz
    FROM jsonb_to_recordset(p_answers) AS w (key text, digest text, answer jsonb)
    ORDER BY w.key ON CONFLICT (key) DO NOTHING;
    PERFORM locum_know_patient(p_row ->> 'patient_id', p_row ->> 'patient_name');
    INSERT INTO appointment AS a (id, version, status, slot_id, practitioner_id, location_id, patient_id, during, comment,
                                  hold_expires_at, created_at, updated_at, device_id)
    VALUES ((p_row ->> 'id')::uuid, (p_row ->> 'version')::integer, p_row ->> 'status', (p_row ->> 'slot_id')::uuid,
            p_row ->> 'practitioner_id', p_row ->> 'location_id', p_row ->> 'patient_id',
            tstzrange((p_row ->> 'starts_at')::timestamptz, (p_row ->> 'ends_at')::timestamptz), p_row ->> 'comment',
            (p_row ->> 'hold_expires_at')::timestamptz, (p_row ->> 'created_at')::timestamptz,
            (p_row ->> 'updated_at')::timestamptz, p_row ->> 'device_id')
    ON CONFLICT (id) DO UPDATE SET version = excluded.version, status = excluded.status, slot_id = excluded.slot_id,
        practitioner_id = excluded.practitioner_id, location_id = excluded.location_id, patient_id = excluded.patient_id,
        during = excluded.during, comment = excluded.comment, hold_expires_at = excluded.hold_expires_at,
        created_at = excluded.created_at, updated_at = excluded.updated_at, device_id = excluded.device_id
    WHERE a.id = excluded.id AND a.version <= excluded.version;  -- a damaged index may lead to somebody else's row
    RETURN FOUND;
END $$;

-- What amcheck says of the booking tables and their indexes: a sentence for each that is damaged. After a failover, before the
-- incident may close: indexes are not compared with anybody's receipts.
CREATE OR REPLACE FUNCTION locum_structure() RETURNS text[] LANGUAGE plpgsql SECURITY DEFINER SET search_path = public AS $$
DECLARE
    found text[] := '{}';
    one regclass;
    said text;
BEGIN
    FOR one IN SELECT i.indexrelid::regclass FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid JOIN pg_am m ON m.oid = c.relam
               WHERE m.amname = 'btree' AND i.indisvalid
                 AND i.indrelid = ANY (ARRAY['appointment', 'idempotency', 'slot', 'patient', 'audit_event']::regclass[]) LOOP
        BEGIN
            PERFORM bt_index_check(one, true);
        EXCEPTION WHEN data_corrupted OR index_corrupted THEN
            found := found || format('%s: %s', one, SQLERRM);
        END;
    END LOOP;
    FOREACH one IN ARRAY ARRAY['appointment', 'idempotency', 'slot', 'patient', 'audit_event']::regclass[] LOOP
        BEGIN
            FOR said IN SELECT format('%s: block %s: %s', one, v.blkno, v.msg) FROM verify_heapam(one, check_toast => true) v LIMIT 3 LOOP
                found := found || said;
            END LOOP;
        EXCEPTION WHEN data_corrupted OR index_corrupted THEN
            found := found || format('%s: %s', one, SQLERRM);
        END;
    END LOOP;
    RETURN found;
END $$;
REVOKE ALL ON FUNCTION locum_structure() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION locum_structure() TO locum_server;

-- A page that went back in time brings versions of rows back that were updated since, beside the newer ones on other pages. Of rows
-- with one id the newest whose seal fits stays. Looked for without an index, since those are in doubt, and without the checks of
-- foreign keys, which ask one.
CREATE OR REPLACE FUNCTION locum_drop_returned() RETURNS bigint LANGUAGE plpgsql SET search_path = public
    SET enable_indexscan = off SET enable_indexonlyscan = off SET enable_bitmapscan = off SET session_replication_role = replica AS $$
DECLARE
    dropped bigint;
BEGIN
    LOCK TABLE appointment IN ACCESS EXCLUSIVE MODE;
    DELETE FROM appointment WHERE ctid = ANY (ARRAY(
        SELECT place FROM (
            SELECT a.ctid AS place,
                   row_number() OVER (PARTITION BY a.id ORDER BY coalesce(locum_broken(a), false), a.version DESC, a.ctid) AS nth
            FROM appointment a WHERE a.id IN (SELECT id FROM appointment GROUP BY id HAVING count(*) > 1)
        ) twice WHERE nth > 1));
    GET DIAGNOSTICS dropped = ROW_COUNT;
    RETURN dropped;
END $$;
REVOKE ALL ON FUNCTION locum_drop_returned() FROM PUBLIC;

-- Make the indexes of the booking tables anew where amcheck finds one damaged, and of those in p_always; which were. A table above
-- p_bytes_max keeps bookings waiting for too long, and one that holds what its constraints forbid is no matter of indexes: both are
-- left for a person. Several servers may ask at once: each looks for itself, one after the other.
CREATE OR REPLACE FUNCTION locum_reindex_damaged(p_bytes_max bigint, p_always text[]) RETURNS text[]
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = public AS $$
DECLARE
    done text[] := '{}';
    one regclass;
    index regclass;
    is_damaged boolean;
BEGIN
    PERFORM pg_advisory_xact_lock('locum_reindex_damaged'::regproc::oid::bigint);
    FOREACH one IN ARRAY ARRAY['appointment', 'idempotency', 'slot', 'patient', 'audit_event']::regclass[] LOOP
        CONTINUE WHEN pg_total_relation_size(one) > p_bytes_max;
        BEGIN
            is_damaged := one::text = ANY (p_always);
            FOR index IN SELECT i.indexrelid::regclass FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid
                         JOIN pg_am m ON m.oid = c.relam WHERE m.amname = 'btree' AND i.indisvalid AND i.indrelid = one LOOP
                EXIT WHEN is_damaged;
                BEGIN
                    PERFORM bt_index_check(index, true);
                EXCEPTION WHEN data_corrupted OR index_corrupted THEN
                    is_damaged := true;
                END;
            END LOOP;
            IF is_damaged THEN
                IF one = 'appointment'::regclass THEN
                    PERFORM locum_drop_returned();
                END IF;
                EXECUTE format('REINDEX TABLE %s', one);
                done := done || one::text;
            END IF;
        EXCEPTION WHEN unique_violation OR exclusion_violation OR data_corrupted OR index_corrupted THEN
            RAISE WARNING 'the indexes of % cannot be made anew: %', one, SQLERRM;
        END;
    END LOOP;
    RETURN done;
END $$;
REVOKE ALL ON FUNCTION locum_reindex_damaged(bigint, text[]) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION locum_reindex_damaged(bigint, text[]) TO locum_server;

GRANT USAGE ON SCHEMA public TO locum_server;
GRANT SELECT ON site, location, practitioner, device, slot, patient, appointment, idempotency, appointment_full, slot_full, audit_event
    TO locum_server;
GRANT INSERT ON site, location, practitioner, device, slot, patient, audit_event TO locum_server;
GRANT INSERT, UPDATE ON appointment, idempotency TO locum_server;
