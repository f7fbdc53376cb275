-- Named queries of the reconciler.

-- name: find_pairs
-- Who has writes to check where: a walk from one pair to the next, so that it costs by pairs and not by effects.
WITH RECURSIVE pair AS (
    (SELECT tenant, target FROM counterfoil.check_state WHERE closed_at IS NULL ORDER BY tenant, target LIMIT 1)
    UNION ALL
    SELECT n.tenant, n.target FROM pair AS p
    CROSS JOIN LATERAL (
        SELECT tenant, target FROM counterfoil.check_state
        WHERE closed_at IS NULL AND (tenant, target) > (p.tenant, p.target) ORDER BY tenant, target LIMIT 1) AS n
)
SELECT tenant, target FROM pair WHERE target = ANY(%(targets)s)

-- name: find_tenants
SELECT tenant FROM counterfoil.tenant ORDER BY tenant

-- name: add_leases
INSERT INTO counterfoil.check_lease (tenant, target, owner)
SELECT tenant, target, '' FROM unnest(%(tenants)s::text[], %(wanted)s::text[]) AS w (tenant, target) ORDER BY 1, 2
ON CONFLICT DO NOTHING

-- name: take_lease
-- Of those that have something due and nobody works on, the one that waited longest. `everything`: due or not, but each once.
WITH next AS (
    SELECT l.tenant, l.target FROM counterfoil.check_lease AS l
    JOIN unnest(%(tenants)s::text[], %(wanted)s::text[], %(sweeps)s::float8[]) AS w (tenant, target, sweep_every) USING (tenant, target)
    WHERE l.held_until < now() AND (l.retry_at <= now() OR (%(everything)s AND l.trouble IS DISTINCT FROM 'throttled'))
      AND (%(everything)s OR coalesce(l.swept_at, '-infinity') + make_interval(secs => w.sweep_every) <= now()
           OR EXISTS (SELECT FROM counterfoil.check_state AS c
                      WHERE c.tenant = l.tenant AND c.target = l.target AND c.closed_at IS NULL AND c.is_urgent AND c.due_at <= now())
           OR EXISTS (SELECT FROM counterfoil.check_state AS c
                      WHERE c.tenant = l.tenant AND c.target = l.target AND c.closed_at IS NULL AND NOT c.is_urgent
                        AND c.due_at <= now()))
    ORDER BY l.checked_at LIMIT 1
    FOR UPDATE OF l SKIP LOCKED
)
UPDATE counterfoil.check_lease AS l
SET epoch = l.epoch + 1, check_seq = l.check_seq + 1, owner = %(owner)s, checked_at = now(),
    held_until = now() + make_interval(secs => %(seconds)s)
FROM next AS n WHERE l.tenant = n.tenant AND l.target = n.target
RETURNING l.tenant, l.target, l.epoch, l.check_seq, l.swept_at, l.fully_swept_at, l.full_sweep_seconds, l.saw_all_at, l.saw_all_before, l.baseline_fence,
    l.failures, l.trouble, l.troubled_since, now() AS now

-- name: renew_lease
UPDATE counterfoil.check_lease SET held_until = clock_timestamp() + make_interval(secs => %(seconds)s)
WHERE tenant = %(tenant)s AND target = %(target)s AND owner = %(owner)s AND epoch = %(epoch)s AND held_until > clock_timestamp()
RETURNING clock_timestamp() AS now

-- name: hold_lease
SELECT now() AS now FROM counterfoil.check_lease
WHERE tenant = %(tenant)s AND target = %(target)s AND owner = %(owner)s AND epoch = %(epoch)s AND held_until > clock_timestamp()
FOR UPDATE

-- name: release_lease
UPDATE counterfoil.check_lease SET held_until = 'epoch', failures = 0, trouble = NULL, troubled_since = NULL, retry_at = 'epoch'
WHERE tenant = %(tenant)s AND target = %(target)s AND owner = %(owner)s AND epoch = %(epoch)s

-- name: release_in_trouble
UPDATE counterfoil.check_lease
SET held_until = 'epoch', failures = failures + 1, trouble = %(trouble)s, troubled_since = coalesce(troubled_since, now()),
    retry_at = now() + make_interval(secs => %(seconds)s)
WHERE tenant = %(tenant)s AND target = %(target)s AND owner = %(owner)s AND epoch = %(epoch)s

-- name: release_leases
UPDATE counterfoil.check_lease SET held_until = 'epoch' WHERE owner = %(owner)s AND held_until > now()

-- name: mark_swept
UPDATE counterfoil.check_lease
SET swept_at = now(), baseline_fence = coalesce(baseline_fence, %(fence)s),
    fully_swept_at = CASE WHEN %(is_full)s THEN now() ELSE fully_swept_at END,
    full_sweep_seconds = CASE WHEN %(is_full)s THEN %(seconds)s ELSE full_sweep_seconds END,
    saw_all_at = CASE WHEN %(saw_all)s THEN now() ELSE saw_all_at END,
    saw_all_before = CASE WHEN %(saw_all)s THEN saw_all_at ELSE saw_all_before END
WHERE tenant = %(tenant)s AND target = %(target)s

-- name: waits_for_full_sweep
-- Whether an effect waits to be closed that may have taken away rows which nobody can name.
SELECT EXISTS (
    SELECT FROM counterfoil.check_state
    WHERE tenant = %(tenant)s AND target = %(target)s AND closed_at IS NULL AND verdict = 'unknowable' AND settled_at IS NOT NULL) AS waits

-- name: read_positions
SELECT resource, way, places, read_ats FROM counterfoil.sweep_position WHERE tenant = %(tenant)s AND target = %(target)s

-- name: set_positions
INSERT INTO counterfoil.sweep_position (tenant, target, resource, way, places, read_ats)
VALUES (%(tenant)s, %(target)s, %(resource)s, %(way)s, %(places)s, %(read_ats)s)
ON CONFLICT (tenant, target, resource) DO UPDATE SET way = excluded.way, places = excluded.places, read_ats = excluded.read_ats

-- name: add_budget
INSERT INTO counterfoil.look_budget (target, looks, refilled_at) VALUES (%(target)s, %(rate)s, clock_timestamp()) ON CONFLICT DO NOTHING

-- name: take_looks
-- At most so many looks at a target, of those that its budget has left; it fills up by the second, to two seconds' worth.
WITH had AS (
    SELECT least(looks + %(rate)s * extract(epoch FROM clock_timestamp() - refilled_at)::float8, %(rate)s * 2) AS looks
    FROM counterfoil.look_budget WHERE target = %(target)s FOR UPDATE
)
UPDATE counterfoil.look_budget AS b
SET looks = had.looks - least(floor(had.looks), %(most)s), refilled_at = clock_timestamp()
FROM had WHERE b.target = %(target)s
RETURNING least(floor(had.looks), %(most)s)::int AS granted

-- name: find_due
-- Open effects to look at in this turn: what somebody waits for first, then by age.
WITH due AS MATERIALIZED (
    (SELECT effect_id, is_urgent, due_at FROM counterfoil.check_state
     WHERE tenant = %(tenant)s AND target = %(target)s AND closed_at IS NULL AND is_urgent AND due_at <= %(until)s
       AND looked_seq < %(check_seq)s
     ORDER BY due_at LIMIT %(most)s)
    UNION ALL
    (SELECT effect_id, is_urgent, due_at FROM counterfoil.check_state
     WHERE tenant = %(tenant)s AND target = %(target)s AND closed_at IS NULL AND NOT is_urgent AND due_at <= %(until)s
       AND looked_seq < %(check_seq)s
     ORDER BY due_at LIMIT %(most)s)
)
SELECT {columns}
FROM (SELECT effect_id FROM due ORDER BY is_urgent DESC, due_at LIMIT %(most)s) AS d {sources}

-- name: find_named
-- One effect, open or not.
SELECT {columns} FROM (SELECT %(effect_id)s::uuid AS effect_id) AS d {sources}

-- name: find_targets_of
-- By the primary key, once a tenant.
SELECT c.tenant, c.target FROM counterfoil.tenant AS t
CROSS JOIN LATERAL (
    SELECT tenant, target FROM counterfoil.check_state AS c WHERE c.tenant = t.tenant AND c.effect_id = %(effect_id)s OFFSET 0) AS c

-- name: reopen
-- Have effects judged anew, those that no reconciler ever followed, too. What was said of them stays until then.
INSERT INTO counterfoil.check_state AS c (tenant, effect_id, target, is_urgent)
SELECT e.tenant, e.effect_id, e.target, false
FROM counterfoil.effect AS e
WHERE e.mode = 'live' AND e.intents > 0 AND e.target = ANY(%(targets)s)
  AND (%(tenant)s::text IS NULL OR e.tenant = %(tenant)s) AND (%(effect_id)s::uuid IS NULL OR e.effect_id = %(effect_id)s)
  AND (%(since)s::timestamptz IS NULL OR e.last_appended_at >= %(since)s)
ORDER BY 1, 2
ON CONFLICT (tenant, effect_id) DO UPDATE
SET told = c.told + 1, due_at = now(), target = excluded.target, marks = NULL, sightings = 0, verdict = NULL, sighting_digest = NULL,
    fence = NULL, first_sighted_at = NULL, settled_at = NULL, closed_at = NULL

-- name: find_unmarked
-- Effects of which nobody knows yet what they touch.
SELECT {columns}
FROM (SELECT effect_id FROM counterfoil.check_state
      WHERE tenant = %(tenant)s AND target = %(target)s AND closed_at IS NULL AND marks IS NULL
        AND effect_id NOT IN (SELECT unnest(%(besides)s::uuid[])) LIMIT %(most)s) AS d {sources}

-- name: find_connected
-- Open effects that touch what these marks stand for. Mark by mark, and asked for nothing else, so that there is one index to
-- choose: every open effect was held against every mark, which took 760 ms for 4,000 marks and 20,000 effects; this takes 25.
WITH marked AS MATERIALIZED (
    SELECT DISTINCT c.tenant, c.target, c.effect_id FROM unnest(%(marks)s::bigint[]) AS m (mark)
    CROSS JOIN LATERAL (
        SELECT tenant, target, effect_id, closed_at FROM counterfoil.check_state WHERE marks && ARRAY[m.mark] OFFSET 0) AS c
    WHERE c.closed_at IS NULL
)
SELECT {columns}
FROM (SELECT effect_id FROM marked
      WHERE tenant = %(tenant)s AND target = %(target)s AND effect_id NOT IN (SELECT unnest(%(besides)s::uuid[])) LIMIT %(most)s) AS d {sources}

-- name: effect_columns
s.effect_id, s.task_id, s.workflow, s.tool, s.step, s.redaction, s.args, s.expect, s.reply, s.intents, s.outcome, s.intent_at,
s.intent_event_id, s.intent_partition, s.intent_offset, s.last_appended_at, s.accept_deadline, s.verdict, s.drift,
s.intents - s.ok - s.accepted - s.partial - s.unknown - s.failed - s.denied AS in_flight,
s.verdict_reason, s.verdict_at, s.means, s.contract_version, s.contract_digest,
c.told, c.sightings, c.verdict AS sighted_verdict, c.sighting_digest, c.fence, c.first_sighted_at, c.emitted, c.settled_at,
c.closed_at, c.absent_fence

-- name: effect_sources
CROSS JOIN LATERAL (
    SELECT * FROM counterfoil.effect_state AS s WHERE s.tenant = %(tenant)s AND s.effect_id = d.effect_id OFFSET 0) AS s
LEFT JOIN LATERAL (
    SELECT * FROM counterfoil.check_state AS c WHERE c.tenant = %(tenant)s AND c.effect_id = d.effect_id OFFSET 0) AS c ON true
WHERE s.intents > 0 AND s.mode = 'live' AND s.target = %(target)s

-- name: lock_checks
-- In the order in which ingest locks them.
SELECT effect_id, told FROM counterfoil.check_state
WHERE tenant = %(tenant)s AND effect_id = ANY(%(effect_ids)s::uuid[])
ORDER BY effect_id FOR UPDATE

-- name: set_marks
UPDATE counterfoil.check_state AS c SET marks = v.marks::bigint[]
FROM unnest(%(effect_ids)s::uuid[], %(tolds)s::int[], %(marks)s::text[]) AS v (effect_id, told, marks)
WHERE c.tenant = %(tenant)s AND c.effect_id = v.effect_id AND c.effect_id = ANY(%(effect_ids)s::uuid[]) AND c.told = v.told
RETURNING c.effect_id

-- name: read_progress
-- How far the log is ingested, by partition.
SELECT o.partition, o.next_offset FROM counterfoil.ingest_offset AS o
WHERE o.consumer = %(consumer)s AND o.topic_id = %(topic_id)s

-- name: find_open_producers
SELECT producer_id, partition, beat_offset, beat_interval, last_at FROM counterfoil.producer
WHERE tenant = %(tenant)s AND opened AND NOT closed AND beat_offset IS NOT NULL

-- name: read_baseline
-- Some rows, and of each resource the mark of how it was declared when it was read. Each by the primary key: as a join, all
-- rows of the tenant were read for it, where Postgres had not counted them yet.
SELECT b.resource, b.key, b.doc::text AS doc, b.problem, b.fence
FROM unnest(%(resources)s::text[], %(keys)s::text[]) AS k (resource, key)
CROSS JOIN LATERAL (
    SELECT * FROM counterfoil.target_baseline AS b
    WHERE b.tenant = %(tenant)s AND b.target = %(target)s AND b.resource = k.resource AND b.key = k.key OFFSET 0) AS b

-- name: read_candidates
SELECT resource, key, candidate_digest, candidate_fence, candidate_at FROM counterfoil.target_baseline
WHERE tenant = %(tenant)s AND target = %(target)s AND candidate_digest IS NOT NULL

-- name: read_digests
SELECT key, digest FROM counterfoil.target_baseline
WHERE tenant = %(tenant)s AND target = %(target)s AND resource = %(resource)s AND key = ANY(%(keys)s)

-- name: list_baseline
SELECT key FROM counterfoil.target_baseline
WHERE tenant = %(tenant)s AND target = %(target)s AND resource = %(resource)s AND digest IS NOT NULL

-- name: find_repairs
-- Rows that people repaired by hand since the target's baseline was taken.
SELECT resource, key, partition, "offset", appended_at FROM counterfoil.repair
WHERE tenant = %(tenant)s AND target = %(target)s AND "offset" >= (%(first_fence)s::bigint[])[partition + 1]

-- name: set_baseline
INSERT INTO counterfoil.target_baseline AS b (tenant, target, resource, key, doc, problem, digest, fence, read_at)
SELECT %(tenant)s, %(target)s, v.resource, v.key, v.doc::json, v.problem, v.digest, v.fence::bigint[], now()
FROM unnest(%(resources)s::text[], %(keys)s::text[], %(docs)s::text[], %(problems)s::text[], %(digests)s::bytea[], %(fences)s::text[])
    AS v (resource, key, doc, problem, digest, fence)
ON CONFLICT (tenant, target, resource, key) DO UPDATE
SET doc = excluded.doc, problem = excluded.problem, digest = excluded.digest, fence = excluded.fence, read_at = excluded.read_at,
    candidate_digest = NULL, candidate_fence = NULL, candidate_at = NULL

-- name: forget_baseline
-- The rows of a resource as they were while it was declared otherwise.
UPDATE counterfoil.target_baseline
SET doc = NULL, problem = NULL, digest = NULL, fence = %(fence)s, read_at = now(), candidate_digest = NULL, candidate_fence = NULL,
    candidate_at = NULL
WHERE tenant = %(tenant)s AND target = %(target)s AND resource = %(resource)s

-- name: set_candidates
INSERT INTO counterfoil.target_baseline AS b (
    tenant, target, resource, key, doc, fence, read_at, candidate_digest, candidate_fence, candidate_at)
SELECT %(tenant)s, %(target)s, v.resource, v.key, NULL, %(baseline_fence)s, now(), v.digest, v.fence::bigint[], v.first_at
FROM unnest(%(resources)s::text[], %(keys)s::text[], %(digests)s::bytea[], %(fences)s::text[], %(first_ats)s::timestamptz[])
    AS v (resource, key, digest, fence, first_at)
ON CONFLICT (tenant, target, resource, key) DO UPDATE
SET candidate_digest = excluded.candidate_digest, candidate_fence = excluded.candidate_fence,
    candidate_at = excluded.candidate_at

-- name: clear_candidate
UPDATE counterfoil.target_baseline SET candidate_digest = NULL, candidate_fence = NULL, candidate_at = NULL
WHERE tenant = %(tenant)s AND target = %(target)s AND resource = %(resource)s AND key = %(key)s

-- name: set_check_states
-- The ids are named once more, or all that the tenant ever did is read and joined with these.
UPDATE counterfoil.check_state AS c
SET looked_seq = %(check_seq)s, sightings = v.sightings, verdict = v.verdict, sighting_digest = v.digest, fence = v.fence::bigint[],
    first_sighted_at = v.first_sighted_at, emitted = v.emitted, settled_at = v.settled_at, due_at = v.due_at,
    marks = CASE WHEN v.is_closed THEN NULL ELSE v.marks::bigint[] END, closed_at = CASE WHEN v.is_closed THEN now() END,
    absent_fence = coalesce(v.absent_fence::bigint[], c.absent_fence)
FROM unnest(
    %(effect_ids)s::uuid[], %(sightings)s::int[], %(verdicts)s::text[], %(digests)s::bytea[], %(fences)s::text[],
    %(first_sighted_ats)s::timestamptz[], %(emitted)s::text[], %(settled_ats)s::timestamptz[], %(due_ats)s::timestamptz[],
    %(marks)s::text[], %(are_closed)s::boolean[], %(absent_fences)s::text[])
    AS v (effect_id, sightings, verdict, digest, fence, first_sighted_at, emitted, settled_at, due_at, marks, is_closed, absent_fence)
WHERE c.tenant = %(tenant)s AND c.effect_id = v.effect_id AND c.effect_id = ANY(%(effect_ids)s::uuid[])

-- name: put_off
-- Effects that could not be looked at now.
UPDATE counterfoil.check_state AS c SET looked_seq = %(check_seq)s, due_at = v.due_at, emitted = coalesce(v.emitted, c.emitted)
FROM unnest(%(effect_ids)s::uuid[], %(due_ats)s::timestamptz[], %(emitted)s::text[]) AS v (effect_id, due_at, emitted)
WHERE c.tenant = %(tenant)s AND c.effect_id = v.effect_id AND c.effect_id = ANY(%(effect_ids)s::uuid[])

-- name: read_drift_rules
SELECT outcome, verdict, drift FROM counterfoil.drift_rule

-- name: find_open_letter
SELECT letter_id FROM counterfoil.dead_letter
WHERE tenant = %(tenant)s AND effect_id = %(effect_id)s AND letter_kind = 'effect' AND status = 'open'

-- name: give_up
INSERT INTO counterfoil.dead_letter (
    letter_id, tenant, letter_kind, letter_class, reason, attempts, key, value, headers, task_id, effect_id, placed_by)
VALUES (%(letter_id)s, %(tenant)s, 'effect', %(letter_class)s, %(reason)s, %(attempts)s, %(key)s, %(value)s, '[]',
        %(task_id)s, %(effect_id)s, %(placed_by)s)

-- name: measure_effects
SELECT tenant, coalesce(target, '') AS target,
       coalesce(verdict, CASE WHEN target IS NULL THEN 'uncovered' ELSE 'settling' END) AS verdict, count(*) AS effects,
       count(*) FILTER (WHERE drift AND acked_at IS NULL) AS drift, count(*) FILTER (WHERE drift AND acked_at IS NOT NULL) AS acked
FROM counterfoil.effect_state WHERE mode = 'live' AND intents > 0 GROUP BY 1, 2, 3

-- name: measure_changes
SELECT tenant, target, verdict, count(*) FILTER (WHERE acked_at IS NULL) AS drift,
       count(*) FILTER (WHERE acked_at IS NOT NULL) AS acked
FROM counterfoil.change_state WHERE drift GROUP BY 1, 2, 3

-- name: measure_oldest
SELECT target, extract(epoch FROM now() - min(told_at))::float8 AS seconds
FROM counterfoil.check_state WHERE closed_at IS NULL AND emitted IS NULL GROUP BY target

-- name: read_first_fence
SELECT baseline_fence FROM counterfoil.check_lease WHERE tenant = %(tenant)s AND target = %(target)s

-- name: find_effects_beside
-- One effect, and others that verdicts found at the same rows, up to a limit.
WITH beside AS MATERIALIZED (
    SELECT %(effect_id)s::uuid AS effect_id
    UNION
    (SELECT n.effect_id FROM counterfoil.effect_resource AS r
     CROSS JOIN LATERAL (
         SELECT o.effect_id FROM counterfoil.effect_resource AS o
         WHERE o.tenant = r.tenant AND o.target = r.target AND o.resource = r.resource AND o.key = r.key OFFSET 0) AS n
     WHERE r.tenant = %(tenant)s AND r.target = %(target)s AND r.effect_id = %(effect_id)s
     LIMIT %(limit)s)
)
SELECT {columns} FROM beside AS d {sources}
