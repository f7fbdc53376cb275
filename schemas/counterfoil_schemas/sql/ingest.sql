-- Named queries of the ingest loop. One batch is staged, landed once, and folded from what landed.

-- name: make_staging
-- Its columns are those of event (LIKE would ask for SELECT on it, which the ingester has not).
CREATE TEMP TABLE incoming (
    tenant text, event_id uuid, retention_class text, kind text, workflow text, environment text, mode text, task_id uuid,
    task_ref text, parent_task_id uuid, conversation_id text, subject_ref text, agent text, release text, principal text,
    on_behalf_of text, effect_id uuid, attempt int, causation_id uuid, trace_id uuid, span_id bytea, producer_id uuid,
    seq bigint, occurred_at timestamptz, redaction text, body_schema bytea, unread boolean, body json, source_id smallint,
    partition int, "offset" bigint, appended_at timestamptz, value bytea, value_sha256 bytea, astray boolean
) ON COMMIT DELETE ROWS;
CREATE TEMP TABLE landed (partition int, "offset" bigint, PRIMARY KEY (partition, "offset")) ON COMMIT DELETE ROWS;

-- name: copy_incoming
COPY pg_temp.incoming (
    tenant, event_id, retention_class, kind, workflow, environment, mode, task_id, task_ref, parent_task_id,
    conversation_id, subject_ref, agent, release, principal, on_behalf_of, effect_id, attempt, causation_id, trace_id,
    span_id, producer_id, seq, occurred_at, redaction, body_schema, unread, body, source_id, partition, "offset",
    appended_at, value, value_sha256, astray
) FROM STDIN (FORMAT binary)

-- name: land_events
-- An id stands once, whichever of both tables holds it: the window moves on, and a class may be another on its way.
WITH stored AS (
    INSERT INTO counterfoil.event (
        tenant, event_id, retention_class, kind, workflow, environment, mode, task_id, task_ref, parent_task_id,
        conversation_id, subject_ref, agent, release, principal, on_behalf_of, effect_id, attempt, causation_id, trace_id,
        span_id, producer_id, seq, occurred_at, redaction, body_schema, unread, body, source_id, partition, "offset",
        appended_at, value, value_sha256)
    SELECT
        tenant, event_id, retention_class, kind, workflow, environment, mode, task_id, task_ref, parent_task_id,
        conversation_id, subject_ref, agent, release, principal, on_behalf_of, effect_id, attempt, causation_id, trace_id,
        span_id, producer_id, seq, occurred_at, redaction, body_schema, unread, body, source_id, partition, "offset",
        appended_at, value, value_sha256
    FROM incoming AS i
    WHERE NOT astray
      AND NOT EXISTS (SELECT FROM counterfoil.event_astray AS e WHERE e.tenant = i.tenant AND e.event_id = i.event_id)
      AND NOT EXISTS (SELECT FROM incoming AS j
                      WHERE j.astray AND j.tenant = i.tenant AND j.event_id = i.event_id
                        AND (j.partition, j."offset") < (i.partition, i."offset"))
    ORDER BY partition, "offset"
    ON CONFLICT DO NOTHING
    RETURNING partition, "offset"
), strays AS (
    INSERT INTO counterfoil.event_astray (
        tenant, event_id, retention_class, kind, workflow, environment, mode, task_id, task_ref, parent_task_id,
        conversation_id, subject_ref, agent, release, principal, on_behalf_of, effect_id, attempt, causation_id, trace_id,
        span_id, producer_id, seq, occurred_at, redaction, body_schema, unread, body, source_id, partition, "offset",
        appended_at, value, value_sha256)
    SELECT
        tenant, event_id, retention_class, kind, workflow, environment, mode, task_id, task_ref, parent_task_id,
        conversation_id, subject_ref, agent, release, principal, on_behalf_of, effect_id, attempt, causation_id, trace_id,
        span_id, producer_id, seq, occurred_at, redaction, body_schema, unread, body, source_id, partition, "offset",
        appended_at, value, value_sha256
    FROM incoming AS i
    WHERE astray
      AND NOT EXISTS (SELECT FROM counterfoil.event AS e WHERE e.tenant = i.tenant AND e.event_id = i.event_id)
      AND NOT EXISTS (SELECT FROM counterfoil.event_astray AS e WHERE e.tenant = i.tenant AND e.event_id = i.event_id)
      AND NOT EXISTS (SELECT FROM incoming AS j
                      WHERE j.tenant = i.tenant AND j.event_id = i.event_id
                        AND (j.partition, j."offset") < (i.partition, i."offset"))
    ORDER BY partition, "offset"
    ON CONFLICT DO NOTHING
    RETURNING partition, "offset"
)
INSERT INTO landed SELECT * FROM stored UNION ALL SELECT * FROM strays

-- name: note_duplicates
INSERT INTO counterfoil.duplicate (tenant, source_id, partition, "offset", event_id, value_sha256)
SELECT i.tenant, i.source_id, i.partition, i."offset", i.event_id, i.value_sha256
FROM incoming AS i
WHERE NOT EXISTS (SELECT FROM landed AS l WHERE l.partition = i.partition AND l."offset" = i."offset")
  AND (EXISTS (SELECT FROM counterfoil.event AS e
               WHERE e.tenant = i.tenant AND e.event_id = i.event_id AND e.retention_class = i.retention_class
                 AND e.value_sha256 = i.value_sha256)
    OR EXISTS (SELECT FROM counterfoil.event_astray AS e
               WHERE e.tenant = i.tenant AND e.event_id = i.event_id AND e.retention_class = i.retention_class
                 AND e.value_sha256 = i.value_sha256))
ON CONFLICT DO NOTHING -- read before, by another consumer or before its offset was set back

-- name: find_conflicts
-- The same id with other content: the stored one wins, this one is a dead letter.
SELECT i.partition, i."offset"
FROM incoming AS i
WHERE NOT EXISTS (SELECT FROM landed AS l WHERE l.partition = i.partition AND l."offset" = i."offset")
  AND NOT EXISTS (SELECT FROM counterfoil.duplicate AS d
                  WHERE d.tenant = i.tenant AND d.source_id = i.source_id AND d.partition = i.partition
                    AND d."offset" = i."offset")

-- name: fold_task
INSERT INTO counterfoil.task AS t (
    tenant, task_id, task_ref, parent_task_id, conversation_id, subject_ref, workflow, agent, first_event_id,
    start_event_id, title, end_event_id, status, first_at, last_at, events, input_tokens, output_tokens, cost)
SELECT
    i.tenant, i.task_id, max(i.task_ref), max(i.parent_task_id::text)::uuid, max(i.conversation_id), max(i.subject_ref),
    (array_agg(i.workflow ORDER BY i.event_id))[1], (array_agg(i.agent ORDER BY i.event_id))[1],
    (array_agg(i.event_id ORDER BY i.event_id))[1],
    (array_agg(i.event_id ORDER BY i.event_id) FILTER (WHERE i.kind = 'task_started'))[1],
    (array_agg(i.body ->> 'title' ORDER BY i.event_id) FILTER (WHERE i.kind = 'task_started'))[1],
    (array_agg(i.event_id ORDER BY i.event_id DESC) FILTER (WHERE i.kind IN ('task_started', 'task_suspended', 'task_ended')))[1],
    (array_agg(CASE i.kind WHEN 'task_started' THEN 'open' WHEN 'task_suspended' THEN 'suspended' ELSE i.body ->> 'status' END
               ORDER BY i.event_id DESC) FILTER (WHERE i.kind IN ('task_started', 'task_suspended', 'task_ended')))[1],
    min(i.occurred_at), max(i.occurred_at), count(*),
    coalesce(sum((i.body ->> 'input_tokens')::numeric) FILTER (WHERE i.kind = 'completion'), 0),
    coalesce(sum((i.body ->> 'output_tokens')::numeric) FILTER (WHERE i.kind = 'completion'), 0),
    coalesce(sum(CASE WHEN i.body ->> 'cost' ~ '^-?[0-9]{1,20}(\.[0-9]{1,20})?$' THEN (i.body ->> 'cost')::numeric END)
             FILTER (WHERE i.kind = 'completion'), 0)
FROM incoming AS i JOIN landed AS l USING (partition, "offset")
GROUP BY i.tenant, i.task_id
ORDER BY i.tenant, i.task_id
ON CONFLICT (tenant, task_id) DO UPDATE SET
    task_ref = greatest(t.task_ref, excluded.task_ref),
    parent_task_id = greatest(t.parent_task_id, excluded.parent_task_id),
    conversation_id = greatest(t.conversation_id, excluded.conversation_id),
    subject_ref = greatest(t.subject_ref, excluded.subject_ref),
    workflow = CASE WHEN excluded.first_event_id < t.first_event_id THEN excluded.workflow ELSE t.workflow END,
    agent = CASE WHEN excluded.first_event_id < t.first_event_id THEN excluded.agent ELSE t.agent END,
    first_event_id = least(t.first_event_id, excluded.first_event_id),
    title = CASE WHEN excluded.start_event_id < t.start_event_id OR t.start_event_id IS NULL THEN excluded.title ELSE t.title END,
    start_event_id = least(t.start_event_id, excluded.start_event_id),
    status = CASE WHEN excluded.end_event_id > t.end_event_id OR t.end_event_id IS NULL THEN excluded.status ELSE t.status END,
    end_event_id = greatest(t.end_event_id, excluded.end_event_id),
    first_at = least(t.first_at, excluded.first_at),
    last_at = greatest(t.last_at, excluded.last_at),
    events = t.events + excluded.events,
    input_tokens = t.input_tokens + excluded.input_tokens,
    output_tokens = t.output_tokens + excluded.output_tokens,
    cost = t.cost + excluded.cost

-- name: fold_producer
INSERT INTO counterfoil.producer AS p (
    tenant, producer_id, task_id, seqs, partition, last_at, opened, closed, beat_offset, beat_interval, adopted_by)
SELECT
    i.tenant, i.producer_id, i.task_id, range_agg(int8range(i.seq, i.seq + 1)), max(i.partition), max(i.appended_at),
    bool_or(i.kind = 'producer_opened'), bool_or(i.kind = 'producer_closed'),
    max(i."offset") FILTER (WHERE i.kind IN ('producer_opened', 'producer_beat', 'producer_closed')),
    max((i.body ->> 'beat_interval')::bigint) FILTER (WHERE i.kind = 'producer_opened'),
    max(i.body ->> 'adopted_by') FILTER (WHERE i.kind = 'producer_closed')::uuid
FROM incoming AS i JOIN landed AS l USING (partition, "offset")
GROUP BY i.tenant, i.producer_id, i.task_id
ORDER BY i.tenant, i.producer_id, i.task_id
ON CONFLICT (tenant, producer_id, task_id) DO UPDATE SET
    seqs = p.seqs + excluded.seqs,
    partition = greatest(p.partition, excluded.partition),
    last_at = greatest(p.last_at, excluded.last_at),
    opened = p.opened OR excluded.opened,
    closed = p.closed OR excluded.closed,
    beat_offset = greatest(p.beat_offset, excluded.beat_offset),
    beat_interval = greatest(p.beat_interval, excluded.beat_interval),
    adopted_by = greatest(p.adopted_by, excluded.adopted_by)

-- name: fold_producer_claim
-- A number beyond what a multirange holds is left to the event's own row: it is no number that a recorder gives out.
WITH heard AS (
    SELECT i.* FROM incoming AS i JOIN landed AS l USING (partition, "offset") WHERE NOT i.unread
), said AS (
    SELECT h.tenant, h.producer_id, (c ->> 'task_id')::uuid AS task_id, (c ->> 'last_seq')::bigint AS last_seq,
           NULL::int8range AS gap, h.appended_at
    FROM heard AS h, json_array_elements(h.body -> 'open_tasks') AS c
    WHERE h.kind IN ('producer_beat', 'producer_closed')
    UNION ALL
    SELECT h.tenant, h.producer_id, (h.body ->> 'gap_task_id')::uuid, NULL,
           int8range((h.body ->> 'first_seq')::bigint, (h.body ->> 'last_seq')::bigint, '[]'), h.appended_at
    FROM heard AS h
    WHERE h.kind = 'gap' AND (h.body ->> 'first_seq')::bigint BETWEEN 0 AND (h.body ->> 'last_seq')::bigint
      AND (h.body ->> 'last_seq')::bigint < 9223372036854775806
)
INSERT INTO counterfoil.producer_claim AS p (tenant, producer_id, task_id, last_seq, gaps, said_at)
SELECT tenant, producer_id, task_id, max(last_seq), coalesce(range_agg(gap) FILTER (WHERE gap IS NOT NULL), '{}'),
       max(appended_at)
FROM said WHERE coalesce(last_seq, 0) < 9223372036854775806
GROUP BY tenant, producer_id, task_id
ORDER BY tenant, producer_id, task_id
ON CONFLICT (tenant, producer_id, task_id) DO UPDATE SET
    last_seq = greatest(p.last_seq, excluded.last_seq),
    gaps = p.gaps + excluded.gaps,
    said_at = greatest(p.said_at, excluded.said_at)

-- name: fold_effect
-- An effect is live as soon as one attempt is, and then only its live attempts count: a rehearsal or a replay of the same
-- write has the same id, and says nothing about what is to be found at the target.
WITH facts AS (
    SELECT i.*, i.kind = 'tool_intent' AS is_intent, i.kind = 'tool_intent' AND i.mode = 'live' AS is_live_intent,
           i.kind = 'verdict' AS is_verdict,
           CASE WHEN i.kind = 'tool_result' AND i.mode = 'live' THEN i.body ->> 'outcome' END AS said
    FROM incoming AS i JOIN landed AS l USING (partition, "offset")
    WHERE i.effect_id IS NOT NULL AND NOT i.unread
      AND i.kind IN ('tool_intent', 'tool_result', 'verdict', 'dead_lettered')
), judged AS (
    SELECT DISTINCT ON (tenant, effect_id) tenant, effect_id, event_id, occurred_at, body
    FROM facts WHERE is_verdict
    ORDER BY tenant, effect_id, (body ->> 'check_seq')::bigint DESC, event_id DESC
)
INSERT INTO counterfoil.effect AS e (
    tenant, effect_id, task_id, workflow, agent, mode, first_event_id, intent_event_id, redaction, tool, target, step,
    args, expect, intent_partition, intent_offset, intent_at, intents, ok, accepted, partial, unknown, failed, denied, reply_event_id,
    reply, accept_deadline, last_appended_at, verdict, check_seq, verdict_event_id, verdict_reason, verdict_at,
    contract_version, contract_digest, evidence, given_up)
SELECT
    f.tenant, f.effect_id, min(f.task_id::text)::uuid,
    (array_agg(f.workflow ORDER BY f.event_id))[1], (array_agg(f.agent ORDER BY f.event_id))[1],
    CASE WHEN bool_or(f.mode = 'live') THEN 'live' ELSE (array_agg(f.mode ORDER BY f.event_id))[1] END,
    (array_agg(f.event_id ORDER BY f.event_id))[1],
    (array_agg(f.event_id ORDER BY f.event_id) FILTER (WHERE f.is_intent))[1],
    (array_agg(f.redaction ORDER BY f.event_id) FILTER (WHERE f.is_intent))[1],
    (array_agg(f.body ->> 'tool' ORDER BY f.event_id) FILTER (WHERE f.is_intent))[1],
    (array_agg(f.body ->> 'target' ORDER BY f.event_id) FILTER (WHERE f.is_intent))[1],
    (array_agg(f.body ->> 'step' ORDER BY f.event_id) FILTER (WHERE f.is_intent))[1],
    (array_agg(f.body -> 'args' ORDER BY f.event_id) FILTER (WHERE f.is_intent))[1],
    (array_agg(f.body -> 'expect' ORDER BY f.event_id) FILTER (WHERE f.is_intent))[1],
    min(f.partition) FILTER (WHERE f.is_live_intent), min(f."offset") FILTER (WHERE f.is_live_intent),
    min(f.occurred_at) FILTER (WHERE f.is_live_intent), count(*) FILTER (WHERE f.is_live_intent),
    count(*) FILTER (WHERE f.said = 'ok'), count(*) FILTER (WHERE f.said = 'accepted'),
    count(*) FILTER (WHERE f.said = 'partial'), count(*) FILTER (WHERE f.said = 'unknown'),
    count(*) FILTER (WHERE f.said = 'failed'), count(*) FILTER (WHERE f.said = 'denied'),
    (array_agg(f.event_id ORDER BY f.event_id DESC) FILTER (WHERE f.said IS NOT NULL AND f.body ->> 'result' IS NOT NULL))[1],
    (array_agg(f.body -> 'result' ORDER BY f.event_id DESC) FILTER (WHERE f.said IS NOT NULL AND f.body ->> 'result' IS NOT NULL))[1],
    -- Held within what a Python datetime holds: Postgres would store the year 148000, and no reader of ours could.
    max(to_timestamp(least(greatest((f.body ->> 'deadline')::bigint, -62e15), 253e15) / 1e6)) FILTER (WHERE f.said = 'accepted'),
    max(CASE WHEN f.is_verdict OR f.kind = 'dead_lettered' THEN '-infinity' ELSE f.appended_at END),
    min(j.body ->> 'verdict'), min((j.body ->> 'check_seq')::bigint), min(j.event_id::text)::uuid, min(j.body ->> 'reason'),
    min(j.occurred_at), min(j.body ->> 'contract_version'), min(j.body ->> 'contract_digest'),
    min((j.body -> 'evidence')::text)::json,
    count(*) FILTER (WHERE f.kind = 'dead_lettered')
FROM facts AS f LEFT JOIN judged AS j USING (tenant, effect_id)
GROUP BY f.tenant, f.effect_id
ORDER BY f.tenant, f.effect_id
ON CONFLICT (tenant, effect_id) DO UPDATE SET
    task_id = least(e.task_id, excluded.task_id),
    workflow = CASE WHEN excluded.first_event_id < e.first_event_id THEN excluded.workflow ELSE e.workflow END,
    agent = CASE WHEN excluded.first_event_id < e.first_event_id THEN excluded.agent ELSE e.agent END,
    mode = CASE WHEN 'live' IN (e.mode, excluded.mode) THEN 'live'
                WHEN excluded.first_event_id < e.first_event_id THEN excluded.mode ELSE e.mode END,
    first_event_id = least(e.first_event_id, excluded.first_event_id),
    redaction = CASE WHEN excluded.intent_event_id < e.intent_event_id OR e.intent_event_id IS NULL THEN excluded.redaction ELSE e.redaction END,
    tool = CASE WHEN excluded.intent_event_id < e.intent_event_id OR e.intent_event_id IS NULL THEN excluded.tool ELSE e.tool END,
    target = CASE WHEN excluded.intent_event_id < e.intent_event_id OR e.intent_event_id IS NULL THEN excluded.target ELSE e.target END,
    step = CASE WHEN excluded.intent_event_id < e.intent_event_id OR e.intent_event_id IS NULL THEN excluded.step ELSE e.step END,
    args = CASE WHEN excluded.intent_event_id < e.intent_event_id OR e.intent_event_id IS NULL THEN excluded.args ELSE e.args END,
    expect = CASE WHEN excluded.intent_event_id < e.intent_event_id OR e.intent_event_id IS NULL THEN excluded.expect ELSE e.expect END,
    intent_event_id = least(e.intent_event_id, excluded.intent_event_id),
    intent_partition = least(e.intent_partition, excluded.intent_partition),
    intent_offset = least(e.intent_offset, excluded.intent_offset),
    intent_at = least(e.intent_at, excluded.intent_at),
    intents = e.intents + excluded.intents,
    ok = e.ok + excluded.ok,
    accepted = e.accepted + excluded.accepted,
    partial = e.partial + excluded.partial,
    unknown = e.unknown + excluded.unknown,
    failed = e.failed + excluded.failed,
    denied = e.denied + excluded.denied,
    reply = CASE WHEN excluded.reply_event_id > e.reply_event_id OR e.reply_event_id IS NULL THEN excluded.reply ELSE e.reply END,
    reply_event_id = greatest(e.reply_event_id, excluded.reply_event_id),
    accept_deadline = greatest(e.accept_deadline, excluded.accept_deadline),
    last_appended_at = greatest(e.last_appended_at, excluded.last_appended_at),
    verdict = CASE WHEN (excluded.check_seq, excluded.verdict_event_id) > (coalesce(e.check_seq, '-9223372036854775808'), coalesce(e.verdict_event_id, '00000000-0000-0000-0000-000000000000')) THEN excluded.verdict ELSE e.verdict END,
    verdict_reason = CASE WHEN (excluded.check_seq, excluded.verdict_event_id) > (coalesce(e.check_seq, '-9223372036854775808'), coalesce(e.verdict_event_id, '00000000-0000-0000-0000-000000000000')) THEN excluded.verdict_reason ELSE e.verdict_reason END,
    verdict_at = CASE WHEN (excluded.check_seq, excluded.verdict_event_id) > (coalesce(e.check_seq, '-9223372036854775808'), coalesce(e.verdict_event_id, '00000000-0000-0000-0000-000000000000')) THEN excluded.verdict_at ELSE e.verdict_at END,
    contract_version = CASE WHEN (excluded.check_seq, excluded.verdict_event_id) > (coalesce(e.check_seq, '-9223372036854775808'), coalesce(e.verdict_event_id, '00000000-0000-0000-0000-000000000000')) THEN excluded.contract_version ELSE e.contract_version END,
    contract_digest = CASE WHEN (excluded.check_seq, excluded.verdict_event_id) > (coalesce(e.check_seq, '-9223372036854775808'), coalesce(e.verdict_event_id, '00000000-0000-0000-0000-000000000000')) THEN excluded.contract_digest ELSE e.contract_digest END,
    evidence = CASE WHEN (excluded.check_seq, excluded.verdict_event_id) > (coalesce(e.check_seq, '-9223372036854775808'), coalesce(e.verdict_event_id, '00000000-0000-0000-0000-000000000000')) THEN excluded.evidence ELSE e.evidence END,
    verdict_event_id = CASE WHEN (excluded.check_seq, excluded.verdict_event_id) > (coalesce(e.check_seq, '-9223372036854775808'), coalesce(e.verdict_event_id, '00000000-0000-0000-0000-000000000000')) THEN excluded.verdict_event_id ELSE e.verdict_event_id END,
    check_seq = CASE WHEN (excluded.check_seq, excluded.verdict_event_id) > (coalesce(e.check_seq, '-9223372036854775808'), coalesce(e.verdict_event_id, '00000000-0000-0000-0000-000000000000')) THEN excluded.check_seq ELSE e.check_seq END,
    given_up = e.given_up + excluded.given_up

-- name: fold_effect_resource
INSERT INTO counterfoil.effect_resource (tenant, target, resource, key, effect_id)
SELECT DISTINCT i.tenant, i.body ->> 'target', r ->> 'resource', r ->> 'key', i.effect_id
FROM incoming AS i JOIN landed AS l USING (partition, "offset"), json_array_elements(i.body -> 'resources') AS r
WHERE i.kind = 'verdict' AND i.effect_id IS NOT NULL AND NOT i.unread
ORDER BY 1, 2, 3, 4, 5
ON CONFLICT DO NOTHING

-- name: fold_target_change
INSERT INTO counterfoil.target_change (
    tenant, change_id, target, resource, key, check_seq, verdict, reason, found_at, contract_version, evidence)
SELECT i.tenant, i.event_id, i.body ->> 'target', r ->> 'resource', r ->> 'key', (i.body ->> 'check_seq')::bigint,
       i.body ->> 'verdict', i.body ->> 'reason', i.occurred_at, i.body ->> 'contract_version', i.body -> 'evidence'
FROM incoming AS i JOIN landed AS l USING (partition, "offset"), json_array_elements(i.body -> 'resources') AS r
WHERE i.kind = 'verdict' AND i.effect_id IS NULL AND NOT i.unread
ON CONFLICT DO NOTHING

-- name: set_aside
INSERT INTO counterfoil.dead_letter (
    letter_id, tenant, letter_kind, letter_class, reason, source_id, partition, "offset", record_timestamp, key, value,
    headers, task_id, effect_id, placed_by)
VALUES (%(letter_id)s, %(tenant)s, 'record', %(letter_class)s, %(reason)s, %(source_id)s, %(partition)s, %(offset)s,
        to_timestamp(%(record_timestamp)s / 1000.0), %(key)s, %(value)s, %(headers)s, %(task_id)s, %(effect_id)s, %(placed_by)s)
ON CONFLICT DO NOTHING -- read before, by another consumer or before its offset was set back

-- name: find_source
SELECT source_id FROM counterfoil.log_source WHERE cluster_id = %(cluster_id)s AND topic_id = %(topic_id)s

-- name: add_source
INSERT INTO counterfoil.log_source (cluster_id, topic_id, topic) VALUES (%(cluster_id)s, %(topic_id)s, %(topic)s)
ON CONFLICT DO NOTHING

-- name: read_offsets
SELECT partition, next_offset FROM counterfoil.ingest_offset
WHERE consumer = %(consumer)s AND cluster_id = %(cluster_id)s AND topic_id = %(topic_id)s

-- name: find_other_topic_ids
SELECT DISTINCT topic_id FROM counterfoil.ingest_offset
WHERE consumer = %(consumer)s AND cluster_id = %(cluster_id)s AND topic = %(topic)s AND topic_id <> %(topic_id)s

-- name: claim_offset
INSERT INTO counterfoil.ingest_offset AS o (consumer, cluster_id, topic_id, partition, topic, next_offset, epoch, owner)
VALUES (%(consumer)s, %(cluster_id)s, %(topic_id)s, %(partition)s, %(topic)s, %(start)s, 1, %(owner)s)
ON CONFLICT (consumer, cluster_id, topic_id, partition) DO UPDATE
SET epoch = o.epoch + 1, owner = excluded.owner, updated_at = now()
RETURNING next_offset, epoch

-- name: move_offset
UPDATE counterfoil.ingest_offset SET next_offset = %(to_offset)s, updated_at = now()
WHERE consumer = %(consumer)s AND cluster_id = %(cluster_id)s AND topic_id = %(topic_id)s AND partition = %(partition)s
  AND next_offset = %(from_offset)s AND epoch = %(epoch)s

-- name: open_window
SELECT counterfoil.open_partitions('standard', %(months_back)s, %(months_ahead)s) AS made, now() AT TIME ZONE 'UTC' AS now

-- name: find_tenants
SELECT tenant FROM counterfoil.tenant

-- name: admit_tenants
SELECT counterfoil.admit_tenants(%(names)s)
