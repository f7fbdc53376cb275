-- Named queries of the reconciler.

-- name: find_pairs
-- Who has writes to check where. Targets that are swept are checked for every tenant of theirs, writes or none.
SELECT DISTINCT tenant, target FROM counterfoil.effect WHERE target = ANY(%(targets)s) AND mode = 'live'

-- name: find_tenants
SELECT tenant FROM counterfoil.tenant ORDER BY tenant

-- name: take_lease
INSERT INTO counterfoil.check_lease AS l (tenant, target, owner, held_until)
VALUES (%(tenant)s, %(target)s, %(owner)s, now() + make_interval(secs => %(seconds)s))
ON CONFLICT (tenant, target) DO UPDATE
SET epoch = l.epoch + (l.owner <> excluded.owner)::int, owner = excluded.owner, check_seq = l.check_seq + 1,
    held_until = excluded.held_until
WHERE l.owner = excluded.owner OR l.held_until < now()
RETURNING epoch, check_seq, swept_at, baseline_fence, now() AS now

-- name: release_leases
UPDATE counterfoil.check_lease SET held_until = clock_timestamp() WHERE owner = %(owner)s AND held_until > now()

-- name: hold_lease
SELECT now() AS now FROM counterfoil.check_lease
WHERE tenant = %(tenant)s AND target = %(target)s AND owner = %(owner)s AND epoch = %(epoch)s AND check_seq = %(check_seq)s
  AND held_until > clock_timestamp()
FOR UPDATE

-- name: mark_swept
UPDATE counterfoil.check_lease SET swept_at = now(), baseline_fence = coalesce(baseline_fence, %(fence)s)
WHERE tenant = %(tenant)s AND target = %(target)s

-- name: find_open_effects
-- Those never closed, and those of which intents or results came in that closing did not know.
SELECT s.effect_id, s.task_id, s.workflow, s.tool, s.step, s.redaction, s.args, s.reply, s.intents, s.outcome, s.intent_at,
       s.intent_event_id, s.intent_partition, s.intent_offset, s.last_appended_at, s.accept_deadline, s.verdict, s.drift,
       s.intents - s.ok - s.accepted - s.partial - s.unknown - s.failed - s.denied AS in_flight,
       s.intents + s.ok + s.accepted + s.partial + s.unknown + s.failed + s.denied AS facts,
       c.sightings, c.verdict AS sighted_verdict, c.sighting_digest, c.fence, c.first_sighted_at, c.emitted, c.settled_at,
       c.closed_at
FROM counterfoil.effect_state AS s
LEFT JOIN counterfoil.check_state AS c ON c.tenant = s.tenant AND c.effect_id = s.effect_id
WHERE s.tenant = %(tenant)s AND s.target = %(target)s AND s.mode = 'live' AND s.intents > 0
  AND (c.closed_at IS NULL
       OR c.facts < s.intents + s.ok + s.accepted + s.partial + s.unknown + s.failed + s.denied)
ORDER BY s.intent_partition, s.intent_offset

-- name: read_progress
-- How far the log is ingested, by partition.
SELECT o.partition, o.next_offset FROM counterfoil.ingest_offset AS o
WHERE o.consumer = %(consumer)s AND o.topic_id = %(topic_id)s

-- name: find_open_producers
SELECT producer_id, partition, beat_offset, beat_interval, last_at FROM counterfoil.producer
WHERE tenant = %(tenant)s AND opened AND NOT closed AND beat_offset IS NOT NULL

-- name: read_baseline
SELECT resource, key, doc::text AS doc, problem, fence, candidate_digest, candidate_fence, candidate_at
FROM counterfoil.target_baseline WHERE tenant = %(tenant)s AND target = %(target)s

-- name: find_repairs
-- Rows that people repaired by hand since the target's baseline was taken.
SELECT resource, key, partition, "offset", appended_at FROM counterfoil.repair
WHERE tenant = %(tenant)s AND target = %(target)s AND "offset" >= (%(first_fence)s::bigint[])[partition + 1]

-- name: set_baseline
INSERT INTO counterfoil.target_baseline AS b (tenant, target, resource, key, doc, problem, fence, read_at)
VALUES (%(tenant)s, %(target)s, %(resource)s, %(key)s, %(doc)s, %(problem)s, %(fence)s, now())
ON CONFLICT (tenant, target, resource, key) DO UPDATE
SET doc = excluded.doc, problem = excluded.problem, fence = excluded.fence, read_at = excluded.read_at,
    candidate_digest = NULL, candidate_fence = NULL, candidate_at = NULL

-- name: set_candidate
INSERT INTO counterfoil.target_baseline AS b (
    tenant, target, resource, key, doc, fence, read_at, candidate_digest, candidate_fence, candidate_at)
VALUES (%(tenant)s, %(target)s, %(resource)s, %(key)s, NULL, %(baseline_fence)s, now(), %(digest)s, %(fence)s,
        %(first_at)s)
ON CONFLICT (tenant, target, resource, key) DO UPDATE
SET candidate_digest = excluded.candidate_digest, candidate_fence = excluded.candidate_fence,
    candidate_at = excluded.candidate_at

-- name: clear_candidate
UPDATE counterfoil.target_baseline SET candidate_digest = NULL, candidate_fence = NULL, candidate_at = NULL
WHERE tenant = %(tenant)s AND target = %(target)s AND resource = %(resource)s AND key = %(key)s

-- name: set_check_state
INSERT INTO counterfoil.check_state (
    tenant, effect_id, target, sightings, verdict, sighting_digest, fence, first_sighted_at, emitted, settled_at,
    closed_at, facts)
VALUES (%(tenant)s, %(effect_id)s, %(target)s, %(sightings)s, %(verdict)s, %(digest)s, %(fence)s, %(first_sighted_at)s,
        %(emitted)s, %(settled_at)s, %(closed_at)s, %(facts)s)
ON CONFLICT (tenant, effect_id) DO UPDATE
SET sightings = excluded.sightings, verdict = excluded.verdict, sighting_digest = excluded.sighting_digest,
    fence = excluded.fence, first_sighted_at = excluded.first_sighted_at, emitted = excluded.emitted,
    settled_at = excluded.settled_at, closed_at = excluded.closed_at, facts = excluded.facts

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
SELECT target, extract(epoch FROM now() - min(last_appended_at))::float8 AS seconds
FROM counterfoil.effect WHERE verdict IS NULL AND target IS NOT NULL AND mode = 'live' AND intents > 0 GROUP BY target
