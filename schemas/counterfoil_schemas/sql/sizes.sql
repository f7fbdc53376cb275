-- Named queries of how much the store holds.

-- name: by_kind
SELECT kind, count(*) AS events, avg(octet_length(value))::float8 AS value, avg(octet_length(body::text))::float8 AS body,
       avg(pg_column_size(e.*))::float8 AS row
FROM counterfoil.event AS e GROUP BY kind ORDER BY count(*) DESC, kind

-- name: by_relation
SELECT CASE WHEN c.relispartition THEN regexp_replace(c.relname, '_[0-9_]+$', '') ELSE c.relname END AS name,
       sum(pg_table_size(c.oid))::bigint AS bytes, sum(pg_indexes_size(c.oid))::bigint AS index_bytes
FROM pg_class AS c WHERE c.relnamespace = 'counterfoil'::regnamespace AND c.relkind = 'r'
GROUP BY 1 HAVING sum(pg_table_size(c.oid)) > 200000 ORDER BY 2 DESC

-- name: whole
SELECT sum(pg_total_relation_size(c.oid))::bigint AS bytes
FROM pg_class AS c WHERE c.relnamespace = 'counterfoil'::regnamespace AND c.relkind = 'r'
