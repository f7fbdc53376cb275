-- Named queries of forensics, over its views (docs/queries.md). They run as counterfoil_operator or as a
-- tenant's own login, which sees its own rows whatever `tenant` says. Every parameter is named; where NULL is allowed it means all.

-- name: timeline
-- tenant, task_id
SELECT * FROM counterfoil.timeline WHERE tenant = %(tenant)s AND task_id = %(task_id)s
ORDER BY place

-- name: effects_open
-- tenant or NULL, target or NULL, limit
SELECT * FROM counterfoil.effects_open
WHERE (%(tenant)s::text IS NULL OR tenant = %(tenant)s) AND (%(target)s::text IS NULL OR target = %(target)s)
ORDER BY heard_at, tenant, effect_id LIMIT %(limit)s

-- name: task_tool_calls
-- tenant, task_id
SELECT c.*
FROM (SELECT tenant, event_id FROM counterfoil.every_event
      WHERE tenant = %(tenant)s AND task_id = %(task_id)s OFFSET 0) AS e,
     LATERAL (SELECT * FROM counterfoil.tool_calls AS t
              WHERE t.tenant = e.tenant AND t.intent_event_id = e.event_id OFFSET 0) AS c
ORDER BY c.begun_at, c.intent_event_id, c.result_event_id

-- name: tool_calls
-- tenant or NULL, tool or NULL, outcome or NULL, since (a moment), limit
SELECT * FROM (
    SELECT c.*
    FROM (SELECT tenant, event_id FROM counterfoil.every_event
          WHERE (%(tenant)s::text IS NULL OR tenant = %(tenant)s) AND kind = 'tool_intent' AND NOT unread
            AND event_id >= counterfoil.first_id(%(since)s::timestamptz)
          ORDER BY event_id DESC OFFSET 0) AS e, -- from the latest back, until there are enough
         LATERAL (SELECT * FROM counterfoil.tool_calls AS t
                  WHERE t.tenant = e.tenant AND t.intent_event_id = e.event_id OFFSET 0) AS c
    WHERE (%(tool)s::text IS NULL OR c.tool = %(tool)s) AND (%(outcome)s::text IS NULL OR c.outcome = %(outcome)s)
    LIMIT %(limit)s) AS latest
ORDER BY intent_event_id DESC, result_event_id

-- name: retrievals_by_source
-- tenant or NULL, source, limit
SELECT * FROM counterfoil.retrievals_by_source
WHERE (%(tenant)s::text IS NULL OR tenant = %(tenant)s) AND source = %(source)s
ORDER BY last_retrieved_at DESC, tenant, task_id, version LIMIT %(limit)s

-- name: source_reach
-- tenant, source, version or NULL, limit: the writes of the tasks that read a document, and of their child tasks to the tenth
-- generation, from the first reading on. hops: 0 where the task read it itself.
WITH RECURSIVE reached AS (
    SELECT r.tenant, r.task_id, 0 AS hops, min(r.retrieved_at) AS read_at
    FROM counterfoil.retrieval_source AS r
    WHERE r.tenant = %(tenant)s AND r.source = %(source)s AND (%(version)s::text IS NULL OR r.version = %(version)s)
    GROUP BY r.tenant, r.task_id
    UNION
    SELECT t.tenant, t.task_id, r.hops + 1, r.read_at
    FROM reached AS r
    JOIN counterfoil.task AS t ON t.tenant = r.tenant AND t.parent_task_id = r.task_id AND t.last_at >= r.read_at
    WHERE r.hops < 10
), nearest AS (
    SELECT tenant, task_id, min(hops) AS hops, min(read_at) AS read_at FROM reached GROUP BY tenant, task_id
)
SELECT n.tenant, n.task_id, t.task_ref, t.title, n.hops, n.read_at, s.effect_id, s.tool, s.target, s.args, s.intent_at,
       s.outcome, s.verdict, s.drift,
       CASE WHEN s.verdict IN ('applied', 'partial', 'duplicated', 'mismatched') THEN true
            WHEN s.verdict = 'not_applied' THEN false END AS landed
FROM nearest AS n
JOIN counterfoil.task AS t USING (tenant, task_id)
LEFT JOIN counterfoil.effect_state AS s
    ON s.tenant = n.tenant AND s.task_id = n.task_id AND s.mode = 'live' AND s.intent_at >= n.read_at
ORDER BY n.read_at, n.hops, n.task_id, s.intent_at, s.effect_id LIMIT %(limit)s

-- name: history
-- tenant, target, resource, key (JSON text: a list of texts), before (an event) or NULL, limit: what happened to one row of a
-- target, the latest first. The 1,000 events up to `before` are put in order, and then cut, so that pages fit together.
-- Each LATERAL has one index that it is written for.
WITH found AS (
    SELECT e.*
    FROM counterfoil.effect_resource AS r
    CROSS JOIN LATERAL (
        SELECT * FROM counterfoil.every_event AS v
        WHERE v.tenant = r.tenant AND v.effect_id = r.effect_id
          AND v.kind IN ('tool_intent', 'tool_result', 'verdict', 'operation') OFFSET 0) AS e
    WHERE r.tenant = %(tenant)s AND r.target = %(target)s AND r.resource = %(resource)s AND r.key = %(key)s
    UNION ALL
    SELECT e.*
    FROM counterfoil.target_change AS c
    CROSS JOIN LATERAL (
        SELECT * FROM counterfoil.every_event AS v
        WHERE v.tenant = c.tenant AND v.event_id = c.change_id AND v.kind = 'verdict' AND v.effect_id IS NULL OFFSET 0) AS e
    WHERE c.tenant = %(tenant)s AND c.target = %(target)s AND c.resource = %(resource)s AND c.key = %(key)s
    UNION ALL
    SELECT e.*
    FROM counterfoil.target_change AS c
    CROSS JOIN LATERAL (
        SELECT * FROM counterfoil.every_event AS v
        WHERE v.tenant = c.tenant AND v.causation_id = c.change_id AND v.kind = 'operation' OFFSET 0) AS e
    WHERE c.tenant = %(tenant)s AND c.target = %(target)s AND c.resource = %(resource)s AND c.key = %(key)s
    UNION ALL
    SELECT e.*
    FROM counterfoil.repair AS p
    CROSS JOIN LATERAL (
        SELECT * FROM counterfoil.every_event AS v
        WHERE v.tenant = p.tenant AND v.causation_id = p.verdict_event_id AND v.event_id = p.event_id
          AND v.kind = 'operation' OFFSET 0) AS e
    WHERE p.tenant = %(tenant)s AND p.target = %(target)s AND p.resource = %(resource)s AND p.key = %(key)s
), events AS MATERIALIZED (
    SELECT DISTINCT ON (f.event_id) f.* FROM found AS f ORDER BY f.event_id
), latest AS MATERIALIZED (
    -- A sequence is one of a producer and a task.
    SELECT e.*, md5(concat(e.producer_id, e.task_id))::uuid AS sequence
    FROM events AS e LEFT JOIN (SELECT occurred_at, event_id FROM events WHERE event_id = %(before)s) AS b ON true
    ORDER BY coalesce((e.occurred_at, e.event_id) > (b.occurred_at, b.event_id), false), e.occurred_at DESC, e.event_id DESC
    LIMIT greatest(1000, %(limit)s + 1) -- the order of so many takes a second, and of ten times as many a hundred
), placed AS MATERIALIZED (
    SELECT p.event_id, p.place
    FROM (SELECT array_agg(o.event_id ORDER BY o.sequence, o.seq, o.event_id) AS ids,
                 array_agg(o.sequence ORDER BY o.sequence, o.seq, o.event_id) AS sequences,
                 array_agg(o.causation_id ORDER BY o.sequence, o.seq, o.event_id) AS causes,
                 array_agg(o.occurred_at ORDER BY o.sequence, o.seq, o.event_id) AS moments
          FROM latest AS o) AS a
    CROSS JOIN LATERAL counterfoil.in_order(a.ids, a.sequences, a.causes, a.moments) AS p
)
SELECT e.tenant, p.place, e.event_id, e.kind, e.mode, e.task_id, e.task_ref, e.workflow, e.agent, e.release, e.principal,
       e.on_behalf_of, e.effect_id, e.attempt, e.causation_id, e.producer_id, e.seq, e.occurred_at, e.appended_at, e.unread,
       e.body
FROM placed AS p JOIN latest AS e USING (event_id)
WHERE %(before)s::uuid IS NULL OR p.place < (SELECT b.place FROM placed AS b WHERE b.event_id = %(before)s)
ORDER BY p.place DESC LIMIT %(limit)s

-- name: denials
-- tenant or NULL, since (a moment), limit
SELECT * FROM counterfoil.denials
WHERE (%(tenant)s::text IS NULL OR tenant = %(tenant)s) AND occurred_at >= %(since)s
ORDER BY occurred_at DESC, event_id LIMIT %(limit)s

-- name: cross_tenant_suspects
-- limit
SELECT * FROM counterfoil.cross_tenant_suspects ORDER BY last_at DESC NULLS LAST, suspicion, shared LIMIT %(limit)s

-- name: retry_storms
-- tenant or NULL, since (a moment), limit
SELECT * FROM counterfoil.retry_storms
WHERE (%(tenant)s::text IS NULL OR tenant = %(tenant)s) AND minute >= %(since)s
ORDER BY minute DESC, retries DESC, tenant, tool LIMIT %(limit)s

-- name: cost_by_task
-- tenant or NULL, since (a moment), limit: the dearest first, of each currency
SELECT * FROM counterfoil.cost_by_task
WHERE (%(tenant)s::text IS NULL OR tenant = %(tenant)s) AND last_at >= %(since)s
ORDER BY currency, cost DESC, tenant, task_id, model LIMIT %(limit)s

-- name: search_texts
-- tenant or NULL, words (as a web search: "a phrase", or, -not), limit: the latest first, with an excerpt
SELECT f.tenant, f.task_id, t.task_ref, f.event_id, f.kind, e.agent, f.occurred_at,
       ts_headline('pg_catalog.simple', counterfoil.searched(counterfoil.text_of(e.kind, e.body)),
                   websearch_to_tsquery('pg_catalog.simple', counterfoil.searched(%(words)s)),
                   'StartSel=«, StopSel=», MaxFragments=2, MaxWords=20, MinWords=5') AS excerpt
FROM counterfoil.find_texts(%(tenant)s::text, %(words)s, %(limit)s) AS f
JOIN counterfoil.task AS t USING (tenant, task_id)
CROSS JOIN LATERAL (
    SELECT * FROM counterfoil.every_event AS v WHERE v.tenant = f.tenant AND v.event_id = f.event_id LIMIT 1) AS e
ORDER BY f.occurred_at DESC, f.event_id DESC

-- name: texts_waiting
-- For operators: how many texts can't be found yet, and how old the oldest of them is.
SELECT count(*) AS texts, coalesce(extract(epoch FROM now() - min(appended_at)), 0)::float8 AS oldest_seconds
FROM counterfoil.text_waiting
