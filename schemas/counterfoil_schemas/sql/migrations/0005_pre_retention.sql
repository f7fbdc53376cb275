-- How long events stay, and what keeps them longer: policies, holds, and what is left of an event that is gone.

-- Only ever added to: the last row of a class is in force. A class without one has no partition, so its events go astray.
CREATE TABLE counterfoil.retention_policy (
    policy_id       bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    retention_class text NOT NULL CHECK (
        retention_class ~ '^[a-z][a-z0-9_-]{0,39}$' -- it names partitions, and no two classes may name the same one
        AND retention_class !~ '(^(astray|held|hash|leaves)(_|$))|(_[0-9]{4}_[0-9]{2}$)'),
    keep_months     int CHECK (keep_months BETWEEN 1 AND 1200), -- NULL: for ever
    is_short        boolean NOT NULL DEFAULT false,  -- somebody said that less than six months is meant
    reason          text NOT NULL CHECK (reason <> ''),
    changed_by      text NOT NULL CHECK (changed_by <> ''),
    changed_at      timestamptz NOT NULL DEFAULT now(),
    CHECK (keep_months IS NULL OR keep_months >= 6 OR is_short)
);
CREATE INDEX retention_policy_class ON counterfoil.retention_policy (retention_class, policy_id);
INSERT INTO counterfoil.retention_policy (retention_class, keep_months, reason, changed_by)
VALUES ('standard', NULL, 'nobody has decided yet, and what is dropped does not come back', 'counterfoil');

-- What is in force. An event is past its time once the broker took it before `kept_since`.
CREATE VIEW counterfoil.retention_rule WITH (security_invoker) AS
SELECT DISTINCT ON (retention_class) retention_class, keep_months, reason, changed_by, changed_at,
       now() - make_interval(months => keep_months) AS kept_since
FROM counterfoil.retention_policy ORDER BY retention_class, policy_id DESC;

-- Events that must stay until the hold is released: all that have what it names. Its time is [from_at, until_at).
CREATE TABLE counterfoil.hold (
    tenant         text NOT NULL,
    hold_id        bigint GENERATED ALWAYS AS IDENTITY,
    workflow       text,
    agent          text,
    task_id        uuid,
    subject_ref    text,
    from_at        timestamptz,
    until_at       timestamptz CHECK (until_at > from_at),
    reason         text NOT NULL CHECK (reason <> ''),
    placed_by      text NOT NULL CHECK (placed_by <> ''),
    placed_at      timestamptz NOT NULL DEFAULT now(),
    released_by    text,
    released_at    timestamptz,
    release_reason text CHECK (release_reason <> ''),
    PRIMARY KEY (tenant, hold_id),
    CHECK (num_nulls(released_by, released_at, release_reason) IN (0, 3))
);

-- Events under hold whose partition is gone: as they stood there, and the holds that covered them then.
CREATE TABLE counterfoil.event_held (
    hold_ids bigint[] NOT NULL,
    held_at  timestamptz NOT NULL DEFAULT now(),
    LIKE counterfoil.event INCLUDING DEFAULTS,
    PRIMARY KEY (tenant, event_id, retention_class)
);
CREATE INDEX event_held_task ON counterfoil.event_held (tenant, task_id);

-- What outlives an event: what it was, where it stood in the log, and the digest of its bytes.
CREATE TABLE counterfoil.event_hash (
    tenant          text NOT NULL,
    event_id        uuid NOT NULL,
    retention_class text NOT NULL,
    value_sha256    bytea NOT NULL,
    source_id       smallint NOT NULL,
    partition       int NOT NULL,
    "offset"        bigint NOT NULL,
    occurred_at     timestamptz NOT NULL,
    appended_at     timestamptz NOT NULL,
    may_return      boolean NOT NULL DEFAULT false, -- it was astray, and its id lies in a leaf or will
    PRIMARY KEY (tenant, event_id, retention_class)
);
CREATE INDEX event_hash_may_return ON counterfoil.event_hash (event_id) WHERE may_return;

-- Tasks of which events are gone: what was folded of them can't be folded again.
CREATE TABLE counterfoil.task_cut (
    tenant  text NOT NULL,
    task_id uuid NOT NULL,
    PRIMARY KEY (tenant, task_id)
);

-- What was dropped, when, by whom and under which policy.
CREATE TABLE counterfoil.retention_drop (
    drop_id         bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    relation        text NOT NULL, -- the leaf, or event_astray, or event_held
    retention_class text NOT NULL,
    first_id        uuid,          -- of a leaf: the ids that it held, [first_id, next_id)
    next_id         uuid,
    events          bigint NOT NULL,
    held            bigint NOT NULL, -- of them, copied to event_held
    keep_months     int NOT NULL,
    dropped_by      text NOT NULL,
    dropped_at      timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX retention_drop_leaf ON counterfoil.retention_drop (retention_class, first_id);

-- ---------------------------------------------------------------------------------------------------
-- What is where.

-- The moment in an id: the reverse of first_id.
CREATE FUNCTION counterfoil.id_time(id uuid) RETURNS timestamptz LANGUAGE sql IMMUTABLE STRICT AS $$
    SELECT to_timestamp(('x' || left(replace(id::text, '-', ''), 12))::bit(48)::bigint / 1000.0)
$$;

-- The leaves of `event` and the ids that each holds, [first_id, next_id), as Postgres itself knows them.
CREATE FUNCTION counterfoil.event_leaves(of_schema text DEFAULT 'counterfoil')
RETURNS TABLE (retention_class text, leaf text, first_id uuid, next_id uuid) LANGUAGE sql STABLE AS $$
    SELECT (regexp_match(pg_get_expr(p.relpartbound, p.oid), '^FOR VALUES IN \(''(.*)''\)$'))[1], c.relname::text,
           bounds[1]::uuid, bounds[2]::uuid
    FROM pg_class AS e
    JOIN pg_inherits AS of_class ON of_class.inhparent = e.oid JOIN pg_class AS p ON p.oid = of_class.inhrelid
    JOIN pg_inherits AS of_month ON of_month.inhparent = p.oid JOIN pg_class AS c ON c.oid = of_month.inhrelid
    CROSS JOIN regexp_match(pg_get_expr(c.relpartbound, c.oid), '^FOR VALUES FROM \(''(.*)''\) TO \(''(.*)''\)$') AS bounds
    WHERE e.relname = 'event' AND e.relnamespace = to_regnamespace(of_schema)
      AND bounds IS NOT NULL -- they are of a leaf that was dropped since this statement began
    ORDER BY 1, 3 DESC
$$;

-- Whether an active hold covers an event. Its time is both clocks' and all between them: rather one too many.
CREATE FUNCTION counterfoil.covers(
    h counterfoil.hold, tenant text, workflow text, agent text, task_id uuid, subject_ref text, occurred_at timestamptz,
    appended_at timestamptz) RETURNS boolean LANGUAGE sql IMMUTABLE AS $$
    SELECT h.released_at IS NULL AND h.tenant = covers.tenant
       AND (h.workflow IS NULL OR h.workflow = covers.workflow)
       AND (h.agent IS NULL OR h.agent = covers.agent)
       AND (h.task_id IS NULL OR h.task_id = covers.task_id)
       AND (h.subject_ref IS NULL OR h.subject_ref = covers.subject_ref)
       AND (h.from_at IS NULL OR greatest(covers.occurred_at, covers.appended_at) >= h.from_at)
       AND (h.until_at IS NULL OR least(covers.occurred_at, covers.appended_at) < h.until_at)
$$;

-- Why an event is astray, as far as that can be told later.
CREATE FUNCTION counterfoil.astray_reason(of_class text, id uuid, appended_at timestamptz) RETURNS text
LANGUAGE sql STABLE AS $$
    SELECT CASE
        WHEN NOT EXISTS (SELECT FROM counterfoil.event_leaves() AS l WHERE l.retention_class = of_class) THEN 'no such class'
        WHEN counterfoil.id_time(id) > appended_at + interval '1 month' THEN 'ahead of the window'
        WHEN EXISTS (SELECT FROM counterfoil.event_leaves() AS l
                     WHERE l.retention_class = of_class AND id >= l.first_id) THEN 'no such class' -- it has come since
        ELSE 'below the floor'
    END
$$;

-- How many events are astray, by class and reason, and how many are held.
CREATE FUNCTION counterfoil.count_set_apart() RETURNS TABLE (relation text, retention_class text, reason text, events bigint)
LANGUAGE sql SECURITY DEFINER SET search_path = counterfoil, pg_temp AS $$
    SELECT 'event_astray', a.retention_class, a.reason, count(*)
    FROM (SELECT e.retention_class, astray_reason(e.retention_class, e.event_id, e.appended_at) AS reason
          FROM event_astray_all AS e) AS a
    GROUP BY 2, 3
    UNION ALL
    SELECT 'event_held', e.retention_class, NULL, count(*) FROM event_held AS e GROUP BY 2
    ORDER BY 1, 2, 3
$$;

-- ---------------------------------------------------------------------------------------------------
-- What drops. One run at a time; a policy or a hold that is written meanwhile waits, and comes after.

-- Whether this run is the only one. What follows must see what others commit while it waits.
CREATE FUNCTION counterfoil.drops_alone() RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN
    IF current_setting('transaction_isolation') <> 'read committed' THEN
        RAISE invalid_transaction_state USING MESSAGE = 'events are dropped in READ COMMITTED alone: call it so';
    END IF;
    PERFORM FROM counterfoil.turn WHERE name = 'retention' FOR UPDATE SKIP LOCKED;
    RETURN FOUND;
END
$$;

-- Copies what a hold covers of the events of `leaf` that were appended up to `until`, and returns how many that are.
CREATE FUNCTION counterfoil.hold_events(leaf regclass, kept_since timestamptz, of_class text, is_rehearsal boolean)
RETURNS bigint LANGUAGE plpgsql SET search_path = counterfoil, pg_temp AS $$
DECLARE
    covered text := format('FROM %s AS e CROSS JOIN LATERAL (
        SELECT array_agg(h.hold_id ORDER BY h.hold_id) AS ids FROM hold AS h
        WHERE covers(h, e.tenant, e.workflow, e.agent, e.task_id, e.subject_ref, e.occurred_at, e.appended_at)) AS by
        WHERE by.ids IS NOT NULL AND e.retention_class = $1 AND e.appended_at <= $2', leaf);
    held bigint;
BEGIN
    IF NOT EXISTS (SELECT FROM hold WHERE released_at IS NULL) THEN
        RETURN 0;
    ELSIF is_rehearsal THEN
        EXECUTE 'SELECT count(*) ' || covered INTO held USING of_class, kept_since;
    ELSE
        EXECUTE 'INSERT INTO event_held SELECT by.ids, now(), e.* ' || covered || ' ON CONFLICT DO NOTHING'
            USING of_class, kept_since;
        GET DIAGNOSTICS held = ROW_COUNT;
    END IF;
    RETURN held;
END
$$;

-- Drops a leaf if all of it is past its time; its hashes and what is held stay. In one transaction, so that whoever dies on
-- the way has done nothing. Nobody waits longer than lock_timeout for a lock that this asks for.
CREATE FUNCTION counterfoil.drop_leaf(of_leaf text, who text, is_rehearsal boolean)
RETURNS TABLE (outcome text, events bigint, held bigint)
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = counterfoil, pg_temp SET timezone = 'UTC' SET lock_timeout = '200ms' AS $$
DECLARE
    this record;
    rule record;
    newest timestamptz;
    tries_left int := 5;
BEGIN
    events := 0; held := 0; outcome := 'another run is at work';
    IF NOT drops_alone() THEN RETURN NEXT; RETURN; END IF;
    SELECT *, 'event_' || l.retention_class AS parent INTO this FROM event_leaves() AS l WHERE l.leaf = of_leaf;
    SELECT * INTO rule FROM retention_rule AS r WHERE r.retention_class = this.retention_class;
    outcome := 'kept';
    IF rule.kept_since IS NULL OR id_time(this.next_id) > rule.kept_since THEN RETURN NEXT; RETURN; END IF;

    EXECUTE format('LOCK TABLE %I IN SHARE MODE', of_leaf); -- what comes for it now waits, and then finds it gone
    EXECUTE format('SELECT count(*), max(appended_at) FROM %I', of_leaf) INTO events, newest;
    outcome := 'kept: some of it came later';
    IF newest > rule.kept_since THEN RETURN NEXT; RETURN; END IF;
    IF NOT is_rehearsal THEN
        EXECUTE format('INSERT INTO event_hash (tenant, event_id, retention_class, value_sha256, source_id, partition, "offset",
                occurred_at, appended_at)
            SELECT tenant, event_id, retention_class, value_sha256, source_id, partition, "offset", occurred_at, appended_at
            FROM %I ON CONFLICT DO NOTHING', of_leaf);
        EXECUTE format('INSERT INTO task_cut SELECT DISTINCT tenant, task_id FROM %I ON CONFLICT DO NOTHING', of_leaf);
        LOCK TABLE hold, retention_policy IN SHARE MODE; -- late, for people wait for it
    END IF;
    PERFORM FROM retention_rule AS r WHERE r.retention_class = this.retention_class AND r.kept_since >= rule.kept_since;
    IF NOT FOUND THEN
        RAISE lock_not_available USING MESSAGE = 'its policy changed meanwhile';
    END IF;
    held := hold_events(quote_ident(of_leaf)::regclass, rule.kept_since, this.retention_class, is_rehearsal);
    outcome := 'would be dropped';
    IF is_rehearsal THEN RETURN NEXT; RETURN; END IF;

    PERFORM FROM turn WHERE name = 'texts' FOR UPDATE;
    EXECUTE format('DELETE FROM event_text AS t USING %I AS e
        WHERE t.tenant = e.tenant AND t.event_id = e.event_id AND NOT EXISTS (
            SELECT FROM event_held AS h WHERE h.tenant = e.tenant AND h.event_id = e.event_id)', of_leaf);

    LOOP -- what was copied stays; readers of the class go first
        BEGIN
            EXECUTE format('LOCK TABLE ONLY %I, %I IN ACCESS EXCLUSIVE MODE', this.parent, of_leaf);
            EXIT;
        EXCEPTION WHEN lock_not_available THEN
            tries_left := tries_left - 1;
            IF tries_left = 0 THEN RAISE; END IF;
        END;
        PERFORM pg_sleep(0.5);
    END LOOP;
    EXECUTE format('ALTER TABLE %I DETACH PARTITION %I', this.parent, of_leaf);
    EXECUTE format('DROP TABLE %I', of_leaf);
    UPDATE event_hash AS h SET may_return = false
    WHERE h.may_return AND h.retention_class = this.retention_class
      AND h.event_id < (
        SELECT l.first_id FROM event_leaves() AS l WHERE l.retention_class = this.retention_class ORDER BY 1 LIMIT 1);
    INSERT INTO retention_drop (relation, retention_class, first_id, next_id, events, held, keep_months, dropped_by)
    VALUES (of_leaf, this.retention_class, this.first_id, this.next_id, drop_leaf.events, drop_leaf.held, rule.keep_months, who);
    outcome := 'dropped';
    RETURN NEXT;
END
$$;

-- Takes out of event_astray what is past its time, the oldest 10,000 of a class; hashes and what is held stay. An id says
-- nothing there, so the broker's clock alone decides.
CREATE FUNCTION counterfoil.drop_astray(of_class text, who text, is_rehearsal boolean)
RETURNS TABLE (outcome text, events bigint, held bigint)
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = counterfoil, pg_temp SET timezone = 'UTC' SET lock_timeout = '200ms' AS $$
DECLARE
    rule record;
    cutoff timestamptz;
    floor uuid := (SELECT l.first_id FROM event_leaves() AS l WHERE l.retention_class = of_class ORDER BY 1 LIMIT 1);
BEGIN
    events := 0; held := 0; outcome := 'another run is at work';
    IF NOT drops_alone() THEN RETURN NEXT; RETURN; END IF;
    IF NOT is_rehearsal THEN
        LOCK TABLE hold, retention_policy, event_astray_all IN SHARE MODE;
    END IF;
    SELECT * INTO rule FROM retention_rule AS r WHERE r.retention_class = of_class;
    SELECT count(*), max(o.appended_at) INTO events, cutoff
    FROM (SELECT e.appended_at FROM event_astray_all AS e
          WHERE e.retention_class = of_class AND e.appended_at <= rule.kept_since
          ORDER BY e.appended_at LIMIT CASE WHEN NOT is_rehearsal THEN 10000 END) AS o;
    outcome := 'kept';
    IF events = 0 THEN RETURN NEXT; RETURN; END IF;
    held := hold_events('event_astray_all', cutoff, of_class, is_rehearsal);
    outcome := 'would be dropped';
    IF is_rehearsal THEN RETURN NEXT; RETURN; END IF;
    INSERT INTO event_hash (tenant, event_id, retention_class, value_sha256, source_id, partition, "offset", occurred_at,
        appended_at, may_return)
    SELECT e.tenant, e.event_id, e.retention_class, e.value_sha256, e.source_id, e.partition, e."offset", e.occurred_at,
           e.appended_at, e.event_id >= coalesce(floor, '00000000-0000-0000-0000-000000000000')
    FROM event_astray_all AS e WHERE e.retention_class = of_class AND e.appended_at <= cutoff
    ON CONFLICT DO NOTHING;
    INSERT INTO task_cut SELECT DISTINCT e.tenant, e.task_id
    FROM event_astray_all AS e WHERE e.retention_class = of_class AND e.appended_at <= cutoff
    ON CONFLICT DO NOTHING;
    PERFORM FROM turn WHERE name = 'texts' FOR UPDATE;
    DELETE FROM event_text AS t USING event_astray_all AS e
    WHERE e.retention_class = of_class AND e.appended_at <= cutoff AND t.tenant = e.tenant AND t.event_id = e.event_id
      AND NOT EXISTS (SELECT FROM event_held AS h WHERE h.tenant = e.tenant AND h.event_id = e.event_id);
    DELETE FROM event_astray_all AS e WHERE e.retention_class = of_class AND e.appended_at <= cutoff;
    GET DIAGNOSTICS events = ROW_COUNT;
    INSERT INTO retention_drop (relation, retention_class, events, held, keep_months, dropped_by)
    VALUES ('event_astray', of_class, drop_astray.events, drop_astray.held, rule.keep_months, who);
    outcome := 'dropped';
    RETURN NEXT;
END
$$;

-- Takes out of event_held what no hold covers any more and is past its time; its hash stands since it was put there.
CREATE FUNCTION counterfoil.drop_released(of_class text, who text, is_rehearsal boolean)
RETURNS TABLE (outcome text, events bigint, held bigint)
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = counterfoil, pg_temp SET timezone = 'UTC' SET lock_timeout = '200ms' AS $$
DECLARE
    rule record;
BEGIN
    events := 0; held := 0; outcome := 'another run is at work';
    IF NOT drops_alone() THEN RETURN NEXT; RETURN; END IF;
    IF NOT is_rehearsal THEN LOCK TABLE hold, retention_policy IN SHARE MODE; END IF;
    SELECT * INTO rule FROM retention_rule AS r WHERE r.retention_class = of_class;
    SELECT count(*) INTO events FROM event_held AS e
    WHERE e.retention_class = of_class AND e.appended_at <= rule.kept_since AND NOT EXISTS (
        SELECT FROM hold AS h
        WHERE covers(h, e.tenant, e.workflow, e.agent, e.task_id, e.subject_ref, e.occurred_at, e.appended_at));
    outcome := CASE WHEN events = 0 THEN 'kept' WHEN is_rehearsal THEN 'would be dropped' ELSE 'dropped' END;
    IF outcome = 'dropped' THEN
        PERFORM FROM turn WHERE name = 'texts' FOR UPDATE;
        WITH gone AS (
            DELETE FROM event_held AS e
            WHERE e.retention_class = of_class AND e.appended_at <= rule.kept_since AND NOT EXISTS (
                SELECT FROM hold AS h
                WHERE covers(h, e.tenant, e.workflow, e.agent, e.task_id, e.subject_ref, e.occurred_at, e.appended_at))
            RETURNING e.tenant, e.event_id)
        DELETE FROM event_text AS t USING gone AS g WHERE t.tenant = g.tenant AND t.event_id = g.event_id;
        INSERT INTO retention_drop (relation, retention_class, events, held, keep_months, dropped_by)
        VALUES ('event_held', of_class, drop_released.events, 0, rule.keep_months, who);
    END IF;
    RETURN NEXT;
END
$$;

-- A hold is released once. Returns whether it was this time.
CREATE FUNCTION counterfoil.release_hold(of_hold bigint, why text, who text) RETURNS boolean
LANGUAGE sql SECURITY DEFINER SET search_path = counterfoil, pg_temp AS $$
    WITH released AS (
        UPDATE hold SET released_at = now(), released_by = who, release_reason = why
        WHERE hold_id = of_hold AND released_at IS NULL RETURNING 1)
    SELECT EXISTS (SELECT FROM released)
$$;

-- ---------------------------------------------------------------------------------------------------
-- Who may do what.

CALL counterfoil.close_to_others('counterfoil.hold');
CALL counterfoil.close_to_others('counterfoil.event_held');
CALL counterfoil.close_to_others('counterfoil.event_hash');
CALL counterfoil.close_to_others('counterfoil.task_cut');
CREATE POLICY owner_rows ON counterfoil.hold TO counterfoil_owner USING (true) WITH CHECK (true);
CREATE POLICY owner_rows ON counterfoil.event_held TO counterfoil_owner USING (true) WITH CHECK (true);
CREATE POLICY owner_rows ON counterfoil.event_hash TO counterfoil_owner USING (true) WITH CHECK (true);
CREATE POLICY owner_rows ON counterfoil.task_cut TO counterfoil_owner USING (true) WITH CHECK (true);

REVOKE EXECUTE ON FUNCTION counterfoil.count_set_apart, counterfoil.drops_alone, counterfoil.hold_events,
    counterfoil.drop_leaf, counterfoil.drop_astray, counterfoil.drop_released, counterfoil.release_hold FROM PUBLIC;
GRANT USAGE ON SCHEMA counterfoil TO counterfoil_eraser;
GRANT EXECUTE ON FUNCTION counterfoil.drop_leaf, counterfoil.drop_astray, counterfoil.drop_released,
    counterfoil.count_set_apart, counterfoil.open_partitions TO counterfoil_eraser;
GRANT EXECUTE ON FUNCTION counterfoil.count_set_apart, counterfoil.release_hold TO counterfoil_operator;

GRANT SELECT ON counterfoil.hold, counterfoil.event_held, counterfoil.event_hash, counterfoil.task_cut
    TO counterfoil_auditor, counterfoil_operator;
GRANT SELECT ON counterfoil.task_cut, counterfoil.retention_drop TO counterfoil_ingester;
GRANT SELECT ON counterfoil.retention_policy, counterfoil.retention_rule
    TO counterfoil_auditor, counterfoil_operator, counterfoil_eraser, counterfoil_ingester;
GRANT SELECT ON counterfoil.retention_drop TO counterfoil_operator, counterfoil_eraser; -- it counts all tenants' events
GRANT SELECT (tenant, event_id, retention_class, value_sha256, source_id, partition, "offset", may_return)
    ON counterfoil.event_hash TO counterfoil_ingester;
GRANT INSERT (retention_class, keep_months, is_short, reason, changed_by) ON counterfoil.retention_policy
    TO counterfoil_operator;
GRANT INSERT (tenant, workflow, agent, task_id, subject_ref, from_at, until_at, reason, placed_by) ON counterfoil.hold
    TO counterfoil_operator;
