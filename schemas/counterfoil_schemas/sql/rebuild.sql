-- Named queries of rebuilds. Their own schema is counterfoil_rebuild; it is swapped with the projections of counterfoil.

-- name: take_turn
-- Held to the transaction's end, by rebuilds alone. Not an advisory lock: any login may hold those, a tenant's, too.
LOCK TABLE counterfoil.turn IN SHARE ROW EXCLUSIVE MODE NOWAIT

-- name: read_note
-- What the schema was made by, NULL where there is none.
SELECT obj_description(to_regnamespace('counterfoil_rebuild'), 'pg_namespace') AS note

-- name: read_applied
SELECT number FROM counterfoil.schema_migration ORDER BY number

-- name: make_schema
CREATE SCHEMA counterfoil_rebuild AUTHORIZATION counterfoil_owner

-- name: admit_services
GRANT USAGE ON SCHEMA counterfoil_rebuild TO counterfoil_ingester, counterfoil_operator

-- name: drop_schema
DROP SCHEMA IF EXISTS counterfoil_rebuild CASCADE

-- name: list_missing_partitions
-- Partitions of the live event that the schema has not, parents first.
SELECT c.relname AS name, p.relname AS parent, pg_get_expr(c.relpartbound, c.oid) AS bound,
       pg_get_partkeydef(c.oid) AS key
FROM pg_partition_tree('counterfoil.event') AS t
JOIN pg_class AS c ON c.oid = t.relid
JOIN pg_class AS p ON p.oid = t.parentrelid
WHERE to_regclass(format('counterfoil_rebuild.%I', c.relname)) IS NULL
ORDER BY t.level, c.relname

-- name: read_places
-- How far each partition of each log is ingested, by whichever consumer.
SELECT s.source_id, s.cluster_id, s.topic_id, s.topic, o.partition, max(o.next_offset) AS next_offset,
       'counterfoil.fact'::regtype::oid AS fact_oid
FROM counterfoil.ingest_offset AS o JOIN counterfoil.log_source AS s USING (cluster_id, topic_id)
WHERE o.consumer <> %(rebuild)s
GROUP BY s.source_id, s.cluster_id, s.topic_id, s.topic, o.partition
ORDER BY s.source_id, o.partition

-- name: forget_places
DELETE FROM counterfoil.ingest_offset WHERE consumer = %(rebuild)s

-- name: read_archive
-- Events of offsets [first, next) as they came from the log; their order does not matter to the folds.
SELECT e.source_id, e.partition, e."offset", e.tenant, e.task_id, e.value,
       (extract(epoch FROM e.appended_at) * 1000)::bigint AS appended_at
FROM (SELECT source_id, partition, "offset", tenant, task_id, value, appended_at FROM counterfoil.event
      UNION ALL
      SELECT source_id, partition, "offset", tenant, task_id, value, appended_at FROM counterfoil.event_astray) AS e
JOIN unnest(%(source_ids)s::smallint[], %(partitions)s::int[], %(first_offsets)s::bigint[], %(next_offsets)s::bigint[])
    AS r (source_id, partition, first_offset, next_offset)
  ON r.source_id = e.source_id AND r.partition = e.partition
 AND e."offset" >= r.first_offset AND e."offset" < r.next_offset

-- name: find_unread
SELECT source_id, partition, "offset" FROM counterfoil.event WHERE unread
UNION ALL
SELECT source_id, partition, "offset" FROM counterfoil.event_astray WHERE unread

-- name: copy_duplicates
-- What they repeated is not kept a second time, so it can't be read from the archive.
INSERT INTO counterfoil_rebuild.duplicate
SELECT d.* FROM counterfoil.duplicate AS d
JOIN unnest(%(source_ids)s::smallint[], %(partitions)s::int[], %(first_offsets)s::bigint[], %(next_offsets)s::bigint[])
    AS r (source_id, partition, first_offset, next_offset)
  ON r.source_id = d.source_id AND r.partition = d.partition
 AND d."offset" >= r.first_offset AND d."offset" < r.next_offset
ON CONFLICT DO NOTHING

-- name: find_letters
-- Records that were set aside stay so.
SELECT l.partition, l."offset" FROM counterfoil.dead_letter AS l
JOIN unnest(%(partitions)s::int[], %(first_offsets)s::bigint[], %(last_offsets)s::bigint[]) AS r (partition, first_offset, last_offset)
  ON l.partition = r.partition AND l."offset" BETWEEN r.first_offset AND r.last_offset
WHERE l.source_id = %(source_id)s AND l.letter_kind = 'record'

-- name: find_dropped
-- Leaves that retention has dropped since they were made here.
SELECT l.leaf FROM counterfoil.event_leaves('counterfoil_rebuild') AS l
JOIN counterfoil.retention_drop AS d ON d.retention_class = l.retention_class AND d.first_id = l.first_id

-- name: has_cut
SELECT EXISTS (SELECT FROM counterfoil.task_cut) AS found

-- name: keep_cut
-- Rows into which events were folded that are gone: they stay as they are.
INSERT INTO counterfoil_rebuild.{table} AS r ({columns})
SELECT {live_columns}
FROM counterfoil.{table} AS l LEFT JOIN counterfoil_rebuild.{table} AS o USING ({key})
WHERE {is_cut} AND o::text IS DISTINCT FROM l::text
ON CONFLICT ({key}) DO UPDATE SET ({columns}) = ROW({new_columns})

-- name: analyze_tables
SELECT c.relname AS name FROM pg_class AS c
WHERE c.relnamespace = 'counterfoil_rebuild'::regnamespace AND c.relkind IN ('r', 'p') AND NOT c.relispartition

-- name: list_relations
-- What is swapped: all that the schema holds, and the partitions that the live event has.
SELECT c.relname AS name, c.relkind AS kind FROM pg_class AS c
WHERE c.relnamespace = 'counterfoil_rebuild'::regnamespace AND c.relkind IN ('r', 'p', 'v', 'm', 'c')
ORDER BY c.relkind = 'v', c.relname

-- name: list_routines
SELECT p.proname AS name, pg_get_function_identity_arguments(p.oid) AS arguments FROM pg_proc AS p
WHERE p.pronamespace = 'counterfoil_rebuild'::regnamespace

-- name: find_dependents
-- What else reads the live projections by their identity, and would go on reading the former ones.
WITH moving AS (
    SELECT c.oid, c.reltype FROM pg_class AS c
    WHERE c.relnamespace = 'counterfoil'::regnamespace
      AND to_regclass(format('counterfoil_rebuild.%I', c.relname)) IS NOT NULL
), used AS (
    SELECT d.classid, d.objid FROM pg_depend AS d
    JOIN moving AS m ON (d.refclassid, d.refobjid) IN (('pg_class'::regclass, m.oid), ('pg_type'::regclass, m.reltype))
    WHERE d.deptype = 'n'
)
SELECT DISTINCT pg_describe_object(c.tableoid, c.oid, 0) AS dependent
FROM used AS u JOIN pg_rewrite AS r ON u.classid = 'pg_rewrite'::regclass AND r.oid = u.objid
JOIN pg_class AS c ON c.oid = r.ev_class
WHERE c.oid NOT IN (SELECT oid FROM moving)
UNION
SELECT pg_describe_object('pg_constraint'::regclass, k.oid, 0)
FROM used AS u JOIN pg_constraint AS k ON u.classid = 'pg_constraint'::regclass AND k.oid = u.objid
WHERE k.conrelid NOT IN (SELECT oid FROM moving)
UNION
SELECT pg_describe_object('pg_proc'::regclass, p.oid, 0)
FROM used AS u JOIN pg_proc AS p ON u.classid = 'pg_proc'::regclass AND p.oid = u.objid
WHERE NOT EXISTS (SELECT FROM pg_proc AS o WHERE o.pronamespace = 'counterfoil_rebuild'::regnamespace
                  AND o.proname = p.proname AND p.pronamespace = 'counterfoil'::regnamespace)
ORDER BY 1

-- name: list_own_grants
-- What somebody granted on the live projections beyond what the migrations do.
WITH granted AS (
    SELECT c.relnamespace::regnamespace::text AS schema, c.relname AS name, NULL::text AS column, (aclexplode(c.relacl)).*
    FROM pg_class AS c
    UNION ALL
    SELECT c.relnamespace::regnamespace::text, c.relname, a.attname::text, (aclexplode(a.attacl)).*
    FROM pg_attribute AS a JOIN pg_class AS c ON c.oid = a.attrelid WHERE NOT a.attisdropped
)
SELECT g.name, g.column, g.privilege_type AS privilege, g.is_grantable, g.grantee::regrole::text AS role, g.grantee = 0 AS is_public
FROM granted AS g
WHERE g.schema = 'counterfoil' AND to_regclass(format('counterfoil_rebuild.%I', g.name)) IS NOT NULL
  AND NOT EXISTS (
      SELECT FROM granted AS o WHERE o.schema = 'counterfoil_rebuild' AND o.name = g.name AND o.grantee = g.grantee
      AND o.column IS NOT DISTINCT FROM g.column AND o.privilege_type = g.privilege_type AND o.is_grantable >= g.is_grantable)
ORDER BY g.name, role, privilege
