-- Named queries of retention: policies, holds, and what is dropped. People act as counterfoil_operator, runs as
-- counterfoil_eraser.

-- name: find_leaves
-- Those that their policy is done with, but for what came late, are due.
SELECT l.retention_class, l.leaf, counterfoil.id_time(l.first_id) AS starts_at, counterfoil.id_time(l.next_id) AS ends_at,
       coalesce(counterfoil.id_time(l.next_id) <= r.kept_since, false) AS is_due
FROM counterfoil.event_leaves() AS l LEFT JOIN counterfoil.retention_rule AS r USING (retention_class)
ORDER BY l.retention_class, l.first_id

-- name: list_rules
SELECT retention_class, keep_months, reason, changed_by, changed_at FROM counterfoil.retention_rule ORDER BY retention_class

-- name: list_drops
SELECT relation, retention_class, events, held, keep_months, dropped_by, dropped_at FROM counterfoil.retention_drop
ORDER BY drop_id DESC LIMIT %(limit)s

-- name: count_set_apart
SELECT relation, retention_class, reason, events FROM counterfoil.count_set_apart()

-- name: set_rule
INSERT INTO counterfoil.retention_policy (retention_class, keep_months, is_short, reason, changed_by)
VALUES (%(retention_class)s, %(keep_months)s, %(is_short)s, %(reason)s, %(by)s)

-- name: drop_leaf
SELECT outcome, events, held FROM counterfoil.drop_leaf(%(name)s, %(by)s, %(is_rehearsal)s)

-- name: drop_astray
SELECT outcome, events, held FROM counterfoil.drop_astray(%(name)s, %(by)s, %(is_rehearsal)s)

-- name: drop_released
SELECT outcome, events, held FROM counterfoil.drop_released(%(name)s, %(by)s, %(is_rehearsal)s)

-- name: place_hold
-- Of a tenant that is known: one that is mistyped would hold nothing.
INSERT INTO counterfoil.hold (tenant, workflow, agent, task_id, subject_ref, from_at, until_at, reason, placed_by)
SELECT %(tenant)s, %(workflow)s, %(agent)s, %(task_id)s, %(subject_ref)s, %(from_at)s, %(until_at)s, %(reason)s, %(by)s
WHERE %(tenant)s = %(operators)s OR EXISTS (SELECT FROM counterfoil.tenant WHERE tenant = %(tenant)s)
RETURNING hold_id

-- name: list_holds
SELECT tenant, hold_id, workflow, agent, task_id, subject_ref, from_at, until_at, reason, placed_by, placed_at, released_by,
       released_at, release_reason,
       (SELECT count(*) FROM counterfoil.event_held AS e WHERE counterfoil.covers(
            h, e.tenant, e.workflow, e.agent, e.task_id, e.subject_ref, e.occurred_at, e.appended_at)) AS held
FROM counterfoil.hold AS h
WHERE (%(tenant)s::text IS NULL OR tenant = %(tenant)s) AND (%(everything)s OR released_at IS NULL)
ORDER BY hold_id

-- name: release_hold
SELECT counterfoil.release_hold(%(hold_id)s, %(reason)s, %(by)s) AS released
