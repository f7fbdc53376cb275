-- Projections: rebuildable from the log. A migration named projections… makes or changes them alone, and names no schema for
-- them: `counterfoil rebuild` applies it to another one.

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
CREATE INDEX event_unread ON event (tenant, event_id) WHERE unread;

CREATE TABLE event_standard PARTITION OF event FOR VALUES IN ('standard') PARTITION BY RANGE (event_id);

-- Ids outside the open window, or of a retention class that has no partition: kept, flagged. One partition holds them
-- all, so that the ingester can COPY into it as into those of event.
CREATE TABLE event_astray (LIKE event INCLUDING DEFAULTS, UNIQUE (tenant, event_id, retention_class))
    PARTITION BY RANGE (event_id);
CREATE INDEX event_astray_task ON event_astray (tenant, task_id);
CREATE TABLE event_astray_all PARTITION OF event_astray FOR VALUES FROM (MINVALUE) TO (MAXVALUE);

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

CREATE INDEX target_change_row ON target_change (tenant, target, resource, key);

-- What people decided on a verdict, of an effect or of a change. Nothing of it says anything of a later verdict, so a later
-- one is drift again. Keyed by the verdict, it may come before the verdict does.
CREATE TABLE verdict_operation (
    tenant            text NOT NULL,
    verdict_event_id  uuid NOT NULL,
    task_id           uuid NOT NULL,               -- max; operations on one verdict stand in its task
    acked_event_id    uuid,                        -- max over acknowledgements; the next three are of that one
    acked_at          timestamptz,
    acked_by          text,
    ack_reason        text,
    resolved_event_id uuid,                        -- max over resolutions; the next three are of that one
    resolved_at       timestamptz,
    resolved_by       text,
    resolve_reason    text,
    PRIMARY KEY (tenant, verdict_event_id)
);

-- Rows that people repaired by hand, one for each operation that says so. Never changed.
CREATE TABLE repair (
    tenant           text NOT NULL,
    target           text NOT NULL,
    resource         text NOT NULL,
    key              text NOT NULL,
    event_id         uuid NOT NULL,                -- the operation
    verdict_event_id uuid,                         -- the verdict that it is about, and its cause
    task_id          uuid NOT NULL,
    check_seq        bigint NOT NULL,              -- what checks up to this one found there is explained
    repaired_by      text NOT NULL,
    reason           text,
    partition        int NOT NULL,                 -- where the operation stands in the log
    "offset"         bigint NOT NULL,
    appended_at      timestamptz NOT NULL,         -- the broker's clock
    PRIMARY KEY (tenant, target, resource, key, event_id)
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

-- What a person has resolved is no drift any more.
CREATE VIEW effect_state WITH (security_invoker) AS
SELECT e.*, said(e) AS outcome, coalesce(r.drift AND e.mode = 'live' AND o.resolved_at IS NULL, false) AS drift, r.means,
       o.acked_at, o.acked_by, o.ack_reason, o.resolved_at, o.resolved_by, o.resolve_reason
FROM effect AS e
LEFT JOIN drift_rule AS r ON r.outcome = said(e) AND r.verdict = e.verdict
LEFT JOIN verdict_operation AS o ON o.tenant = e.tenant AND o.verdict_event_id = e.verdict_event_id;

-- Changes that no intent explains. A repair of the row explains those that checks found until it was said.
CREATE VIEW change_state WITH (security_invoker) AS
SELECT c.*, o.resolved_at IS NULL AND NOT p.is_explained AS drift, p.is_explained,
       o.acked_at, o.acked_by, o.ack_reason, o.resolved_at, o.resolved_by, o.resolve_reason
FROM target_change AS c
LEFT JOIN verdict_operation AS o ON o.tenant = c.tenant AND o.verdict_event_id = c.change_id
CROSS JOIN LATERAL (
    SELECT EXISTS (SELECT FROM repair AS r
                   WHERE r.tenant = c.tenant AND r.target = c.target AND r.resource = c.resource AND r.key = c.key
                     AND r.check_seq >= c.check_seq) AS is_explained) AS p;

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
        FROM effect_resource AS r WHERE r.tenant = s.tenant AND r.effect_id = s.effect_id) AS resources,
       s.effect_id AS drift_id, s.verdict_event_id, s.acked_at, s.acked_by, s.ack_reason
FROM effect_state AS s
WHERE s.drift
UNION ALL
SELECT c.tenant, c.target, NULL, NULL, NULL, NULL, NULL, NULL, c.verdict, 'nobody said they would', c.reason,
       c.found_at, c.evidence, false, NULL, c.resource || ' ' || c.key, c.change_id, c.change_id, c.acked_at, c.acked_by,
       c.ack_reason
FROM change_state AS c
WHERE c.drift;

-- ---------------------------------------------------------------------------------------------------
-- Who may do what. Nobody may DELETE or TRUNCATE.

CALL counterfoil.close_to_others('event');
CALL counterfoil.close_to_others('event_astray');
CALL counterfoil.close_to_others('duplicate');
CALL counterfoil.close_to_others('effect');
CALL counterfoil.close_to_others('effect_resource');
CALL counterfoil.close_to_others('target_change');
CALL counterfoil.close_to_others('verdict_operation');
CALL counterfoil.close_to_others('repair');
CALL counterfoil.close_to_others('task');
CALL counterfoil.close_to_others('producer');
CALL counterfoil.close_to_others('producer_claim');

GRANT SELECT ON event, event_astray, effect, effect_resource, target_change, verdict_operation, repair, task, producer,
    producer_claim, duplicate, drift_rule, effect_state, change_state, drift, completeness
    TO counterfoil_auditor, counterfoil_operator;

GRANT INSERT ON event_astray_all TO counterfoil_ingester; -- open_partitions grants the leaves of event
GRANT SELECT (tenant, event_id, retention_class, value_sha256, source_id, partition, "offset")
    ON event, event_astray TO counterfoil_ingester;
GRANT SELECT, INSERT, UPDATE ON effect, effect_resource, target_change, verdict_operation, repair, task, producer,
    producer_claim, duplicate TO counterfoil_ingester;

GRANT SELECT ON event, effect, effect_resource, target_change, verdict_operation, repair, task, producer, drift_rule,
    effect_state, change_state, drift TO counterfoil_reconciler;
