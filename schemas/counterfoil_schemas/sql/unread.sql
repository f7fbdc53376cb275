-- Named queries of what was stored unread.

-- name: find_unread
SELECT c.relname AS leaf, e.source_id, e.partition, e."offset", e.tenant, e.task_id, e.value,
       (extract(epoch FROM e.appended_at) * 1000)::bigint AS appended_at
FROM (SELECT tableoid, source_id, partition, "offset", tenant, task_id, value, appended_at
      FROM counterfoil.event WHERE unread
      UNION ALL
      SELECT tableoid, source_id, partition, "offset", tenant, task_id, value, appended_at
      FROM counterfoil.event_astray WHERE unread) AS e
JOIN pg_class AS c ON c.oid = e.tableoid

-- name: mark_read
-- Whoever comes second finds nothing to mark, and folds nothing.
UPDATE {leaf} AS e SET unread = false, body = r.body
FROM unnest(%(tenants)s::text[], %(ids)s::uuid[], %(bodies)s::json[]) WITH ORDINALITY AS r (tenant, event_id, body, place)
WHERE e.tenant = r.tenant AND e.event_id = r.event_id AND e.unread
RETURNING r.place

-- name: list_sources
SELECT source_id, cluster_id, topic_id, topic, 'counterfoil.fact'::regtype::oid AS fact_oid FROM counterfoil.log_source
