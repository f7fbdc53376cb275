-- The store as of the first release. Runs as a login role with CREATEROLE and CREATE on the database;
-- no superuser, no BYPASSRLS. Group roles belong to the cluster, everything else to the schema counterfoil.

DO $$
DECLARE
    name text;
BEGIN
    FOREACH name IN ARRAY ARRAY['owner', 'ingester', 'reconciler', 'auditor', 'operator', 'eraser'] LOOP
        BEGIN
            EXECUTE format('CREATE ROLE %I NOLOGIN', 'counterfoil_' || name);
        EXCEPTION WHEN duplicate_object OR unique_violation THEN
            NULL; -- another database of this cluster made it
        END;
        -- From 16 on, making a role gives no right to act as it; granting that right again does no harm.
        EXECUTE format('GRANT %I TO CURRENT_USER', 'counterfoil_' || name);
    END LOOP;
END
$$;

CREATE SCHEMA counterfoil AUTHORIZATION counterfoil_owner;
GRANT USAGE ON SCHEMA counterfoil TO counterfoil_ingester, counterfoil_reconciler, counterfoil_auditor, counterfoil_operator;
SET LOCAL ROLE counterfoil_owner;
SET LOCAL search_path TO counterfoil;

CREATE TABLE schema_migration (
    number     int PRIMARY KEY,
    phase      text NOT NULL CHECK (phase IN ('pre', 'post')),
    name       text NOT NULL,
    sha256     text NOT NULL,
    applied_at timestamptz NOT NULL DEFAULT now()
);
GRANT SELECT ON schema_migration TO PUBLIC;

-- ---------------------------------------------------------------------------------------------------
-- Records: not in the log, backed up.

CREATE TABLE tenant (
    tenant     text PRIMARY KEY CHECK (tenant ~ '^[a-z0-9_-]{1,40}$'),
    login_role text UNIQUE, -- who may read this tenant's rows with SQL of their own
    created_at timestamptz NOT NULL DEFAULT now()
);

-- The topics that rows came from: a re-created topic has another id, so its offsets are other offsets.
CREATE TABLE log_source (
    source_id  smallint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    cluster_id text NOT NULL,
    topic_id   text NOT NULL,
    topic      text NOT NULL,
    UNIQUE (cluster_id, topic_id)
);

CREATE TABLE ingest_offset (
    consumer    text NOT NULL,
    cluster_id  text NOT NULL,
    topic_id    text NOT NULL,
    partition   int NOT NULL CHECK (partition >= 0),
    topic       text NOT NULL,
    next_offset bigint NOT NULL CHECK (next_offset >= 0),
    epoch       bigint NOT NULL CHECK (epoch > 0),
    owner       text NOT NULL,
    updated_at  timestamptz NOT NULL DEFAULT now(),
    retired_at  timestamptz, -- the topic was made anew, and a person said to go on with the new one
    -- How often it was claimed since it last moved or was given back; which records, [offset, end), were then decoded by
    -- themselves; and how often that was begun and not ended.
    idle_claims    int NOT NULL DEFAULT 0,
    suspect_offset bigint,
    suspect_end    bigint,
    suspect_tries  int NOT NULL DEFAULT 0,
    PRIMARY KEY (consumer, cluster_id, topic_id, partition)
);

-- Offsets from which no event came: no record stands there (a transaction's marker, an aborted record), or a person
-- accepted that they are lost. Without its end: the rest of a topic that is gone.
CREATE TABLE log_gap (
    consumer     text NOT NULL,
    source_id    smallint NOT NULL REFERENCES log_source,
    partition    int NOT NULL,
    first_offset bigint NOT NULL,
    next_offset  bigint CHECK (next_offset > first_offset),
    reason       text NOT NULL,
    accepted_by  text NOT NULL,
    accepted_at  timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (consumer, source_id, partition, first_offset)
);

CREATE TYPE letter_kind AS ENUM ('record', 'effect');
CREATE TYPE letter_status AS ENUM ('open', 'parked', 'resolved');

-- tenant is NULL where the record does not say, or can't be believed: for operators alone.
CREATE TABLE dead_letter (
    letter_id        uuid PRIMARY KEY,
    tenant           text,
    letter_kind      letter_kind NOT NULL,
    letter_class     text NOT NULL,
    reason           text NOT NULL,
    status           letter_status NOT NULL DEFAULT 'open',
    attempts         int NOT NULL DEFAULT 1 CHECK (attempts > 0),
    source_id        smallint REFERENCES log_source,
    partition        int,
    "offset"         bigint,
    record_timestamp timestamptz,
    key              bytea,
    value            bytea,
    headers          json,
    task_id          uuid,
    effect_id        uuid,
    placed_by        text NOT NULL,
    placed_at        timestamptz NOT NULL DEFAULT now(),
    CHECK ((letter_kind = 'record') = (source_id IS NOT NULL AND partition IS NOT NULL AND "offset" IS NOT NULL)),
    CHECK ((letter_kind = 'effect') <= (tenant IS NOT NULL AND effect_id IS NOT NULL))
);
CREATE UNIQUE INDEX dead_letter_record ON dead_letter (source_id, partition, "offset") WHERE letter_kind = 'record';
CREATE UNIQUE INDEX dead_letter_effect ON dead_letter (tenant, effect_id) WHERE letter_kind = 'effect' AND status = 'open';

-- Final bytes of what we emit, relayed at least once, unchanged: a lease can't fence a produce(), this can.
CREATE TABLE outbox (
    outbox_id  bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    topic      text NOT NULL,
    event_id   uuid,
    key        bytea NOT NULL,
    value      bytea,
    headers    json NOT NULL DEFAULT '[]',
    created_at timestamptz NOT NULL DEFAULT now(),
    relayed_at timestamptz
);
-- Large ones are kept as they are: Postgres' own compression takes 30 ms for a megabyte.
ALTER TABLE dead_letter ALTER COLUMN value SET STORAGE EXTERNAL;
ALTER TABLE outbox ALTER COLUMN value SET STORAGE EXTERNAL;
CREATE INDEX outbox_waiting ON outbox (outbox_id) WHERE relayed_at IS NULL;

-- Who may judge one tenant's effects on one target now.
CREATE TABLE check_lease (
    tenant     text NOT NULL,
    target     text NOT NULL,
    owner      text NOT NULL,
    epoch      bigint NOT NULL DEFAULT 1,
    check_seq  bigint NOT NULL DEFAULT 1,
    held_until timestamptz NOT NULL,
    swept_at   timestamptz,        -- when all of the target was last read
    baseline_fence bigint[],       -- end offsets by partition, read after the first baseline was
    PRIMARY KEY (tenant, target)
);

-- How far the checking of one effect has come. A verdict settles by sightings that agree; `fence` holds the end offsets
-- by partition, read after the first of them.
CREATE TABLE check_state (
    tenant           text NOT NULL,
    effect_id        uuid NOT NULL,
    target           text NOT NULL,
    sightings        int NOT NULL,
    verdict          text NOT NULL,
    sighting_digest  bytea NOT NULL,
    fence            bigint[] NOT NULL,
    first_sighted_at timestamptz NOT NULL,
    emitted          text,        -- the last verdict put into the outbox
    settled_at       timestamptz,
    closed_at        timestamptz,
    facts            int NOT NULL, -- intents and results that were known then
    PRIMARY KEY (tenant, effect_id)
);
CREATE INDEX check_state_open ON check_state (tenant, target) WHERE closed_at IS NULL;

-- The last state of each resource known to be right, and an unexplained one that waits for its second sighting.
-- Intents at or past `fence` were durable after this was read, so their writes came later.
CREATE TABLE target_baseline (
    tenant           text NOT NULL,
    target           text NOT NULL,
    resource         text NOT NULL,
    key              text NOT NULL,
    doc              json,             -- NULL: it did not exist
    problem          text,             -- why it could not be compared
    fence            bigint[] NOT NULL,
    read_at          timestamptz NOT NULL,
    candidate_digest bytea,            -- of an unexplained state that waits to settle
    candidate_fence  bigint[],
    candidate_at     timestamptz,
    PRIMARY KEY (tenant, target, resource, key)
);

-- ---------------------------------------------------------------------------------------------------
-- Projections: rebuildable from the log.

CREATE TABLE event (
    tenant          text NOT NULL,
    event_id        uuid NOT NULL,
    retention_class text NOT NULL,
    kind            text NOT NULL,
    workflow        text NOT NULL,
    environment     text NOT NULL,
    mode            text NOT NULL,
    task_id         uuid NOT NULL,
    task_ref        text,
    parent_task_id  uuid,
    conversation_id text,
    subject_ref     text,
    agent           text NOT NULL,
    release         text,
    principal       text,
    on_behalf_of    text,
    effect_id       uuid,
    attempt         int,
    causation_id    uuid,
    trace_id        uuid,
    span_id         bytea,
    producer_id     uuid NOT NULL,
    seq             bigint NOT NULL,
    occurred_at     timestamptz NOT NULL,
    redaction       text,
    body_schema     bytea NOT NULL,
    unread          boolean NOT NULL, -- kind or body unknown to the ingester of the day; kept, folded after an upgrade
    body            json,             -- json and not jsonb: 7 us a row less, and what jsonb refuses is mended before
    source_id       smallint NOT NULL,
    partition       int NOT NULL,
    "offset"        bigint NOT NULL,
    appended_at     timestamptz NOT NULL, -- the broker's clock
    value           bytea NOT NULL,       -- the exact Kafka value; hashes are over these bytes, never over JSON
    value_sha256    bytea NOT NULL,
    UNIQUE (tenant, event_id, retention_class)
) PARTITION BY LIST (retention_class);
CREATE INDEX event_task ON event (tenant, task_id);
CREATE INDEX event_effect ON event (tenant, effect_id) WHERE effect_id IS NOT NULL;

CREATE TABLE event_standard PARTITION OF event FOR VALUES IN ('standard') PARTITION BY RANGE (event_id);

-- Ids outside the open window, or of a retention class that has no partition: kept, flagged. One partition holds them
-- all, so that the ingester can COPY into it as into those of event.
CREATE TABLE event_astray (LIKE event INCLUDING DEFAULTS, UNIQUE (tenant, event_id, retention_class))
    PARTITION BY RANGE (event_id);
CREATE INDEX event_astray_task ON event_astray (tenant, task_id);
CREATE TABLE event_astray_all PARTITION OF event_astray FOR VALUES FROM (MINVALUE) TO (MAXVALUE);

-- What the folds read of an event. Ingest hands a batch over as one array of these, its columns in this order.
CREATE TYPE fact AS (
    tenant text, task_id uuid, task_ref text, parent_task_id uuid, conversation_id text, subject_ref text, workflow text,
    agent text, mode text, event_id uuid, kind text, unread boolean, body json, effect_id uuid, producer_id uuid,
    seq bigint, occurred_at timestamptz, redaction text, partition int, "offset" bigint, appended_at timestamptz
);

-- The first UUIDv7 of a moment: 48 bits of milliseconds, then zeros (RFC 9562 section 5.7).
CREATE FUNCTION first_id(moment timestamptz) RETURNS uuid LANGUAGE sql IMMUTABLE STRICT AS $$
    SELECT (lpad(to_hex((extract(epoch FROM moment) * 1000)::bigint), 12, '0') || repeat('0', 20))::uuid
$$;

-- Makes the monthly partitions of a class from `months_back` before to `months_ahead` after this month.
CREATE FUNCTION open_partitions(class text, months_back int, months_ahead int) RETURNS int
LANGUAGE plpgsql SECURITY DEFINER SET search_path = counterfoil, pg_temp AS $$
DECLARE
    month timestamptz;
    leaf text;
    made int := 0;
BEGIN
    PERFORM pg_advisory_xact_lock(hashtext('counterfoil.open_partitions'));
    FOR month IN
        SELECT generate_series(
            date_trunc('month', now(), 'UTC') - make_interval(months => months_back),
            date_trunc('month', now(), 'UTC') + make_interval(months => months_ahead),
            interval '1 month')
    LOOP
        leaf := format('event_%s_%s', class, to_char(month AT TIME ZONE 'UTC', 'YYYY_MM'));
        CONTINUE WHEN to_regclass(format('counterfoil.%I', leaf)) IS NOT NULL;
        EXECUTE format('CREATE TABLE counterfoil.%I PARTITION OF counterfoil.%I FOR VALUES FROM (%L) TO (%L)',
            leaf, 'event_' || class, first_id(month), first_id(month + interval '1 month'));
        EXECUTE format('GRANT INSERT ON counterfoil.%I TO counterfoil_ingester', leaf);
        made := made + 1;
    END LOOP;
    RETURN made;
END
$$;

-- Offsets that repeated a stored event, so that consumed = stored + duplicate + dead.
CREATE TABLE duplicate (
    tenant       text NOT NULL,
    source_id    smallint NOT NULL,
    partition    int NOT NULL,
    "offset"     bigint NOT NULL,
    event_id     uuid NOT NULL,
    value_sha256 bytea NOT NULL,
    PRIMARY KEY (tenant, source_id, partition, "offset")
);

-- Each column names its merge. Sums are over distinct events.
CREATE TABLE effect (
    tenant           text NOT NULL,
    effect_id        uuid NOT NULL,
    task_id          uuid NOT NULL,                  -- min; one effect has one task
    workflow         text NOT NULL,                  -- of the lowest event_id
    agent            text NOT NULL,                  -- of the lowest event_id
    mode             text NOT NULL,                  -- of the lowest event_id
    first_event_id   uuid NOT NULL,                  -- min
    intent_event_id  uuid,                           -- min over intents; the next six are of that intent
    redaction        text,
    tool             text,
    target           text,
    step             text,
    args             json,
    expect           json,
    intent_partition int,                            -- min
    intent_offset    bigint,                         -- min
    intent_at        timestamptz,                    -- min of occurred_at
    intents          int NOT NULL DEFAULT 0,         -- sum
    ok               int NOT NULL DEFAULT 0,         -- sums of results by outcome
    accepted         int NOT NULL DEFAULT 0,
    partial          int NOT NULL DEFAULT 0,
    unknown          int NOT NULL DEFAULT 0,
    failed           int NOT NULL DEFAULT 0,
    denied           int NOT NULL DEFAULT 0,
    reply_event_id   uuid,                           -- max over results with a reply; the next is of that result
    reply            json,
    accept_deadline  timestamptz,                    -- max
    last_appended_at timestamptz NOT NULL,           -- max of the broker's time, intents and results
    verdict          text,                           -- this and the next six: of the highest (check_seq, event_id)
    check_seq        bigint,
    verdict_event_id uuid,
    verdict_reason   text,
    verdict_at       timestamptz,
    contract_version text,
    contract_digest  text,
    evidence         json,
    given_up         int NOT NULL DEFAULT 0,         -- sum of dead_lettered
    PRIMARY KEY (tenant, effect_id)
);
CREATE INDEX effect_task ON effect (tenant, task_id);
CREATE INDEX effect_target ON effect (tenant, target) WHERE target IS NOT NULL;

CREATE TABLE effect_resource (
    tenant    text NOT NULL,
    target    text NOT NULL,
    resource  text NOT NULL,
    key       text NOT NULL,
    effect_id uuid NOT NULL,
    PRIMARY KEY (tenant, target, resource, key, effect_id)
);

-- A change at the target that no intent explains; change_id is the verdict's event_id.
CREATE TABLE target_change (
    tenant           text NOT NULL,
    change_id        uuid NOT NULL,
    target           text NOT NULL,
    resource         text NOT NULL,
    key              text NOT NULL,
    check_seq        bigint NOT NULL,
    verdict          text NOT NULL,
    reason           text,
    found_at         timestamptz NOT NULL,
    contract_version text NOT NULL,
    evidence         json NOT NULL,
    PRIMARY KEY (tenant, change_id, resource, key)
);

CREATE TABLE task (
    tenant          text NOT NULL,
    task_id         uuid NOT NULL,
    task_ref        text,                       -- max; one task has one
    parent_task_id  uuid,                       -- max; likewise
    conversation_id text,                       -- max
    subject_ref     text,                       -- max
    workflow        text NOT NULL,              -- of the lowest event_id
    agent           text NOT NULL,              -- of the lowest event_id
    first_event_id  uuid NOT NULL,              -- min
    start_event_id  uuid,                       -- min over task_started; title is of that one
    title           text,
    end_event_id    uuid,                       -- max over started, suspended and ended; status is of that one
    status          text,
    first_at        timestamptz NOT NULL,       -- min of occurred_at
    last_at         timestamptz NOT NULL,       -- max of occurred_at
    events          bigint NOT NULL DEFAULT 0,  -- sum
    input_tokens    numeric NOT NULL DEFAULT 0, -- sums over completions
    output_tokens   numeric NOT NULL DEFAULT 0,
    cost            numeric NOT NULL DEFAULT 0, -- sum; currencies are kept apart in the events
    PRIMARY KEY (tenant, task_id)
);
CREATE INDEX task_ref ON task (tenant, task_ref) WHERE task_ref IS NOT NULL;

-- One row per (tenant, producer, task), owned by the task's partition; its reserved task tells of its life.
CREATE TABLE producer (
    tenant        text NOT NULL,
    producer_id   uuid NOT NULL,
    task_id       uuid NOT NULL,
    seqs          int8multirange NOT NULL,     -- union
    partition     int NOT NULL,                -- max; a task has one
    last_at       timestamptz NOT NULL,        -- max of the broker's time
    opened        boolean NOT NULL DEFAULT false, -- or
    closed        boolean NOT NULL DEFAULT false, -- or
    beat_offset   bigint,                      -- max over opened, beat and closed
    beat_interval bigint,                      -- max, microseconds
    adopted_by    uuid,                        -- max; who finished it, if it died
    PRIMARY KEY (tenant, producer_id, task_id)
);
CREATE INDEX producer_open ON producer (tenant) WHERE opened AND NOT closed;

-- What a producer says of a task's numbers. It says so on its own reserved task, so this is owned by the partition of that.
CREATE TABLE producer_claim (
    tenant      text NOT NULL,
    producer_id uuid NOT NULL,
    task_id     uuid NOT NULL,                 -- the task spoken of
    last_seq    bigint,                        -- max; numbers up to here were given out
    gaps        int8multirange NOT NULL DEFAULT '{}', -- union; will not come, or nobody knows to have come
    said_at     timestamptz NOT NULL,          -- max of the broker's time
    PRIMARY KEY (tenant, producer_id, task_id)
);

-- ---------------------------------------------------------------------------------------------------
-- What drift is: this table and nothing else decides it (DESIGN.md section 3).

CREATE TABLE drift_rule (
    outcome text NOT NULL,
    verdict text NOT NULL,
    drift   boolean NOT NULL,
    means   text NOT NULL,
    PRIMARY KEY (outcome, verdict)
);
INSERT INTO drift_rule
SELECT outcome, verdict,
       CASE verdict
           WHEN 'applied' THEN outcome IN ('failed', 'denied', 'partial')
           WHEN 'not_applied' THEN outcome IN ('ok', 'accepted', 'unknown', 'partial')
           ELSE true
       END,
       CASE
           WHEN verdict = 'applied' AND outcome = 'unknown' THEN 'resolved: it landed'
           WHEN verdict = 'applied' AND outcome IN ('failed', 'denied') THEN 'it happened after all'
           WHEN verdict = 'not_applied' AND outcome = 'unknown' THEN 'a decision is due'
           WHEN verdict = 'not_applied' AND outcome IN ('ok', 'accepted') THEN 'it never landed'
           WHEN verdict = 'applied' AND outcome IN ('ok', 'accepted') THEN 'agrees'
           WHEN verdict = 'not_applied' AND outcome IN ('failed', 'denied') THEN 'agrees'
           WHEN verdict = 'partial' THEN 'a part of it landed'
           WHEN verdict = 'duplicated' THEN 'it landed more than once'
           WHEN verdict = 'mismatched' THEN 'it landed with other values'
           ELSE 'both sides differ'
       END
FROM unnest(ARRAY['ok', 'accepted', 'unknown', 'failed', 'denied', 'partial']) AS outcome,
     unnest(ARRAY['applied', 'not_applied', 'partial', 'duplicated', 'mismatched']) AS verdict;
INSERT INTO drift_rule
SELECT outcome, 'unknowable', false, 'a hole in coverage'
FROM unnest(ARRAY['ok', 'accepted', 'unknown', 'failed', 'denied', 'partial']) AS outcome;

-- What the agent said of an effect over all its attempts: a claim of success outranks doubt, doubt outranks refusal.
CREATE FUNCTION said(e effect) RETURNS text LANGUAGE sql IMMUTABLE AS $$
    SELECT CASE
        WHEN e.ok > 0 THEN 'ok'
        WHEN e.accepted > 0 THEN 'accepted'
        WHEN e.partial > 0 THEN 'partial'
        WHEN e.unknown > 0 OR e.intents > e.failed + e.denied THEN 'unknown'
        WHEN e.failed > 0 THEN 'failed'
        WHEN e.denied > 0 THEN 'denied'
        ELSE 'unknown'
    END
$$;

CREATE VIEW effect_state WITH (security_invoker) AS
SELECT e.*, said(e) AS outcome, coalesce(r.drift AND e.mode = 'live', false) AS drift, r.means
FROM effect AS e
LEFT JOIN drift_rule AS r ON r.outcome = said(e) AND r.verdict = e.verdict;

-- What became of every number that producers gave out: emitted = stored + gaps + missing. What is stored counts first.
CREATE VIEW completeness WITH (security_invoker) AS
WITH known AS (
    SELECT tenant, producer_id, task_id, coalesce(p.seqs, '{}') AS seqs, coalesce(c.gaps, '{}') AS gaps,
           greatest(upper(p.seqs), upper(c.gaps), c.last_seq + 1, 0) AS emitted, greatest(p.last_at, c.said_at) AS last_at
    FROM producer AS p FULL JOIN producer_claim AS c USING (tenant, producer_id, task_id)
), split AS (
    SELECT *, gaps - seqs AS given_up, int8multirange(int8range(0, emitted)) - seqs - gaps AS missing FROM known
)
SELECT tenant, producer_id, task_id, emitted, last_at,
       (SELECT coalesce(sum(upper(r) - lower(r)), 0) FROM unnest(seqs) AS r)::bigint AS stored,
       given_up, (SELECT coalesce(sum(upper(r) - lower(r)), 0) FROM unnest(given_up) AS r)::bigint AS given_up_count,
       missing, (SELECT coalesce(sum(upper(r) - lower(r)), 0) FROM unnest(missing) AS r)::bigint AS missing_count,
       coalesce(upper(missing) > upper(seqs) OR (missing <> '{}' AND seqs = '{}'), false) AS is_tail_missing
FROM split;

-- Everything that does not match, from both sides.
CREATE VIEW drift WITH (security_invoker) AS
SELECT s.tenant, s.target, s.task_id, s.effect_id, s.tool, s.agent, s.workflow, s.outcome, s.verdict, s.means,
       s.verdict_reason AS reason, s.verdict_at AS found_at, s.evidence, s.given_up > 0 AS given_up, s.args,
       (SELECT string_agg(r.resource || ' ' || r.key, ', ' ORDER BY r.resource, r.key)
        FROM effect_resource AS r WHERE r.tenant = s.tenant AND r.effect_id = s.effect_id) AS resources
FROM effect_state AS s
WHERE s.drift
UNION ALL
SELECT c.tenant, c.target, NULL, NULL, NULL, NULL, NULL, NULL, c.verdict, 'nobody said they would', c.reason,
       c.found_at, c.evidence, false, NULL, c.resource || ' ' || c.key
FROM target_change AS c;

-- ---------------------------------------------------------------------------------------------------
-- Who may do what. Nobody may DELETE or TRUNCATE.

CREATE FUNCTION current_tenant() RETURNS text
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = counterfoil, pg_temp AS $$
    SELECT tenant FROM counterfoil.tenant WHERE login_role = session_user
$$;

-- For profiles where a tenant needs no registration (a laptop).
CREATE FUNCTION admit_tenants(names text[]) RETURNS int
LANGUAGE sql SECURITY DEFINER SET search_path = counterfoil, pg_temp AS $$
    WITH admitted AS (
        INSERT INTO counterfoil.tenant (tenant) SELECT unnest(names) ON CONFLICT DO NOTHING RETURNING 1)
    SELECT count(*)::int FROM admitted
$$;

-- Skip what the log no longer has: the offset moves, under a new epoch, and what is lost is on record. Returns how many
-- offsets that are; none where the offset stands already as far, or was never stored.
CREATE FUNCTION skip_offsets(
    of_consumer text, of_cluster text, of_topic text, of_partition int, to_offset bigint, why text, who text) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = counterfoil, pg_temp AS $$
DECLARE
    stood bigint;
BEGIN
    SELECT next_offset INTO stood FROM ingest_offset
    WHERE consumer = of_consumer AND cluster_id = of_cluster AND topic_id = of_topic AND partition = of_partition
    FOR UPDATE;
    IF stood IS NULL OR stood >= to_offset THEN
        RETURN 0;
    END IF;
    UPDATE ingest_offset SET next_offset = to_offset, epoch = epoch + 1, owner = who, updated_at = now()
    WHERE consumer = of_consumer AND cluster_id = of_cluster AND topic_id = of_topic AND partition = of_partition;
    INSERT INTO log_gap (consumer, source_id, partition, first_offset, next_offset, reason, accepted_by)
    SELECT of_consumer, source_id, of_partition, stood, to_offset, why, who
    FROM log_source WHERE cluster_id = of_cluster AND topic_id = of_topic;
    RETURN to_offset - stood;
END
$$;

-- Let ingest go on with a topic that was made anew: what the old one still held is on record as lost. Returns the
-- number of partitions.
CREATE FUNCTION retire_topics(of_consumer text, of_cluster text, named text, but_topic text, why text, who text) RETURNS int
LANGUAGE sql SECURITY DEFINER SET search_path = counterfoil, pg_temp AS $$
    WITH retired AS (
        UPDATE ingest_offset SET retired_at = now(), epoch = epoch + 1, owner = who
        WHERE consumer = of_consumer AND cluster_id = of_cluster AND topic = named AND topic_id <> but_topic
          AND retired_at IS NULL
        RETURNING topic_id, partition, next_offset
    ), noted AS (
        INSERT INTO log_gap (consumer, source_id, partition, first_offset, reason, accepted_by)
        SELECT of_consumer, s.source_id, r.partition, r.next_offset, why, who
        FROM retired AS r JOIN log_source AS s ON s.cluster_id = of_cluster AND s.topic_id = r.topic_id
        RETURNING 1
    )
    SELECT count(*)::int FROM noted
$$;

REVOKE EXECUTE ON FUNCTION skip_offsets, retire_topics FROM PUBLIC;
GRANT EXECUTE ON FUNCTION skip_offsets, retire_topics TO counterfoil_operator;
REVOKE EXECUTE ON FUNCTION open_partitions, current_tenant, admit_tenants FROM PUBLIC;
GRANT EXECUTE ON FUNCTION open_partitions, admit_tenants TO counterfoil_ingester;
GRANT EXECUTE ON FUNCTION current_tenant TO counterfoil_auditor, counterfoil_operator, counterfoil_ingester, counterfoil_reconciler;

DO $$
DECLARE
    name text;
BEGIN
    FOREACH name IN ARRAY ARRAY['event', 'event_astray', 'effect', 'effect_resource', 'target_change', 'task', 'producer',
                                'producer_claim',
                                'duplicate', 'dead_letter', 'check_lease', 'check_state', 'target_baseline', 'tenant'] LOOP
        EXECUTE format('ALTER TABLE %I ENABLE ROW LEVEL SECURITY', name);
        EXECUTE format('ALTER TABLE %I FORCE ROW LEVEL SECURITY', name);
        EXECUTE format('CREATE POLICY services ON %I TO counterfoil_ingester, counterfoil_reconciler, counterfoil_operator
                        USING (true) WITH CHECK (true)', name);
        EXECUTE format('CREATE POLICY own_rows ON %I FOR SELECT TO counterfoil_auditor
                        USING (tenant = (SELECT counterfoil.current_tenant()))', name);
    END LOOP;
END
$$;
CREATE POLICY owner_rows ON tenant TO counterfoil_owner USING (true) WITH CHECK (true);

GRANT SELECT ON event, event_astray, effect, effect_resource, target_change, task, producer, producer_claim, duplicate,
    dead_letter, tenant, drift_rule, effect_state, drift, completeness TO counterfoil_auditor, counterfoil_operator;
GRANT SELECT ON ingest_offset, log_source, log_gap, outbox, check_lease, check_state, target_baseline TO counterfoil_operator;
GRANT INSERT, UPDATE ON tenant TO counterfoil_operator;

GRANT INSERT ON event_astray_all TO counterfoil_ingester; -- open_partitions grants the leaves of event
GRANT SELECT (tenant, event_id, retention_class, value_sha256, source_id, partition, "offset")
    ON event, event_astray TO counterfoil_ingester;
GRANT SELECT, INSERT, UPDATE ON effect, effect_resource, target_change, task, producer, producer_claim, duplicate, ingest_offset, outbox
    TO counterfoil_ingester;
GRANT SELECT, INSERT ON dead_letter, log_source, log_gap TO counterfoil_ingester;
GRANT SELECT ON tenant TO counterfoil_ingester;

GRANT SELECT ON event, effect, effect_resource, target_change, task, producer, tenant, ingest_offset, log_source,
    drift_rule, effect_state, drift TO counterfoil_reconciler;
GRANT SELECT, INSERT, UPDATE ON check_lease, check_state, target_baseline, outbox, dead_letter TO counterfoil_reconciler;
