-- What auditors and incident responders ask (docs/queries.md): views, what they need beside the events, and the words of
-- prompts and outputs.

-- Few rows each, so that ingest hardly pays for them (docs/decisions/0016).
CREATE INDEX event_call ON event (tenant, event_id) WHERE kind = 'tool_intent' AND NOT unread; -- found without a look at the rows
CREATE INDEX event_answer ON event (tenant, causation_id) WHERE kind = 'tool_result';
CREATE INDEX event_operation ON event (tenant, causation_id) WHERE kind = 'operation';
CREATE INDEX event_change ON event (tenant, event_id) WHERE kind = 'verdict' AND effect_id IS NULL;
CREATE INDEX event_retry ON event (tenant, occurred_at) WHERE kind = 'tool_intent' AND attempt > 1;
CREATE INDEX event_denial ON event (tenant, occurred_at) WHERE kind = 'denial';
CREATE INDEX event_trace ON event (tenant, trace_id) WHERE kind = 'task_started' AND trace_id IS NOT NULL;
CREATE INDEX task_parent ON task (tenant, parent_task_id) WHERE parent_task_id IS NOT NULL;

-- One row per document that a retrieval read. Equality of text may be looked up before row-level security has spoken, which
-- what is inside of JSON or of an array may not.
CREATE TABLE retrieval_source (
    tenant       text NOT NULL,
    source       text NOT NULL, -- its id, the first 500 characters
    event_id     uuid NOT NULL,
    place        int NOT NULL,  -- 1 is the best
    task_id      uuid NOT NULL,
    version      text,
    as_of        timestamptz,
    digest       text,          -- hex
    retrieved_at timestamptz NOT NULL,
    PRIMARY KEY (tenant, source, event_id, place)
);

-- Sums over distinct completions, kept apart by model and currency; '' where the agent named none.
CREATE TABLE task_cost (
    tenant        text NOT NULL,
    task_id       uuid NOT NULL,
    model         text NOT NULL,                -- the first 200 characters
    currency      text NOT NULL,                -- likewise
    completions   bigint NOT NULL,              -- sum
    unpriced      bigint NOT NULL,              -- sum; without a cost, or with one that is no number
    input_tokens  numeric NOT NULL,             -- sum
    output_tokens numeric NOT NULL,             -- sum
    cached_tokens numeric NOT NULL,             -- sum
    cost          numeric NOT NULL,             -- sum
    PRIMARY KEY (tenant, task_id, model, currency)
);

-- Texts whose words are still to be put down: a queue without an index, so that ingest hardly pays for it. A rebuild fills it
-- with all of them; those whose words are there cost little.
CREATE TABLE text_waiting (
    tenant      text NOT NULL,
    event_id    uuid NOT NULL,
    appended_at timestamptz NOT NULL
);

-- ---------------------------------------------------------------------------------------------------
-- Timelines, and other views. OFFSET 0 keeps a look-up one of the index that it is written for: the planner knows nothing of the
-- columns (docs/decisions/0019), so to it all indexes that begin with the tenant find as few rows, and it may read a whole
-- tenant's to find those of one task.

-- The places of a task's events: causation, then (producer, seq), then occurred_at (DESIGN.md section 7). What is given is in
-- the order of producers and their numbers. Producers' sequences are merged by time, no event before its cause; causes that
-- wait for each other can't be true, and the earliest event of such a circle goes first.
CREATE FUNCTION in_order(ids uuid[], producers uuid[], causes uuid[], moments timestamptz[])
RETURNS TABLE (event_id uuid, place bigint) LANGUAGE plpgsql IMMUTABLE ROWS 1000 AS $$
DECLARE
    size int := coalesce(cardinality(ids), 0);
    cause int[]; -- where the cause of each stands, 0 where it is not here
    lane int[];  -- the producer of each, from 1
    next int[];  -- of each lane, which of its events comes next
    ends int[];
    shown boolean[] := array_fill(false, ARRAY[size]);
    lanes int;
    best int;
    path int[];
BEGIN
    SELECT array_agg(coalesce(c.at, 0) ORDER BY e.at) INTO cause
    FROM unnest(causes) WITH ORDINALITY AS e (id, at) LEFT JOIN unnest(ids) WITH ORDINALITY AS c (id, at) USING (id);
    SELECT array_agg(l.lane ORDER BY l.at), max(l.lane) INTO lane, lanes
    FROM (SELECT at, dense_rank() OVER (ORDER BY id) AS lane FROM unnest(producers) WITH ORDINALITY AS p (id, at)) AS l;
    SELECT array_agg(l.first ORDER BY l.lane), array_agg(l.last ORDER BY l.lane) INTO next, ends
    FROM (SELECT u.lane, min(u.at) AS first, max(u.at) AS last FROM unnest(lane) WITH ORDINALITY AS u (lane, at)
          GROUP BY u.lane) AS l;
    FOR step IN 1 .. size LOOP
        best := 0;
        FOR l IN 1 .. lanes LOOP
            CONTINUE WHEN next[l] > ends[l] OR (cause[next[l]] > 0 AND NOT shown[cause[next[l]]]);
            IF best = 0 OR (moments[next[l]], ids[next[l]]) < (moments[best], ids[best]) THEN
                best := next[l];
            END IF;
        END LOOP;
        IF best = 0 THEN -- every lane waits: follow the causes of the earliest until they come round
            FOR l IN 1 .. lanes LOOP
                IF next[l] <= ends[l]
                   AND (best = 0 OR (moments[next[l]], ids[next[l]]) < (moments[best], ids[best])) THEN
                    best := next[l];
                END IF;
            END LOOP;
            path := '{}';
            WHILE array_position(path, best) IS NULL LOOP
                path := path || best;
                best := next[lane[cause[best]]];
            END LOOP;
            SELECT u.at INTO best FROM unnest(path[array_position(path, best) :]) AS u (at)
            ORDER BY moments[u.at], ids[u.at] LIMIT 1;
        END IF;
        shown[best] := true;
        next[lane[best]] := best + 1;
        event_id := ids[best];
        place := step;
        RETURN NEXT;
    END LOOP;
END
$$;

CREATE VIEW timeline WITH (security_invoker) AS
SELECT e.tenant, e.task_id, p.place, e.event_id, e.kind, e.mode, e.agent, e.release, e.principal, e.on_behalf_of,
       e.effect_id, e.attempt, e.causation_id, e.trace_id, e.producer_id, e.seq, e.occurred_at, e.appended_at, e.unread,
       e.is_astray, e.body, e.partition, e."offset"
FROM task AS t
CROSS JOIN LATERAL (
    SELECT array_agg(o.event_id ORDER BY o.producer_id, o.seq, o.event_id) AS ids,
           array_agg(o.producer_id ORDER BY o.producer_id, o.seq, o.event_id) AS producers,
           array_agg(o.causation_id ORDER BY o.producer_id, o.seq, o.event_id) AS causes,
           array_agg(o.occurred_at ORDER BY o.producer_id, o.seq, o.event_id) AS moments
    FROM every_event AS o WHERE o.tenant = t.tenant AND o.task_id = t.task_id) AS a
CROSS JOIN LATERAL in_order(a.ids, a.producers, a.causes, a.moments) AS p
JOIN every_event AS e ON e.tenant = t.tenant AND e.task_id = t.task_id AND e.event_id = p.event_id;

-- Live writes without an end: without a result, or with a target that has not been heard.
CREATE VIEW effects_open WITH (security_invoker) AS
SELECT s.tenant, s.effect_id, s.task_id, t.task_ref, s.workflow, s.agent, s.tool, s.target, s.step, s.args,
       CASE WHEN s.intents > s.ok + s.accepted + s.partial + s.unknown + s.failed + s.denied THEN 'no result yet'
            WHEN s.given_up > 0 THEN 'given up'
            WHEN s.accept_deadline < now() THEN 'past its deadline'
            ELSE 'settling' END AS open_because,
       s.outcome, s.verdict, s.intents AS attempts,
       s.intents - s.ok - s.accepted - s.partial - s.unknown - s.failed - s.denied AS attempts_without_result,
       s.intent_at, s.last_appended_at AS heard_at, s.accept_deadline,
       extract(epoch FROM now() - s.last_appended_at)::float8 AS silent_seconds
FROM effect_state AS s LEFT JOIN task AS t USING (tenant, task_id)
WHERE s.mode = 'live' AND s.intents > 0
  AND ((s.verdict IS NULL AND s.target IS NOT NULL)
       OR s.intents > s.ok + s.accepted + s.partial + s.unknown + s.failed + s.denied);

-- One row per call and result; a call without a result has one.
CREATE VIEW tool_calls WITH (security_invoker) AS
SELECT i.tenant, i.task_id, i.event_id AS intent_event_id, r.event_id AS result_event_id, i.body ->> 'tool' AS tool,
       i.body ->> 'target' AS target, (i.body ->> 'write')::boolean AS is_write, i.body ->> 'step' AS step, i.mode,
       i.workflow, i.agent, i.release, i.principal, i.on_behalf_of, i.effect_id, i.attempt, i.body ->> 'call_id' AS call_id,
       i.body -> 'args' AS args, r.body ->> 'outcome' AS outcome, r.body -> 'result' AS result,
       r.body ->> 'error_type' AS error_type, r.body ->> 'error_message' AS error_message, i.occurred_at AS begun_at,
       r.occurred_at AS ended_at, (r.body ->> 'duration')::bigint AS duration_micros
FROM every_event AS i
LEFT JOIN LATERAL (
    SELECT * FROM every_event AS e
    WHERE e.tenant = i.tenant AND e.causation_id = i.event_id AND e.kind = 'tool_result' AND NOT e.unread OFFSET 0) AS r ON true
WHERE i.kind = 'tool_intent' AND NOT i.unread;

-- Which tasks a document reached, and which of their writes landed after it was read. Whether one landed is what its target
-- says: true for every verdict that found something of it there.
CREATE VIEW retrievals_by_source WITH (security_invoker) AS
SELECT r.tenant, r.source, r.version, r.digest, r.task_id, t.task_ref, t.title, t.workflow, t.agent, t.parent_task_id,
       r.retrievals, r.best_place, r.oldest_as_of, r.first_retrieved_at, r.last_retrieved_at,
       w.writes, w.landed, w.not_landed, w.writes - w.landed - w.not_landed AS not_known, w.drift
FROM (
    SELECT tenant, source, version, digest, task_id, count(DISTINCT event_id) AS retrievals, min(place) AS best_place,
           min(as_of) AS oldest_as_of, min(retrieved_at) AS first_retrieved_at, max(retrieved_at) AS last_retrieved_at
    FROM retrieval_source GROUP BY tenant, source, version, digest, task_id) AS r
JOIN task AS t USING (tenant, task_id)
CROSS JOIN LATERAL (
    SELECT count(*) AS writes,
           count(*) FILTER (WHERE s.verdict IN ('applied', 'partial', 'duplicated', 'mismatched')) AS landed,
           count(*) FILTER (WHERE s.verdict = 'not_applied') AS not_landed, count(*) FILTER (WHERE s.drift) AS drift
    FROM effect_state AS s
    WHERE s.tenant = r.tenant AND s.task_id = r.task_id AND s.mode = 'live' AND s.intent_at >= r.first_retrieved_at) AS w;

-- What persons and policies refused, and the results that say denied.
CREATE VIEW denials WITH (security_invoker) AS
SELECT d.tenant, d.task_id, d.event_id, d.kind, d.mode, d.workflow, d.agent, d.release, d.principal, d.on_behalf_of,
       d.effect_id, d.attempt, d.causation_id, NULL AS tool, NULL AS target, d.body ->> 'about' AS about,
       d.body ->> 'by' AS denied_by, d.body ->> 'reason' AS reason, d.body -> 'details' AS details, d.occurred_at
FROM every_event AS d WHERE d.kind = 'denial' AND NOT d.unread
UNION ALL
SELECT r.tenant, r.task_id, r.event_id, r.kind, r.mode, r.workflow, r.agent, r.release, r.principal, r.on_behalf_of,
       r.effect_id, r.attempt, r.causation_id, s.tool, s.target, r.body ->> 'tool', NULL, r.body ->> 'error_message',
       r.body -> 'result', r.occurred_at
FROM effect AS s
CROSS JOIN LATERAL (SELECT * FROM every_event AS e WHERE e.tenant = s.tenant AND e.effect_id = s.effect_id OFFSET 0) AS r
WHERE s.denied > 0 AND r.kind = 'tool_result' AND NOT r.unread AND r.body ->> 'outcome' = 'denied';

-- Five or more second or later attempts at one tool and target of a tenant within a minute of the agents' clocks.
CREATE VIEW retry_storms WITH (security_invoker) AS
SELECT i.tenant, i.body ->> 'tool' AS tool, i.body ->> 'target' AS target,
       date_bin('1 minute', i.occurred_at, '2000-01-01 00:00:00+00') AS minute, count(*) AS retries,
       max(i.attempt) AS highest_attempt, count(DISTINCT i.effect_id) AS effects, count(DISTINCT i.task_id) AS tasks,
       array_agg(DISTINCT i.agent) AS agents, array_agg(DISTINCT i.mode) AS modes,
       count(DISTINCT i.effect_id) FILTER (WHERE s.outcome IN ('ok', 'accepted')) AS effects_claimed,
       count(DISTINCT i.effect_id) FILTER (WHERE s.verdict = 'duplicated') AS effects_duplicated,
       min(i.occurred_at) AS first_at, max(i.occurred_at) AS last_at
FROM every_event AS i
LEFT JOIN LATERAL (
    SELECT * FROM effect_state AS e WHERE e.tenant = i.tenant AND e.effect_id = i.effect_id OFFSET 0) AS s ON true
WHERE i.kind = 'tool_intent' AND i.attempt > 1 AND NOT i.unread
GROUP BY 1, 2, 3, 4
HAVING count(*) >= 5;

CREATE VIEW cost_by_task WITH (security_invoker) AS
SELECT c.tenant, c.task_id, t.task_ref, t.title, t.workflow, t.agent, t.parent_task_id, t.status,
       nullif(c.model, '') AS model, nullif(c.currency, '') AS currency, c.cost, c.completions, c.unpriced, c.input_tokens,
       c.output_tokens, c.cached_tokens, t.first_at, t.last_at
FROM task_cost AS c JOIN task AS t USING (tenant, task_id);

-- What two tenants can't share unless something crossed over, and what came in under a foreign name. Under a tenant's own login
-- there is one tenant, so nothing.
CREATE VIEW cross_tenant_suspects WITH (security_invoker) AS
SELECT 'effect' AS suspicion, effect_id::text AS shared, array_agg(tenant ORDER BY tenant) AS tenants,
       count(*) AS sightings, min(last_appended_at) AS first_at, max(last_appended_at) AS last_at,
       'the same idempotency key: one identity key for both, or one tenant''s write under the other''s name' AS means
FROM effect GROUP BY effect_id HAVING count(*) > 1
UNION ALL
SELECT 'trace', trace_id::text, array_agg(DISTINCT tenant ORDER BY tenant), count(*), min(appended_at), max(appended_at),
       'one trace started tasks of both: a request of one was served as the other'
FROM event WHERE kind = 'task_started' AND trace_id IS NOT NULL
GROUP BY trace_id HAVING min(tenant) <> max(tenant)
UNION ALL
SELECT 'parent', p.task_id::text, array_agg(DISTINCT u.tenant ORDER BY u.tenant), count(DISTINCT c.task_id), min(c.first_at),
       max(c.last_at), 'a task names one of another tenant as its parent'
FROM task AS c JOIN task AS p ON p.task_id = c.parent_task_id AND p.tenant <> c.tenant
CROSS JOIN LATERAL (VALUES (c.tenant), (p.tenant)) AS u (tenant)
GROUP BY p.task_id
UNION ALL
SELECT 'resource', concat_ws(' ', r.target, r.resource, r.key), array_agg(DISTINCT r.tenant ORDER BY r.tenant), count(*),
       min(e.verdict_at), max(e.verdict_at), 'both wrote the same row of a target'
FROM effect_resource AS r JOIN effect AS e USING (tenant, effect_id)
GROUP BY r.target, r.resource, r.key HAVING min(r.tenant) <> max(r.tenant)
UNION ALL
SELECT 'letter', reason, coalesce(array_agg(DISTINCT tenant ORDER BY tenant) FILTER (WHERE tenant IS NOT NULL), '{}'), count(*),
       min(placed_at), max(placed_at), 'a record under a name or a key that is not its sender''s was set aside'
FROM counterfoil.dead_letter WHERE letter_class = 'foreign' GROUP BY reason;

-- ---------------------------------------------------------------------------------------------------
-- Full-text search (docs/decisions/0016).

-- What is searched of an event: at most 50,000 characters, so that its words never exceed what a tsvector holds.
CREATE FUNCTION text_of(kind text, body json) RETURNS text LANGUAGE plpgsql IMMUTABLE AS $$
DECLARE
    b record;
BEGIN
    SELECT * INTO b FROM json_to_record(body)
        AS r (content json, text text, decision text, rationale text, title text, input text);
    RETURN left(CASE
        WHEN kind <> 'message' THEN concat_ws(E'\n', b.text, b.decision, b.rationale, b.title, b.input)
        WHEN json_typeof(b.content) = 'string' THEN b.content #>> '{}'
        ELSE (SELECT string_agg(part #>> '{}', E'\n') FROM jsonb_path_query(
                  b.content::jsonb, 'strict $.** ? (@.type() == "string")') AS part)
    END, 50000);
EXCEPTION WHEN data_exception OR program_limit_exceeded THEN
    RETURN left(body ->> 'content', 50000); -- JSON that jsonb refuses
END
$$;

-- Without what the parser tries to take for paths and addresses: 50,000 characters of a_a_a, ./././ or e@11e@11 take it a minute.
CREATE FUNCTION searched(content text) RETURNS text LANGUAGE sql IMMUTABLE RETURN translate(content, '_/~@', '    ');

-- The configuration simple: no stemming and no stop words, so that ids, codes and every language are found as they stand. What
-- the parser refuses has no words, and keeps no other text waiting.
CREATE FUNCTION words_of(content text) RETURNS tsvector LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
    RETURN to_tsvector('pg_catalog.simple', coalesce(content, ''));
EXCEPTION WHEN data_exception OR program_limit_exceeded THEN
    RETURN '';
END
$$;

-- Puts down the words of at most so many waiting texts; returns how many those were. Several may do so at once, but none while
-- events are dropped, or words would outlive them. Its body is bound to these very tables: no search_path can lead it to others.
CREATE FUNCTION index_texts(most int) RETURNS int LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
BEGIN ATOMIC
    SELECT FROM counterfoil.turn WHERE name = 'texts' FOR SHARE;
    WITH taken AS (
        DELETE FROM text_waiting
        WHERE ctid = ANY (ARRAY(SELECT w.ctid FROM text_waiting AS w LIMIT most FOR UPDATE SKIP LOCKED))
        RETURNING tenant, event_id
    ), put AS (
        INSERT INTO counterfoil.event_text (tenant, event_id, task_id, kind, occurred_at, words)
        SELECT e.tenant, e.event_id, e.task_id, e.kind, e.occurred_at, words_of(searched(text_of(e.kind, e.body)))
        FROM taken AS i, LATERAL (
            SELECT * FROM every_event AS v WHERE v.tenant = i.tenant AND v.event_id = i.event_id AND NOT v.unread OFFSET 0) AS e
        WHERE NOT EXISTS (SELECT FROM counterfoil.event_text AS t WHERE t.tenant = i.tenant AND t.event_id = i.event_id)
        ON CONFLICT DO NOTHING
    )
    SELECT count(*)::int FROM taken;
END;

-- The latest texts in which these words stand (as websearch_to_tsquery reads them: "a phrase", or, -not; it takes anything).
-- With the owner's rights, since row-level security keeps an index of words from being looked up; a tenant's own login finds its
-- own texts, an operator those of one tenant or of all, anybody else none. The tenant is asked for last, so that no statistics
-- make another index look better.
CREATE FUNCTION find_texts(of_tenant text, words text, most int)
RETURNS TABLE (tenant text, event_id uuid, task_id uuid, kind text, occurred_at timestamptz)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
BEGIN ATOMIC
    WITH asking AS MATERIALIZED (
        SELECT counterfoil.current_tenant() AS tenant, pg_has_role(session_user, 'counterfoil_operator', 'MEMBER') AS is_operator
    ), found AS MATERIALIZED (
        SELECT t.tenant, t.event_id, t.task_id, t.kind, t.occurred_at FROM counterfoil.event_text AS t
        WHERE t.words @@ websearch_to_tsquery('pg_catalog.simple', searched(find_texts.words))
    )
    SELECT f.tenant, f.event_id, f.task_id, f.kind, f.occurred_at FROM found AS f, asking AS a
    WHERE (f.tenant = a.tenant OR (a.tenant IS NULL AND a.is_operator))
      AND (find_texts.of_tenant IS NULL OR f.tenant = find_texts.of_tenant)
    ORDER BY f.occurred_at DESC, f.event_id DESC LIMIT find_texts.most;
END;

-- ---------------------------------------------------------------------------------------------------
-- Who may do what. Nobody may DELETE or TRUNCATE.

CALL counterfoil.close_to_others('retrieval_source');
CALL counterfoil.close_to_others('task_cost');
CALL counterfoil.close_to_others('text_waiting');
CREATE POLICY owner_rows ON event FOR SELECT TO counterfoil_owner USING (true);
CREATE POLICY owner_rows ON event_astray FOR SELECT TO counterfoil_owner USING (true);
CREATE POLICY owner_rows ON text_waiting TO counterfoil_owner USING (true);

REVOKE EXECUTE ON FUNCTION index_texts, find_texts FROM PUBLIC;
GRANT EXECUTE ON FUNCTION index_texts TO counterfoil_ingester;
GRANT EXECUTE ON FUNCTION find_texts TO counterfoil_auditor, counterfoil_operator;

GRANT SELECT ON timeline, effects_open, tool_calls, retrieval_source, retrievals_by_source, denials,
    retry_storms, task_cost, cost_by_task, cross_tenant_suspects
    TO counterfoil_auditor, counterfoil_operator;
GRANT SELECT ON text_waiting TO counterfoil_operator;
GRANT SELECT, INSERT, UPDATE ON retrieval_source, task_cost TO counterfoil_ingester;
GRANT INSERT ON text_waiting TO counterfoil_ingester;
