-- Copies of the tasks that ingest wrote, with ids and references of their own: by these a benchmark's store grows faster than by
-- ingest. A copy's task_ref has two hyphens. twin(id, number) keeps the first 48 bits, which are the time of a UUIDv7.

-- name: analyze
ANALYZE

-- name: drop_index
DROP INDEX event_text_words

-- name: make_index
CREATE INDEX event_text_words ON event_text USING gin (words)

-- name: make_twin
CREATE OR REPLACE FUNCTION twin(id uuid, number int) RETURNS uuid LANGUAGE sql IMMUTABLE STRICT AS $$
    SELECT (left(replace(id::text, '-', ''), 12) || '7' || substr(md5(id::text || number), 1, 3) || '8'
            || substr(md5(id::text || number), 4, 15))::uuid
$$

-- name: add_task
INSERT INTO task
SELECT tenant, twin(task_id, %(number)s::int), task_ref || '-' || %(number)s::int, parent_task_id, conversation_id, subject_ref, workflow,
       agent, twin(first_event_id, %(number)s::int), twin(start_event_id, %(number)s::int), title, twin(end_event_id, %(number)s::int), status,
       first_at, last_at, events, input_tokens, output_tokens, cost
FROM task WHERE task_ref !~ '-.*-'

-- name: add_event
INSERT INTO event
SELECT tenant, twin(event_id, %(number)s::int), retention_class, kind, workflow, environment, mode, twin(task_id, %(number)s::int),
       task_ref || '-' || %(number)s::int, parent_task_id, conversation_id, subject_ref, agent, release, principal, on_behalf_of,
       twin(effect_id, %(number)s::int), attempt, twin(causation_id, %(number)s::int), twin(trace_id, %(number)s::int), span_id,
       twin(producer_id, %(number)s::int), seq, occurred_at, redaction, body_schema, unread, body, source_id, partition,
       "offset" + %(number)s::int * 1000000::bigint, appended_at, value, value_sha256
FROM event WHERE task_ref !~ '-.*-' AND "offset" < 1000000

-- name: add_effect
INSERT INTO effect
SELECT tenant, twin(effect_id, %(number)s::int), twin(task_id, %(number)s::int), workflow, agent, mode, twin(first_event_id, %(number)s::int),
       twin(intent_event_id, %(number)s::int), redaction, tool, target, step, args, expect, intent_partition,
       intent_offset + %(number)s::int * 1000000::bigint, intent_at, intents, ok, accepted, partial, unknown, failed, denied,
       twin(reply_event_id, %(number)s::int), reply, accept_deadline, last_appended_at, verdict, check_seq,
       twin(verdict_event_id, %(number)s::int), verdict_reason, verdict_at, contract_version, contract_digest, evidence, given_up
FROM effect WHERE intent_offset < 1000000

-- name: add_effect_resource
INSERT INTO effect_resource
SELECT r.tenant, r.target, r.resource, r.key || '-' || %(number)s::int, twin(r.effect_id, %(number)s::int)
FROM effect_resource AS r JOIN effect AS e USING (tenant, effect_id) WHERE e.intent_offset < 1000000

-- name: add_producer
INSERT INTO producer
SELECT tenant, twin(producer_id, %(number)s::int), twin(task_id, %(number)s::int), seqs, p.partition, p.last_at, opened, closed, beat_offset,
       beat_interval, adopted_by
FROM producer AS p JOIN task AS t USING (tenant, task_id) WHERE t.task_ref !~ '-.*-'

-- name: add_retrieval_source
INSERT INTO retrieval_source
SELECT tenant, source, twin(event_id, %(number)s::int), place, twin(task_id, %(number)s::int), version, as_of, digest, retrieved_at
FROM retrieval_source AS r JOIN task AS t USING (tenant, task_id) WHERE t.task_ref !~ '-.*-'

-- name: add_task_cost
INSERT INTO task_cost
SELECT c.tenant, twin(c.task_id, %(number)s::int), model, currency, completions, unpriced, c.input_tokens, c.output_tokens,
       c.cached_tokens, c.cost
FROM task_cost AS c JOIN task AS t USING (tenant, task_id) WHERE t.task_ref !~ '-.*-'

-- name: add_event_text
INSERT INTO event_text
SELECT x.tenant, twin(x.event_id, %(number)s::int), twin(x.task_id, %(number)s::int), x.kind, x.occurred_at,
       x.words || to_tsvector('simple', 'twin' || %(number)s::int)
FROM event_text AS x JOIN task AS t USING (tenant, task_id) WHERE t.task_ref !~ '-.*-'
