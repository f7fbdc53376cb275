-- Records: what is not in the log, and backed up; and what records and projections share.

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
    last_sha256 bytea, -- of the value of the record before it, NULL where none is known: a restored log may hold another
    epoch       bigint NOT NULL CHECK (epoch > 0),
    owner       text NOT NULL,
    waiting     bigint NOT NULL DEFAULT 0, -- records that its owner still had before it when it was moved, of all its partitions
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

-- What one does at a time, by a lock on its row. Not an advisory lock: any login may hold those, a tenant's, too.
CREATE TABLE turn (name text PRIMARY KEY);
INSERT INTO turn VALUES ('relay'), ('open_partitions'), ('retention'), ('tenant_key'), ('texts');

-- Who may judge one tenant's effects on one target now, and what stood in the way the last time.
CREATE TABLE check_lease (
    tenant     text NOT NULL,
    target     text NOT NULL,
    owner      text NOT NULL,
    epoch      bigint NOT NULL DEFAULT 0,
    check_seq  bigint NOT NULL DEFAULT 0,
    held_until timestamptz NOT NULL DEFAULT 'epoch',
    checked_at timestamptz NOT NULL DEFAULT 'epoch', -- when it was last taken: whoever waits longest is next
    swept_at   timestamptz,        -- when changes were last looked for
    fully_swept_at timestamptz,    -- when all rows were last listed for that
    full_sweep_seconds float8 NOT NULL DEFAULT 0, -- how long that took
    saw_all_at     timestamptz,    -- when that was last done in a way that nothing can have escaped, rows that are gone included
    saw_all_before timestamptz,    -- and the time before
    baseline_fence bigint[],       -- end offsets by partition, read after the first baseline was
    failures   int NOT NULL DEFAULT 0, -- how often in a row the target gave no answer
    trouble    text,               -- why, and since when; NULL: it answered
    troubled_since timestamptz,
    retry_at   timestamptz NOT NULL DEFAULT 'epoch', -- not before
    PRIMARY KEY (tenant, target)
);

-- By what a tenant's agents and programs are let in over HTTP. Of the secret, 256 random bits, its SHA-256 is enough: there is
-- nothing to guess, so nothing that a slow hash would make dearer.
CREATE TABLE token (
    token_id      text PRIMARY KEY CHECK (token_id ~ '^[0-9a-f]{16}$'),
    tenant        text NOT NULL REFERENCES tenant,
    secret_sha256 bytea NOT NULL CHECK (length(secret_sha256) = 32),
    role          text NOT NULL DEFAULT 'agent' CHECK (role = 'agent'),
    created_at    timestamptz NOT NULL DEFAULT now(),
    created_by    text NOT NULL,
    expires_at    timestamptz NOT NULL,
    revoked_at    timestamptz,
    last_used_at  timestamptz -- to the hour
);
CREATE INDEX token_of ON token (tenant);

-- How many looks a target has left, where its contract has it asked so many times a second at most.
CREATE TABLE look_budget (
    target      text PRIMARY KEY,
    looks       float8 NOT NULL,
    refilled_at timestamptz NOT NULL
);

-- How far the checking of one effect has come. Ingest opens it with each intent or result that it stores, the reconciler closes
-- it. A verdict settles by sightings that agree; `fence` holds the end offsets by partition, read after the first of them.
CREATE TABLE check_state (
    tenant           text NOT NULL,
    effect_id        uuid NOT NULL,
    target           text NOT NULL,
    told             int NOT NULL DEFAULT 1, -- grows with every batch that brought an intent or a result
    told_at          timestamptz NOT NULL DEFAULT now(),
    is_urgent        boolean NOT NULL,       -- nobody knows what became of it, so somebody waits
    due_at           timestamptz NOT NULL DEFAULT now(),
    looked_seq       bigint NOT NULL DEFAULT 0, -- check_seq of the last look
    marks            bigint[],   -- hashes of what it touches, while it is open; NULL: nobody has looked since it was told
    sightings        int NOT NULL DEFAULT 0,
    verdict          text,
    sighting_digest  bytea,
    fence            bigint[],
    first_sighted_at timestamptz,
    emitted          text,        -- the last verdict put into the outbox
    settled_at       timestamptz,
    closed_at        timestamptz,
    absent_fence     bigint[],   -- its attempts before these offsets are known not to have landed
    PRIMARY KEY (tenant, effect_id)
);
-- However many are closed, these hold the open ones alone.
CREATE INDEX check_state_due ON check_state (tenant, target, is_urgent, due_at) WHERE closed_at IS NULL;
CREATE INDEX check_state_unmarked ON check_state (tenant, target) WHERE closed_at IS NULL AND marks IS NULL;
-- Without a list of what is yet to be sorted in: it would be read for each mark that is looked for.
CREATE INDEX check_state_marks ON check_state USING gin (marks) WITH (fastupdate = off) WHERE marks IS NOT NULL;

-- The last state of each resource known to be right, and an unexplained one that waits for its second sighting.
-- Intents at or past `fence` were durable after this was read, so their writes came later.
CREATE TABLE target_baseline (
    tenant           text NOT NULL,
    target           text NOT NULL,
    resource         text NOT NULL,
    key              text NOT NULL,
    doc              json,             -- NULL: it did not exist
    problem          text,             -- why it could not be compared
    digest           bytea,            -- SHA-256 of the two; NULL: it did not exist
    fence            bigint[] NOT NULL,
    read_at          timestamptz NOT NULL,
    candidate_digest bytea,            -- of an unexplained state that waits to settle
    candidate_fence  bigint[],
    candidate_at     timestamptz,
    PRIMARY KEY (tenant, target, resource, key)
);
CREATE INDEX target_baseline_candidate ON target_baseline (tenant, target) WHERE candidate_digest IS NOT NULL;

-- Where the newest change of a resource stood at past sweeps, if its contract says how that is told, the oldest first.
CREATE TABLE sweep_position (
    tenant   text NOT NULL,
    target   text NOT NULL,
    resource text NOT NULL,
    way      text NOT NULL,          -- how the contract said it then: under another way these mean nothing
    places   text[] NOT NULL,        -- in words of the target's own; NULL: there was no change yet
    read_ats timestamptz[] NOT NULL, -- after each was read, and before the rows were
    PRIMARY KEY (tenant, target, resource),
    CHECK (cardinality(places) = cardinality(read_ats))
);

-- ---------------------------------------------------------------------------------------------------
-- What both share.

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

-- The planner's estimates, which EXPLAIN shows, are made from the values of all tenants: without statistics of columns they
-- say nothing of another's. For a table and its partitions.
CREATE PROCEDURE keep_no_statistics(relation regclass) LANGUAGE plpgsql AS $$
DECLARE
    part regclass;
    changes text;
BEGIN
    FOR part, changes IN
        SELECT attrelid, string_agg(format('ALTER COLUMN %I SET STATISTICS 0', attname), ', ')
        FROM pg_attribute
        WHERE (attrelid = relation OR attrelid IN (SELECT relid FROM pg_partition_tree(relation)))
          AND attnum > 0 AND NOT attisdropped
        GROUP BY attrelid
    LOOP
        EXECUTE format('ALTER TABLE %s %s', part, changes);
    END LOOP;
END
$$;

-- Makes the monthly partitions of a class that has a policy, from `months_back` before to `months_ahead` after this month, in
-- the schema of the projections or in that of a rebuild; a month that was dropped, or is past its time, is not made again.
-- Each is made by itself and then attached, which waits for no reader and lets none wait.
CREATE FUNCTION open_partitions(class text, months_back int, months_ahead int, of_schema text DEFAULT 'counterfoil')
RETURNS int
LANGUAGE plpgsql SECURITY DEFINER SET search_path = counterfoil, pg_temp SET timezone = 'UTC' AS $$
DECLARE
    parent text := 'event_' || class;
    month timestamptz;
    leaf text;
    made int := 0;
BEGIN
    IF of_schema NOT IN ('counterfoil', 'counterfoil_rebuild') THEN
        RAISE invalid_parameter_value USING MESSAGE = format('no partition is made in the schema %s', of_schema);
    ELSIF NOT EXISTS (SELECT FROM retention_policy AS p WHERE p.retention_class = class) THEN
        RAISE invalid_parameter_value USING MESSAGE = format('the retention class %s has no policy', class);
    END IF;
    PERFORM FROM turn WHERE name = 'open_partitions' FOR UPDATE;
    IF to_regclass(format('%I.%I', of_schema, parent)) IS NULL THEN
        EXECUTE format('CREATE TABLE %1$I.%2$I (LIKE %1$I.event INCLUDING ALL) PARTITION BY RANGE (event_id)',
            of_schema, parent);
        EXECUTE format('ALTER TABLE %1$I.event ATTACH PARTITION %1$I.%2$I FOR VALUES IN (%3$L)', of_schema, parent, class);
        CALL keep_no_statistics(format('%I.%I', of_schema, parent)::regclass);
    END IF;
    FOR month IN
        SELECT m FROM generate_series(
            date_trunc('month', now()) - make_interval(months => months_back),
            date_trunc('month', now()) + make_interval(months => months_ahead),
            interval '1 month') AS m
        WHERE m + interval '1 month' > coalesce(
            (SELECT r.kept_since FROM retention_rule AS r WHERE r.retention_class = class), '-infinity')
    LOOP
        leaf := format('%s_%s', parent, to_char(month, 'YYYY_MM'));
        CONTINUE WHEN to_regclass(format('%I.%I', of_schema, leaf)) IS NOT NULL;
        CONTINUE WHEN EXISTS ( -- asked after that, for it may be dropped meanwhile
            SELECT FROM retention_drop AS d WHERE d.retention_class = class AND d.first_id = first_id(month));
        EXECUTE format('CREATE TABLE %1$I.%2$I (LIKE %1$I.event INCLUDING ALL)', of_schema, leaf);
        EXECUTE format('ALTER TABLE %1$I.%2$I ATTACH PARTITION %1$I.%3$I FOR VALUES FROM (%4$L) TO (%5$L)',
            of_schema, parent, leaf, first_id(month), first_id(month + interval '1 month'));
        CALL keep_no_statistics(format('%I.%I', of_schema, leaf)::regclass);
        EXECUTE format('GRANT INSERT ON %I.%I TO counterfoil_ingester', of_schema, leaf);
        made := made + 1;
    END LOOP;
    RETURN made;
END
$$;

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
    UPDATE ingest_offset SET next_offset = to_offset, last_sha256 = NULL, epoch = epoch + 1, owner = who, updated_at = now()
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

-- Closes a table that names a tenant: a tenant's own login sees its rows, services see all of them.
CREATE PROCEDURE close_to_others(relation regclass) LANGUAGE plpgsql AS $$
BEGIN
    EXECUTE format('ALTER TABLE %s ENABLE ROW LEVEL SECURITY', relation);
    EXECUTE format('ALTER TABLE %s FORCE ROW LEVEL SECURITY', relation);
    EXECUTE format('CREATE POLICY services ON %s TO counterfoil_ingester, counterfoil_reconciler, counterfoil_operator
                    USING (true) WITH CHECK (true)', relation);
    EXECUTE format('CREATE POLICY own_rows ON %s FOR SELECT TO counterfoil_auditor
                    USING (tenant = (SELECT counterfoil.current_tenant()))', relation);
    CALL counterfoil.keep_no_statistics(relation);
END
$$;
CALL close_to_others('tenant');
CALL close_to_others('dead_letter');
CALL close_to_others('token');
CALL close_to_others('check_lease');
CALL close_to_others('check_state');
CALL close_to_others('target_baseline');
CALL close_to_others('sweep_position');
CREATE POLICY owner_rows ON tenant TO counterfoil_owner USING (true) WITH CHECK (true);

-- ---------------------------------------------------------------------------------------------------
-- Who may do what. Nobody may DELETE or TRUNCATE.

REVOKE EXECUTE ON FUNCTION skip_offsets, retire_topics, open_partitions, current_tenant, admit_tenants FROM PUBLIC;
REVOKE EXECUTE ON PROCEDURE close_to_others, keep_no_statistics FROM PUBLIC;
GRANT EXECUTE ON FUNCTION skip_offsets, retire_topics TO counterfoil_operator;
GRANT EXECUTE ON FUNCTION open_partitions, admit_tenants TO counterfoil_ingester;
GRANT EXECUTE ON FUNCTION current_tenant TO counterfoil_auditor, counterfoil_operator, counterfoil_ingester, counterfoil_reconciler;

GRANT SELECT ON dead_letter, tenant TO counterfoil_auditor, counterfoil_operator;
GRANT SELECT ON ingest_offset, log_source, log_gap, outbox, check_lease, look_budget, check_state, target_baseline, sweep_position
    TO counterfoil_operator;
GRANT INSERT, UPDATE ON tenant TO counterfoil_operator;
GRANT SELECT, INSERT (token_id, tenant, secret_sha256, created_by, expires_at), UPDATE (revoked_at, last_used_at) ON token
    TO counterfoil_operator;

GRANT SELECT, INSERT, UPDATE ON ingest_offset, outbox TO counterfoil_ingester;
GRANT SELECT, INSERT ON dead_letter, log_source, log_gap TO counterfoil_ingester;
GRANT SELECT ON tenant TO counterfoil_ingester;
GRANT SELECT, UPDATE ON turn TO counterfoil_ingester, counterfoil_reconciler;

GRANT SELECT ON tenant, ingest_offset, log_source TO counterfoil_reconciler;
GRANT SELECT, INSERT, UPDATE ON check_lease, look_budget, check_state, target_baseline, sweep_position, outbox, dead_letter
    TO counterfoil_reconciler;
GRANT SELECT, INSERT, UPDATE ON check_state TO counterfoil_ingester;
