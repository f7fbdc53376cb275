-- Named queries of digests.

-- name: list_columns
-- By name, so that it does not matter in which order migrations added them.
SELECT a.attname AS name, format_type(a.atttypid, NULL) AS type FROM pg_attribute AS a
WHERE a.attrelid = format('%%I.%%I', %(schema)s::text, %(name)s::text)::regclass AND a.attnum > 0 AND NOT a.attisdropped
ORDER BY a.attname COLLATE "C"

-- name: read_stored_offsets
SELECT o.consumer, o.cluster_id, o.topic_id, o.topic, o.partition, o.next_offset FROM counterfoil.ingest_offset AS o
ORDER BY 1, 2, 3, 5
