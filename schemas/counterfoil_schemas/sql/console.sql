-- Named queries of the console; it reads as counterfoil_operator.

-- name: find_tasks
SELECT tenant, task_id, task_ref, title, workflow, agent, status, first_at, last_at, events, input_tokens, output_tokens,
       cost, parent_task_id, conversation_id, subject_ref
FROM counterfoil.task
WHERE (%(tenant)s::text IS NULL OR tenant = %(tenant)s)
  AND (task_ref = %(name)s OR task_id = ANY(%(ids)s) OR task_id::text = %(name)s
       OR replace(task_id::text, '-', '') LIKE %(prefix)s)
ORDER BY tenant, first_at LIMIT 20

-- name: recent_tasks
SELECT tenant, coalesce(task_ref, replace(task_id::text, '-', '')) AS name, title, last_at
FROM counterfoil.task WHERE title IS NOT NULL
ORDER BY last_at DESC LIMIT 5

-- name: completeness_totals
SELECT count(DISTINCT (tenant, producer_id))::int AS producers, coalesce(sum(emitted), 0)::bigint AS emitted,
       coalesce(sum(stored), 0)::bigint AS stored, coalesce(sum(given_up_count), 0)::bigint AS gaps,
       coalesce(sum(missing_count), 0)::bigint AS missing
FROM counterfoil.completeness WHERE %(tenant)s::text IS NULL OR tenant = %(tenant)s

-- name: incomplete_tasks
SELECT c.tenant, c.producer_id, c.task_id, coalesce(t.task_ref, p.task_ref, replace(c.task_id::text, '-', '')) AS task,
       c.emitted, c.stored, c.given_up_count AS gaps, c.given_up::text AS gap_ranges, c.missing_count AS missing,
       c.missing::text AS missing_ranges, c.is_tail_missing, c.last_at,
       o.closed, o.last_at AS heard_at, o.beat_interval
FROM counterfoil.completeness AS c
LEFT JOIN counterfoil.task AS t USING (tenant, task_id)
LEFT JOIN LATERAL (
    SELECT e.task_ref FROM counterfoil.event AS e
    WHERE e.tenant = c.tenant AND e.task_id = c.task_id AND t.task_id IS NULL LIMIT 1) AS p ON true
LEFT JOIN LATERAL (
    SELECT bool_or(closed) AS closed, max(last_at) AS last_at, max(beat_interval) AS beat_interval
    FROM counterfoil.producer AS r WHERE r.tenant = c.tenant AND r.producer_id = c.producer_id) AS o ON true
WHERE (%(tenant)s::text IS NULL OR c.tenant = %(tenant)s) AND (c.missing_count > 0 OR c.given_up_count > 0)
ORDER BY c.missing_count = 0, c.tenant, c.last_at DESC

-- name: producers_alive_or_not
SELECT tenant, producer_id, bool_or(opened) AS opened, bool_or(closed) AS closed, max(adopted_by::text)::uuid AS adopted_by,
       max(last_at) AS heard_at, max(beat_interval) AS beat_interval
FROM counterfoil.producer WHERE %(tenant)s::text IS NULL OR tenant = %(tenant)s
GROUP BY tenant, producer_id
HAVING bool_or(opened) OR bool_or(closed)

-- name: gap_reasons
SELECT tenant, producer_id, body ->> 'gap_task_id' AS gap_task_id, (body ->> 'first_seq')::bigint AS first_seq,
       (body ->> 'last_seq')::bigint AS last_seq, body ->> 'reason' AS reason
FROM counterfoil.event
WHERE kind = 'gap' AND NOT unread AND (%(tenant)s::text IS NULL OR tenant = %(tenant)s)
ORDER BY event_id DESC LIMIT %(limit)s

-- name: task_effects
SELECT s.effect_id, s.tool, s.target, s.step, s.args, s.intents, s.outcome, s.verdict, s.drift, s.means, s.verdict_reason,
       s.verdict_at, s.evidence, s.given_up, s.contract_version, s.acked_at, s.acked_by, s.ack_reason,
       s.resolved_at, s.resolved_by, s.resolve_reason
FROM counterfoil.effect_state AS s
WHERE s.tenant = %(tenant)s AND s.task_id = %(task_id)s
ORDER BY s.intent_at, s.effect_id

-- name: family_writes
-- The live writes of a task, and of its child tasks to so many generations, in the order of their intents.
WITH RECURSIVE family AS (
    SELECT t.tenant, t.task_id, 0 AS hops FROM counterfoil.task AS t
    WHERE t.tenant = %(tenant)s AND t.task_id = %(task_id)s
    UNION
    SELECT t.tenant, t.task_id, f.hops + 1
    FROM family AS f JOIN counterfoil.task AS t ON t.tenant = f.tenant AND t.parent_task_id = f.task_id
    WHERE f.hops < %(generations)s
)
SELECT t.task_id, t.task_ref, t.title, s.effect_id, s.tool, s.target, s.step, s.args, s.reply, s.intents, s.outcome,
       s.verdict, s.drift, s.means, s.verdict_reason, s.evidence, s.given_up, s.intent_at, s.intent_partition,
       s.intent_offset, s.acked_at, s.acked_by, s.ack_reason, s.resolved_at, s.resolved_by, s.resolve_reason
FROM (SELECT DISTINCT tenant, task_id FROM family) AS f
JOIN counterfoil.task AS t USING (tenant, task_id)
CROSS JOIN LATERAL (
    SELECT * FROM counterfoil.effect_state AS e
    WHERE e.tenant = f.tenant AND e.task_id = f.task_id AND e.mode = 'live' AND e.intents > 0 OFFSET 0) AS s
ORDER BY s.intent_at, s.intent_partition, s.intent_offset, s.effect_id

-- name: find_row_tenants
-- Whose history a row of a target has.
SELECT t.tenant FROM counterfoil.tenant AS t
WHERE (%(tenant)s::text IS NULL OR t.tenant = %(tenant)s)
  AND (EXISTS (SELECT FROM counterfoil.effect_resource AS r
               WHERE r.tenant = t.tenant AND r.target = %(target)s AND r.resource = %(resource)s AND r.key = %(key)s)
       OR EXISTS (SELECT FROM counterfoil.target_change AS c
                  WHERE c.tenant = t.tenant AND c.target = %(target)s AND c.resource = %(resource)s AND c.key = %(key)s)
       OR EXISTS (SELECT FROM counterfoil.repair AS p
                  WHERE p.tenant = t.tenant AND p.target = %(target)s AND p.resource = %(resource)s AND p.key = %(key)s))
ORDER BY t.tenant

-- name: has_event_of_row
SELECT EXISTS (
    SELECT FROM counterfoil.every_event AS v
    WHERE v.tenant = %(tenant)s AND v.event_id = %(event_id)s
      AND (EXISTS (SELECT FROM counterfoil.effect_resource AS r
                   WHERE r.tenant = v.tenant AND r.target = %(target)s AND r.resource = %(resource)s AND r.key = %(key)s
                     AND r.effect_id = v.effect_id)
           OR EXISTS (SELECT FROM counterfoil.target_change AS c
                      WHERE c.tenant = v.tenant AND c.target = %(target)s AND c.resource = %(resource)s
                        AND c.key = %(key)s AND c.change_id IN (v.event_id, v.causation_id))
           OR EXISTS (SELECT FROM counterfoil.repair AS p
                      WHERE p.tenant = v.tenant AND p.target = %(target)s AND p.resource = %(resource)s AND p.key = %(key)s
                        AND p.event_id = v.event_id))) AS found

-- name: known_rows
-- Of the first ones: it helps to see a name.
SELECT DISTINCT f.target, f.resource
FROM (SELECT r.target, r.resource FROM counterfoil.effect_resource AS r
      WHERE %(tenant)s::text IS NULL OR r.tenant = %(tenant)s LIMIT 10000) AS f
ORDER BY 1, 2 LIMIT 10

-- name: drift
SELECT tenant, target, task_id, effect_id, tool, agent, workflow, outcome, verdict, means, reason, found_at, evidence,
       given_up, resources, args, drift_id, acked_at, acked_by, ack_reason
FROM counterfoil.drift
WHERE (%(tenant)s::text IS NULL OR tenant = %(tenant)s)
  AND (%(target)s::text IS NULL OR target = %(target)s)
  AND (%(verdict)s::text IS NULL OR verdict = %(verdict)s)
ORDER BY found_at, tenant, drift_id
LIMIT %(limit)s

-- name: find_drift
-- Effects and changes whose ids lie between two, in drift or not. A change is said of one row after the other, and is one.
SELECT f.*
FROM counterfoil.tenant AS t
CROSS JOIN LATERAL (
    (SELECT s.tenant, s.effect_id AS drift_id, s.effect_id, s.task_id, s.workflow, s.target, s.outcome, s.verdict,
            s.verdict_event_id, s.check_seq, s.drift, false AS is_explained, s.acked_by, s.resolved_at, s.resolved_by,
            s.resolve_reason
     FROM counterfoil.effect_state AS s
     WHERE s.tenant = t.tenant AND s.effect_id BETWEEN %(first)s AND %(last)s
     ORDER BY s.effect_id LIMIT 20)
    UNION ALL
    (SELECT c.tenant, c.change_id, NULL, NULL, 'reconcile', min(c.target), NULL, min(c.verdict), c.change_id,
            min(c.check_seq), bool_or(c.drift), bool_and(c.is_explained), min(c.acked_by), min(c.resolved_at),
            min(c.resolved_by), min(c.resolve_reason)
     FROM counterfoil.change_state AS c
     WHERE c.tenant = t.tenant AND c.change_id BETWEEN %(first)s AND %(last)s
     GROUP BY c.tenant, c.change_id ORDER BY c.change_id LIMIT 20)) AS f
WHERE %(tenant)s::text IS NULL OR t.tenant = %(tenant)s
ORDER BY f.tenant, f.drift_id

-- name: read_check_seq
SELECT coalesce(max(check_seq), 0) AS check_seq FROM counterfoil.check_lease
WHERE tenant = %(tenant)s AND target = %(target)s

-- name: coverage
SELECT count(*) FILTER (WHERE verdict IS NOT NULL) AS judged,
       count(*) FILTER (WHERE verdict IS NULL AND target IS NOT NULL) AS open,
       count(*) FILTER (WHERE target IS NULL) AS uncovered,
       count(*) FILTER (WHERE verdict = 'unknowable') AS unknowable
FROM counterfoil.effect
WHERE (%(tenant)s::text IS NULL OR tenant = %(tenant)s)

-- name: read_clock
SELECT clock_timestamp() AS now

-- name: stored_offsets
SELECT partition, next_offset FROM counterfoil.ingest_offset
WHERE consumer = %(consumer)s AND cluster_id = %(cluster_id)s AND topic_id = %(topic_id)s

-- name: dead_letter_counts
SELECT letter_kind, letter_class, count(*) AS letters FROM counterfoil.dead_letter WHERE status = 'open'
GROUP BY letter_kind, letter_class ORDER BY 1, 2

-- name: add_tenant
INSERT INTO counterfoil.tenant (tenant) VALUES (%(tenant)s) ON CONFLICT DO NOTHING

-- name: add_signed_tenant
SELECT tenant, key_id, key, valid_from FROM counterfoil.add_signed_tenant(%(tenant)s)

-- name: rotate_tenant_key
SELECT tenant, key_id, key, made_at, valid_from FROM counterfoil.rotate_tenant_key(%(tenant)s, %(grace)s)

-- name: list_tenants
SELECT tenant, login_role, created_at FROM counterfoil.tenant ORDER BY tenant

-- name: list_tenant_keys
SELECT tenant, key_id, fingerprint, made_at, valid_from, retired_at, now() AS read_at FROM counterfoil.tenant_key
ORDER BY tenant, made_at, key_id

-- name: find_login_role
-- Whether a role may log in and read as a tenant does, and whether it would see more than one tenant.
SELECT rolcanlogin AND pg_has_role(oid, 'counterfoil_auditor', 'MEMBER') AS can_read,
       rolsuper OR rolbypassrls OR pg_has_role(oid, 'counterfoil_operator', 'MEMBER')
       OR pg_has_role(oid, 'counterfoil_ingester', 'MEMBER') OR pg_has_role(oid, 'counterfoil_reconciler', 'MEMBER')
       OR pg_has_role(oid, 'counterfoil_owner', 'MEMBER') AS sees_all
FROM pg_roles WHERE rolname = %(role)s

-- name: set_login_role
UPDATE counterfoil.tenant SET login_role = %(role)s WHERE tenant = %(tenant)s

-- name: open_clients
-- Producers that have said nothing of an end, with host and process, and whether they have acknowledged the order.
SELECT p.tenant, p.producer_id, o.body ->> 'host' AS host, (o.body ->> 'pid')::bigint AS pid, p.last_at,
       p.last_at < clock_timestamp() - greatest(interval '30 seconds', 3 * p.beat_interval * interval '1 microsecond')
           AS is_silent,
       EXISTS (SELECT FROM counterfoil.event AS a
               WHERE a.tenant = p.tenant AND a.task_id = p.task_id AND a.kind = 'control_ack'
                 AND a.body ->> 'order_id' = %(order_id)s) AS acknowledged
FROM counterfoil.producer AS p
LEFT JOIN LATERAL (
    SELECT body FROM counterfoil.event AS e
    WHERE e.tenant = p.tenant AND e.task_id = p.task_id AND e.kind = 'producer_opened' AND NOT e.unread LIMIT 1) AS o ON true
WHERE p.opened AND NOT p.closed AND (%(tenant)s::text IS NULL OR p.tenant = %(tenant)s)
ORDER BY p.tenant, p.producer_id

-- name: effects_in_flight
-- Live writes of a scope that have an intent without a result.
SELECT tenant, workflow, agent, tool, target, task_id, effect_id, intent_at, count(*) OVER () AS total
FROM counterfoil.effect
WHERE intents > ok + accepted + partial + unknown + failed + denied
  AND (%(tenant)s::text IS NULL OR tenant = %(tenant)s)
  AND CASE %(kind)s::text WHEN 'workflow' THEN workflow = %(name)s WHEN 'agent' THEN agent = %(name)s
                          WHEN 'tool' THEN tool = %(name)s ELSE true END
ORDER BY intent_at DESC, effect_id
LIMIT %(limit)s

-- name: list_offsets
SELECT topic_id, partition, next_offset, epoch, owner, updated_at, retired_at FROM counterfoil.ingest_offset
WHERE consumer = %(consumer)s AND cluster_id = %(cluster_id)s AND topic = %(topic)s
ORDER BY retired_at NULLS FIRST, partition

-- name: list_log_gaps
SELECT s.topic_id, g.partition, g.first_offset, g.next_offset, g.reason, g.accepted_by, g.accepted_at
FROM counterfoil.log_gap AS g JOIN counterfoil.log_source AS s USING (source_id)
WHERE g.consumer = %(consumer)s AND s.cluster_id = %(cluster_id)s AND s.topic = %(topic)s
ORDER BY g.accepted_at, g.partition, g.first_offset

-- name: skip_offsets
SELECT counterfoil.skip_offsets(
    %(consumer)s, %(cluster_id)s, %(topic_id)s, %(partition)s, %(to_offset)s, %(reason)s, %(by)s) AS skipped

-- name: retire_topics
SELECT counterfoil.retire_topics(%(consumer)s, %(cluster_id)s, %(topic)s, %(topic_id)s, %(reason)s, %(by)s) AS partitions

-- name: recorded_arguments
-- The names of the arguments of each tool's latest live writes, and how many have these and no others; those whose
-- arguments are kept elsewhere can't tell.
SELECT k.tool, n.names, count(*) AS writes
FROM (SELECT tenant, effect_id, tool, row_number() OVER (PARTITION BY tool ORDER BY intent_at DESC) AS number
      FROM counterfoil.effect WHERE mode = 'live' AND intents > 0 AND tool = ANY(%(tools)s)) AS k
CROSS JOIN LATERAL (
    SELECT args FROM counterfoil.effect AS e
    WHERE e.tenant = k.tenant AND e.effect_id = k.effect_id AND json_typeof(e.args) = 'object'
      AND e.args -> '$blob' IS NULL AND e.args -> '$reduced' IS NULL OFFSET 0) AS e
CROSS JOIN LATERAL (
    SELECT coalesce(array_agg(DISTINCT name ORDER BY name), '{}') AS names FROM json_object_keys(e.args) AS name
    OFFSET 0) AS n
WHERE k.number <= %(limit)s
GROUP BY k.tool, n.names

-- name: recorded_under_several_ids
-- How many of a tool's latest live writes are the same write as another of their task by the contract's identity.
SELECT coalesce(sum(k.effects), 0)::bigint AS writes
FROM (SELECT count(*) AS effects
      FROM (SELECT tenant, task_id, target, step, args FROM counterfoil.effect
            WHERE mode = 'live' AND intents > 0 AND tool = %(tool)s ORDER BY intent_at DESC LIMIT %(limit)s) AS e
      CROSS JOIN LATERAL (SELECT array_agg(e.args ->> name ORDER BY name) AS identity FROM unnest(%(identity)s::text[]) AS name
                          OFFSET 0) AS i
      WHERE json_typeof(e.args) = 'object' AND array_position(i.identity, NULL) IS NULL
      GROUP BY e.tenant, e.task_id, e.target, e.step, i.identity HAVING count(*) > 1) AS k

-- name: contract_coverage
-- Live writes by tool, target and verdict; the reasons of unknowable ones without the words that tell rows apart.
SELECT tool, target, verdict,
       CASE WHEN verdict = 'unknowable' THEN regexp_replace(coalesce(verdict_reason, ''), '\S*\d\S*', '…', 'g') END AS reason,
       count(*) AS writes, sum(intents)::bigint AS intents
FROM counterfoil.effect
WHERE mode = 'live' AND intents > 0 AND (%(tenant)s::text IS NULL OR tenant = %(tenant)s)
  AND (%(since)s::timestamptz IS NULL OR last_appended_at >= %(since)s)
GROUP BY 1, 2, 3, 4

-- name: find_effects
SELECT tenant, effect_id, tool, target, mode, intents FROM counterfoil.effect
WHERE (%(tenant)s::text IS NULL OR tenant = %(tenant)s)
  AND effect_id BETWEEN rpad(%(digits)s, 32, '0')::uuid AND rpad(%(digits)s, 32, 'f')::uuid
ORDER BY tenant, effect_id LIMIT 5

-- name: sampled_writes
-- The latest live writes of each tool at each target that the agent says landed.
SELECT e.effect_id, e.tool, e.target, e.step, e.redaction, e.args, e.expect, e.reply, e.outcome, e.intents, e.intent_at,
       e.intent_partition, e.intent_offset
FROM (SELECT tenant, effect_id, row_number() OVER (PARTITION BY tool, target ORDER BY intent_at DESC) AS number
      FROM counterfoil.effect_state
      WHERE tenant = %(tenant)s AND mode = 'live' AND intents > 0 AND outcome IN ('ok', 'accepted')
        AND (%(target)s::text IS NULL OR target = %(target)s)) AS k
CROSS JOIN LATERAL (
    SELECT * FROM counterfoil.effect_state AS s WHERE s.tenant = k.tenant AND s.effect_id = k.effect_id OFFSET 0) AS e
WHERE k.number <= %(limit)s
