-- Named queries of the ingest loop. A batch is copied into its partitions, and folded from an array of facts.

-- name: copy_events
-- Straight into a partition, which no policy binds: COPY FROM is refused where row-level security does.
COPY {leaf} (
    event_id, kind, body_schema, unread, body, tenant, workflow, retention_class, environment, mode, task_id, task_ref,
    parent_task_id, conversation_id, subject_ref, agent, release, principal, on_behalf_of, effect_id, attempt,
    causation_id, trace_id, span_id, producer_id, seq, occurred_at, redaction, source_id, partition, "offset",
    appended_at, value, value_sha256
) FROM STDIN (FORMAT binary)

-- name: lock_leaves
LOCK TABLE {leaves} IN ROW EXCLUSIVE MODE

-- name: may_stand_elsewhere
-- Whether an id that is new to its leaf may be known all the same: in the leaf of another class; astray; or it was astray, and its
-- hash alone stands, while it lies in a leaf of today.
SELECT (SELECT count(*) > 1 FROM counterfoil.retention_rule)
    OR EXISTS (SELECT FROM event_astray)
    OR EXISTS (SELECT FROM counterfoil.event_hash
               WHERE may_return AND event_id < counterfoil.first_id(now() + interval '4 months')) AS found

-- name: find_known
-- An id stands once, whichever table holds it: the window moves on, and a class may be another on its way. What was dropped
-- is known by its hash, and does not come back.
-- OFFSET keeps each look-up one of the index, whatever the planner thinks of the batch.
SELECT i.place, e.retention_class, e.value_sha256, e.source_id, e.partition, e."offset"
FROM unnest(%(tenants)s::text[], %(ids)s::uuid[]) WITH ORDINALITY AS i (tenant, event_id, place),
     LATERAL (SELECT retention_class, value_sha256, source_id, partition, "offset" FROM event AS e
              WHERE e.tenant = i.tenant AND e.event_id = i.event_id
              UNION ALL
              SELECT retention_class, value_sha256, source_id, partition, "offset" FROM event_astray AS e
              WHERE e.tenant = i.tenant AND e.event_id = i.event_id
              UNION ALL
              SELECT retention_class, value_sha256, source_id, partition, "offset" FROM counterfoil.event_hash AS e
              WHERE e.tenant = i.tenant AND e.event_id = i.event_id
              OFFSET 0) AS e

-- name: note_duplicates
INSERT INTO duplicate (tenant, source_id, partition, "offset", event_id, value_sha256)
SELECT * FROM unnest(%(tenants)s::text[], %(source_ids)s::smallint[], %(partitions)s::int[], %(offsets)s::bigint[],
                     %(ids)s::uuid[], %(digests)s::bytea[])
ON CONFLICT DO NOTHING -- read before, by another consumer or before its offset was set back

-- name: fold
-- All that is folded of a batch, in one statement, so that its facts are taken apart once. No fold reads what another writes.
-- Of events that were stored unread, and folded as far as their envelopes go, `are_counted` says that they were counted then.
WITH given AS MATERIALIZED (
    SELECT f.*, (f.spent ->> 'input_tokens')::numeric AS input_tokens, (f.spent ->> 'output_tokens')::numeric AS output_tokens,
           CASE WHEN f.spent ->> 'cost' ~ '^-?[0-9]{1,20}(\.[0-9]{1,20})?$' THEN (f.spent ->> 'cost')::numeric END AS cost
    FROM (SELECT i.*, CASE WHEN i.kind = 'completion' AND NOT i.unread THEN i.body::jsonb END AS spent,
                 CASE WHEN i.effect_id IS NOT NULL AND NOT i.unread
                       AND i.kind IN ('tool_intent', 'tool_result', 'verdict', 'dead_lettered') THEN i END AS fact
          FROM unnest(%(facts)s::counterfoil.fact[]) AS i OFFSET 0) AS f -- so that the JSON is read once, not once a field
), tasks AS (
    WITH told AS (
        SELECT i.*, i.kind = 'task_started' AND NOT i.unread AS starts,
               i.kind IN ('task_started', 'task_suspended', 'task_ended') AND NOT i.unread AS turns
        FROM given AS i
    ), summed AS (
        SELECT i.tenant, i.task_id, max(i.task_ref) AS task_ref, max(i.parent_task_id::text)::uuid AS parent_task_id,
               max(i.conversation_id) AS conversation_id, max(i.subject_ref) AS subject_ref,
               (array_agg(i.event_id ORDER BY i.event_id))[1] AS first_event_id,
               (array_agg(i.workflow ORDER BY i.event_id))[1] AS workflow, (array_agg(i.agent ORDER BY i.event_id))[1] AS agent,
               (array_agg(i.event_id ORDER BY i.event_id) FILTER (WHERE i.starts))[1] AS start_event_id,
               (array_agg(i.body ->> 'title' ORDER BY i.event_id) FILTER (WHERE i.starts))[1] AS title,
               array_agg(i.event_id ORDER BY i.event_id) FILTER (WHERE i.turns) AS turn_event_ids,
               array_agg(CASE i.kind WHEN 'task_started' THEN 'open' WHEN 'task_suspended' THEN 'suspended'
                                     ELSE i.body ->> 'status' END ORDER BY i.event_id) FILTER (WHERE i.turns) AS statuses,
               min(i.occurred_at) AS first_at, max(i.occurred_at) AS last_at,
               CASE WHEN %(are_counted)s THEN 0 ELSE count(*) END AS events,
               sum(i.input_tokens) AS input_tokens, sum(i.output_tokens) AS output_tokens, sum(i.cost) AS cost
        FROM told AS i
        GROUP BY i.tenant, i.task_id
    )
    INSERT INTO task AS t (
        tenant, task_id, task_ref, parent_task_id, conversation_id, subject_ref, workflow, agent, first_event_id,
        start_event_id, title, end_event_id, status, first_at, last_at, events, input_tokens, output_tokens, cost)
    SELECT
        tenant, task_id, task_ref, parent_task_id, conversation_id, subject_ref, workflow, agent, first_event_id, start_event_id,
        title, turn_event_ids[cardinality(turn_event_ids)], statuses[cardinality(statuses)], first_at, last_at, events,
        coalesce(input_tokens, 0), coalesce(output_tokens, 0), coalesce(cost, 0)
    FROM summed
    ORDER BY tenant, task_id
    ON CONFLICT (tenant, task_id) DO UPDATE SET
        task_ref = greatest(t.task_ref, excluded.task_ref),
        parent_task_id = greatest(t.parent_task_id, excluded.parent_task_id),
        conversation_id = greatest(t.conversation_id, excluded.conversation_id),
        subject_ref = greatest(t.subject_ref, excluded.subject_ref),
        workflow = CASE WHEN excluded.first_event_id < t.first_event_id THEN excluded.workflow ELSE t.workflow END,
        agent = CASE WHEN excluded.first_event_id < t.first_event_id THEN excluded.agent ELSE t.agent END,
        first_event_id = least(t.first_event_id, excluded.first_event_id),
        title = CASE WHEN excluded.start_event_id < t.start_event_id OR t.start_event_id IS NULL THEN excluded.title ELSE t.title END,
        start_event_id = least(t.start_event_id, excluded.start_event_id),
        status = CASE WHEN excluded.end_event_id > t.end_event_id OR t.end_event_id IS NULL THEN excluded.status ELSE t.status END,
        end_event_id = greatest(t.end_event_id, excluded.end_event_id),
        first_at = least(t.first_at, excluded.first_at),
        last_at = greatest(t.last_at, excluded.last_at),
        events = t.events + excluded.events,
        input_tokens = t.input_tokens + excluded.input_tokens,
        output_tokens = t.output_tokens + excluded.output_tokens,
        cost = t.cost + excluded.cost
), costs AS (
    WITH told AS (
        SELECT i.tenant, i.task_id, left(coalesce(i.spent ->> 'model', ''), 200) AS model,
               left(coalesce(i.spent ->> 'currency', ''), 200) AS currency, i.input_tokens, i.output_tokens,
               (i.spent ->> 'cached_tokens')::numeric AS cached_tokens, i.cost
        FROM given AS i WHERE i.spent IS NOT NULL
    )
    INSERT INTO task_cost AS t (
        tenant, task_id, model, currency, completions, unpriced, input_tokens, output_tokens, cached_tokens, cost)
    SELECT tenant, task_id, model, currency, count(*), count(*) FILTER (WHERE cost IS NULL), coalesce(sum(input_tokens), 0),
           coalesce(sum(output_tokens), 0), coalesce(sum(cached_tokens), 0), coalesce(sum(cost), 0)
    FROM told
    GROUP BY tenant, task_id, model, currency
    ORDER BY tenant, task_id, model, currency
    ON CONFLICT (tenant, task_id, model, currency) DO UPDATE SET
        completions = t.completions + excluded.completions,
        unpriced = t.unpriced + excluded.unpriced,
        input_tokens = t.input_tokens + excluded.input_tokens,
        output_tokens = t.output_tokens + excluded.output_tokens,
        cached_tokens = t.cached_tokens + excluded.cached_tokens,
        cost = t.cost + excluded.cost
), producers AS (
    INSERT INTO producer AS p (
        tenant, producer_id, task_id, seqs, partition, last_at, opened, closed, beat_offset, beat_interval, adopted_by)
    SELECT
        i.tenant, i.producer_id, i.task_id, range_agg(int8range(i.seq, i.seq + 1)), max(i.partition), max(i.appended_at),
        bool_or(i.kind = 'producer_opened'), bool_or(i.kind = 'producer_closed'),
        max(i."offset") FILTER (WHERE i.kind IN ('producer_opened', 'producer_beat', 'producer_closed')),
        max((i.body ->> 'beat_interval')::bigint) FILTER (WHERE i.kind = 'producer_opened'),
        max(i.body ->> 'adopted_by') FILTER (WHERE i.kind = 'producer_closed')::uuid
    FROM given AS i
    GROUP BY i.tenant, i.producer_id, i.task_id
    ORDER BY i.tenant, i.producer_id, i.task_id
    ON CONFLICT (tenant, producer_id, task_id) DO UPDATE SET
        seqs = p.seqs + excluded.seqs,
        partition = greatest(p.partition, excluded.partition),
        last_at = greatest(p.last_at, excluded.last_at),
        opened = p.opened OR excluded.opened,
        closed = p.closed OR excluded.closed,
        beat_offset = greatest(p.beat_offset, excluded.beat_offset),
        beat_interval = greatest(p.beat_interval, excluded.beat_interval),
        adopted_by = greatest(p.adopted_by, excluded.adopted_by)
), claims AS (
    -- A number beyond what a multirange holds is left to the event's own row: it is no number that a recorder gives out.
    WITH heard AS (
        SELECT i.* FROM given AS i WHERE i.kind IN ('producer_beat', 'producer_closed', 'gap') AND NOT i.unread
    ), said AS (
        SELECT h.tenant, h.producer_id, (c ->> 'task_id')::uuid AS task_id, (c ->> 'last_seq')::bigint AS last_seq,
               NULL::int8range AS gap, h.appended_at
        FROM heard AS h, json_array_elements(h.body -> 'open_tasks') AS c
        WHERE h.kind <> 'gap'
        UNION ALL
        SELECT h.tenant, h.producer_id, (h.body ->> 'gap_task_id')::uuid, NULL,
               int8range((h.body ->> 'first_seq')::bigint, (h.body ->> 'last_seq')::bigint, '[]'), h.appended_at
        FROM heard AS h
        WHERE h.kind = 'gap' AND (h.body ->> 'first_seq')::bigint BETWEEN 0 AND (h.body ->> 'last_seq')::bigint
          AND (h.body ->> 'last_seq')::bigint < 9223372036854775806
    )
    INSERT INTO producer_claim AS p (tenant, producer_id, task_id, last_seq, gaps, said_at)
    SELECT tenant, producer_id, task_id, max(last_seq), coalesce(range_agg(gap) FILTER (WHERE gap IS NOT NULL), '{}'),
           max(appended_at)
    FROM said WHERE coalesce(last_seq, 0) < 9223372036854775806
    GROUP BY tenant, producer_id, task_id
    ORDER BY tenant, producer_id, task_id
    ON CONFLICT (tenant, producer_id, task_id) DO UPDATE SET
        last_seq = greatest(p.last_seq, excluded.last_seq),
        gaps = p.gaps + excluded.gaps,
        said_at = greatest(p.said_at, excluded.said_at)
), effects AS (
    -- An effect is live as soon as one attempt is, and then only its live attempts count: a rehearsal or a replay of the same
    -- write has the same id, and says nothing about what is to be found at the target.
    WITH told AS (
        SELECT i.*, i.kind = 'tool_intent' AS is_intent, i.kind = 'tool_intent' AND i.mode = 'live' AS is_live_intent,
               i.kind = 'verdict' AS is_verdict,
               CASE WHEN i.kind = 'tool_result' AND i.mode = 'live' THEN i.body ->> 'outcome' END AS said
        FROM given AS i
        WHERE i.fact IS DISTINCT FROM NULL -- that is, there is one: of a row, IS NOT NULL asks for every field
    ), summed AS (
        SELECT f.tenant, f.effect_id, min(f.task_id::text)::uuid AS task_id,
               (array_agg(f.fact ORDER BY f.event_id))[1] AS first, bool_or(f.mode = 'live') AS is_live,
               (array_agg(f.fact ORDER BY f.event_id) FILTER (WHERE f.is_intent))[1] AS intent,
               min(f.partition) FILTER (WHERE f.is_live_intent) AS intent_partition,
               min(f."offset") FILTER (WHERE f.is_live_intent) AS intent_offset,
               min(f.occurred_at) FILTER (WHERE f.is_live_intent) AS intent_at,
               count(*) FILTER (WHERE f.is_live_intent) AS intents,
               count(*) FILTER (WHERE f.said = 'ok') AS ok, count(*) FILTER (WHERE f.said = 'accepted') AS accepted,
               count(*) FILTER (WHERE f.said = 'partial') AS partial, count(*) FILTER (WHERE f.said = 'unknown') AS unknown,
               count(*) FILTER (WHERE f.said = 'failed') AS failed, count(*) FILTER (WHERE f.said = 'denied') AS denied,
               (array_agg(f.fact ORDER BY f.event_id DESC)
                FILTER (WHERE f.said IS NOT NULL AND f.body ->> 'result' IS NOT NULL))[1] AS replied,
               -- Held within what a Python datetime holds: Postgres would store the year 148000, and no reader of ours could.
               max(to_timestamp(least(greatest((f.body ->> 'deadline')::bigint, -62e15), 253e15) / 1e6))
               FILTER (WHERE f.said = 'accepted' AND f.body ->> 'deadline' IS NOT NULL) AS accept_deadline,
               max(CASE WHEN f.is_verdict OR f.kind = 'dead_lettered' THEN '-infinity' ELSE f.appended_at END) AS last_appended_at,
               (array_agg(f.fact ORDER BY (f.body ->> 'check_seq')::bigint DESC, f.event_id DESC)
                FILTER (WHERE f.is_verdict))[1] AS judged,
               count(*) FILTER (WHERE f.kind = 'dead_lettered') AS given_up
        FROM told AS f
        GROUP BY f.tenant, f.effect_id
    )
    INSERT INTO effect AS e (
        tenant, effect_id, task_id, workflow, agent, mode, first_event_id, intent_event_id, redaction, tool, target, step,
        args, expect, intent_partition, intent_offset, intent_at, intents, ok, accepted, partial, unknown, failed, denied, reply_event_id,
        reply, accept_deadline, last_appended_at, verdict, check_seq, verdict_event_id, verdict_reason, verdict_at,
        contract_version, contract_digest, evidence, given_up)
    SELECT
        tenant, effect_id, task_id, (first).workflow, (first).agent, CASE WHEN is_live THEN 'live' ELSE (first).mode END,
        (first).event_id, (intent).event_id, (intent).redaction, (intent).body ->> 'tool', (intent).body ->> 'target',
        (intent).body ->> 'step', (intent).body -> 'args', (intent).body -> 'expect', intent_partition, intent_offset,
        intent_at, intents, ok, accepted, partial, unknown, failed, denied, (replied).event_id, (replied).body -> 'result',
        accept_deadline, last_appended_at, (judged).body ->> 'verdict', ((judged).body ->> 'check_seq')::bigint,
        (judged).event_id, (judged).body ->> 'reason', (judged).occurred_at, (judged).body ->> 'contract_version',
        (judged).body ->> 'contract_digest', (judged).body -> 'evidence', given_up
    FROM summed
    ORDER BY tenant, effect_id
    ON CONFLICT (tenant, effect_id) DO UPDATE SET
        task_id = least(e.task_id, excluded.task_id),
        workflow = CASE WHEN excluded.first_event_id < e.first_event_id THEN excluded.workflow ELSE e.workflow END,
        agent = CASE WHEN excluded.first_event_id < e.first_event_id THEN excluded.agent ELSE e.agent END,
        mode = CASE WHEN 'live' IN (e.mode, excluded.mode) THEN 'live'
                    WHEN excluded.first_event_id < e.first_event_id THEN excluded.mode ELSE e.mode END,
        first_event_id = least(e.first_event_id, excluded.first_event_id),
        redaction = CASE WHEN excluded.intent_event_id < e.intent_event_id OR e.intent_event_id IS NULL THEN excluded.redaction ELSE e.redaction END,
        tool = CASE WHEN excluded.intent_event_id < e.intent_event_id OR e.intent_event_id IS NULL THEN excluded.tool ELSE e.tool END,
        target = CASE WHEN excluded.intent_event_id < e.intent_event_id OR e.intent_event_id IS NULL THEN excluded.target ELSE e.target END,
        step = CASE WHEN excluded.intent_event_id < e.intent_event_id OR e.intent_event_id IS NULL THEN excluded.step ELSE e.step END,
        args = CASE WHEN excluded.intent_event_id < e.intent_event_id OR e.intent_event_id IS NULL THEN excluded.args ELSE e.args END,
        expect = CASE WHEN excluded.intent_event_id < e.intent_event_id OR e.intent_event_id IS NULL THEN excluded.expect ELSE e.expect END,
        intent_event_id = least(e.intent_event_id, excluded.intent_event_id),
        intent_partition = least(e.intent_partition, excluded.intent_partition),
        intent_offset = least(e.intent_offset, excluded.intent_offset),
        intent_at = least(e.intent_at, excluded.intent_at),
        intents = e.intents + excluded.intents,
        ok = e.ok + excluded.ok,
        accepted = e.accepted + excluded.accepted,
        partial = e.partial + excluded.partial,
        unknown = e.unknown + excluded.unknown,
        failed = e.failed + excluded.failed,
        denied = e.denied + excluded.denied,
        reply = CASE WHEN excluded.reply_event_id > e.reply_event_id OR e.reply_event_id IS NULL THEN excluded.reply ELSE e.reply END,
        reply_event_id = greatest(e.reply_event_id, excluded.reply_event_id),
        accept_deadline = greatest(e.accept_deadline, excluded.accept_deadline),
        last_appended_at = greatest(e.last_appended_at, excluded.last_appended_at),
        verdict = CASE WHEN (excluded.check_seq, excluded.verdict_event_id) > (coalesce(e.check_seq, '-9223372036854775808'), coalesce(e.verdict_event_id, '00000000-0000-0000-0000-000000000000')) THEN excluded.verdict ELSE e.verdict END,
        verdict_reason = CASE WHEN (excluded.check_seq, excluded.verdict_event_id) > (coalesce(e.check_seq, '-9223372036854775808'), coalesce(e.verdict_event_id, '00000000-0000-0000-0000-000000000000')) THEN excluded.verdict_reason ELSE e.verdict_reason END,
        verdict_at = CASE WHEN (excluded.check_seq, excluded.verdict_event_id) > (coalesce(e.check_seq, '-9223372036854775808'), coalesce(e.verdict_event_id, '00000000-0000-0000-0000-000000000000')) THEN excluded.verdict_at ELSE e.verdict_at END,
        contract_version = CASE WHEN (excluded.check_seq, excluded.verdict_event_id) > (coalesce(e.check_seq, '-9223372036854775808'), coalesce(e.verdict_event_id, '00000000-0000-0000-0000-000000000000')) THEN excluded.contract_version ELSE e.contract_version END,
        contract_digest = CASE WHEN (excluded.check_seq, excluded.verdict_event_id) > (coalesce(e.check_seq, '-9223372036854775808'), coalesce(e.verdict_event_id, '00000000-0000-0000-0000-000000000000')) THEN excluded.contract_digest ELSE e.contract_digest END,
        evidence = CASE WHEN (excluded.check_seq, excluded.verdict_event_id) > (coalesce(e.check_seq, '-9223372036854775808'), coalesce(e.verdict_event_id, '00000000-0000-0000-0000-000000000000')) THEN excluded.evidence ELSE e.evidence END,
        verdict_event_id = CASE WHEN (excluded.check_seq, excluded.verdict_event_id) > (coalesce(e.check_seq, '-9223372036854775808'), coalesce(e.verdict_event_id, '00000000-0000-0000-0000-000000000000')) THEN excluded.verdict_event_id ELSE e.verdict_event_id END,
        check_seq = CASE WHEN (excluded.check_seq, excluded.verdict_event_id) > (coalesce(e.check_seq, '-9223372036854775808'), coalesce(e.verdict_event_id, '00000000-0000-0000-0000-000000000000')) THEN excluded.check_seq ELSE e.check_seq END,
        given_up = e.given_up + excluded.given_up
), resources AS (
    INSERT INTO effect_resource (tenant, target, resource, key, effect_id)
    SELECT DISTINCT i.tenant, i.body ->> 'target', r ->> 'resource', r ->> 'key', i.effect_id
    FROM given AS i, json_array_elements(i.body -> 'resources') AS r
    WHERE i.kind = 'verdict' AND i.effect_id IS NOT NULL AND NOT i.unread
    ORDER BY 1, 2, 3, 4, 5
    ON CONFLICT DO NOTHING
), changes AS (
    INSERT INTO target_change (
        tenant, change_id, target, resource, key, check_seq, verdict, reason, found_at, contract_version, evidence)
    SELECT i.tenant, i.event_id, i.body ->> 'target', r ->> 'resource', r ->> 'key', (i.body ->> 'check_seq')::bigint,
           i.body ->> 'verdict', i.body ->> 'reason', i.occurred_at, i.body ->> 'contract_version', i.body -> 'evidence'
    FROM given AS i, json_array_elements(i.body -> 'resources') AS r
    WHERE i.kind = 'verdict' AND i.effect_id IS NULL AND NOT i.unread
    ON CONFLICT DO NOTHING
), operations AS (
    -- Of several acknowledgements, and of several resolutions, of one verdict the highest event_id counts.
    WITH told AS (
        SELECT i.*, (i.body ->> 'verdict_event_id')::uuid AS verdict_event_id, i.body ->> 'operation' AS operation
        FROM given AS i
        WHERE i.kind = 'operation' AND NOT i.unread AND i.body ->> 'operation' IN ('acknowledge', 'resolve')
          AND i.body ->> 'verdict_event_id' IS NOT NULL
    ), summed AS (
        SELECT i.tenant, i.verdict_event_id, max(i.task_id::text)::uuid AS task_id,
               (array_agg(i.event_id ORDER BY i.event_id DESC) FILTER (WHERE i.operation = 'acknowledge'))[1] AS acked_event_id,
               (array_agg(i.occurred_at ORDER BY i.event_id DESC) FILTER (WHERE i.operation = 'acknowledge'))[1] AS acked_at,
               (array_agg(i.body ->> 'by' ORDER BY i.event_id DESC) FILTER (WHERE i.operation = 'acknowledge'))[1] AS acked_by,
               (array_agg(i.body ->> 'reason' ORDER BY i.event_id DESC) FILTER (WHERE i.operation = 'acknowledge'))[1] AS ack_reason,
               (array_agg(i.event_id ORDER BY i.event_id DESC) FILTER (WHERE i.operation = 'resolve'))[1] AS resolved_event_id,
               (array_agg(i.occurred_at ORDER BY i.event_id DESC) FILTER (WHERE i.operation = 'resolve'))[1] AS resolved_at,
               (array_agg(i.body ->> 'by' ORDER BY i.event_id DESC) FILTER (WHERE i.operation = 'resolve'))[1] AS resolved_by,
               (array_agg(i.body ->> 'reason' ORDER BY i.event_id DESC) FILTER (WHERE i.operation = 'resolve'))[1] AS resolve_reason
        FROM told AS i
        GROUP BY i.tenant, i.verdict_event_id
    )
    INSERT INTO verdict_operation AS o (
        tenant, verdict_event_id, task_id, acked_event_id, acked_at, acked_by, ack_reason, resolved_event_id, resolved_at,
        resolved_by, resolve_reason)
    SELECT tenant, verdict_event_id, task_id, acked_event_id, acked_at, acked_by, ack_reason, resolved_event_id, resolved_at,
           resolved_by, resolve_reason
    FROM summed
    ORDER BY tenant, verdict_event_id
    ON CONFLICT (tenant, verdict_event_id) DO UPDATE SET
        task_id = greatest(o.task_id, excluded.task_id),
        acked_at = CASE WHEN excluded.acked_event_id > o.acked_event_id OR o.acked_event_id IS NULL THEN excluded.acked_at ELSE o.acked_at END,
        acked_by = CASE WHEN excluded.acked_event_id > o.acked_event_id OR o.acked_event_id IS NULL THEN excluded.acked_by ELSE o.acked_by END,
        ack_reason = CASE WHEN excluded.acked_event_id > o.acked_event_id OR o.acked_event_id IS NULL THEN excluded.ack_reason ELSE o.ack_reason END,
        acked_event_id = greatest(o.acked_event_id, excluded.acked_event_id),
        resolved_at = CASE WHEN excluded.resolved_event_id > o.resolved_event_id OR o.resolved_event_id IS NULL THEN excluded.resolved_at ELSE o.resolved_at END,
        resolved_by = CASE WHEN excluded.resolved_event_id > o.resolved_event_id OR o.resolved_event_id IS NULL THEN excluded.resolved_by ELSE o.resolved_by END,
        resolve_reason = CASE WHEN excluded.resolved_event_id > o.resolved_event_id OR o.resolved_event_id IS NULL THEN excluded.resolve_reason ELSE o.resolve_reason END,
        resolved_event_id = greatest(o.resolved_event_id, excluded.resolved_event_id)
), repairs AS (
    INSERT INTO repair (
        tenant, target, resource, key, event_id, verdict_event_id, task_id, check_seq, repaired_by, reason, partition, "offset",
        appended_at)
    SELECT DISTINCT ON (i.tenant, i.event_id, r ->> 'resource', r ->> 'key')
           i.tenant, i.body ->> 'target', r ->> 'resource', r ->> 'key', i.event_id,
           (i.body ->> 'verdict_event_id')::uuid, i.task_id, coalesce((i.body ->> 'check_seq')::bigint, 0), i.body ->> 'by',
           i.body ->> 'reason', i.partition, i."offset", i.appended_at
    FROM given AS i, json_array_elements(i.body -> 'resources') AS r
    WHERE i.kind = 'operation' AND NOT i.unread AND i.body ->> 'operation' = 'resolve' AND i.body ->> 'target' IS NOT NULL
    ON CONFLICT DO NOTHING
), sources AS (
    INSERT INTO retrieval_source (tenant, source, event_id, place, task_id, version, as_of, digest, retrieved_at)
    SELECT i.tenant, left(s.source ->> 'id', 500), i.event_id, s.place, i.task_id, s.source ->> 'version',
           CASE WHEN s.source ->> 'as_of' IS NOT NULL
                THEN to_timestamp(least(greatest((s.source ->> 'as_of')::bigint, -62e15), 253e15) / 1e6) END,
           s.source ->> 'digest', i.occurred_at
    FROM given AS i,
         json_array_elements(i.body -> 'sources') WITH ORDINALITY AS s (source, place)
    WHERE i.kind = 'retrieval' AND NOT i.unread
    ON CONFLICT DO NOTHING
)
INSERT INTO text_waiting (tenant, event_id, appended_at)
SELECT i.tenant, i.event_id, i.appended_at FROM given AS i
WHERE i.kind IN ('message', 'completion', 'task_started') AND NOT i.unread

-- name: open_checks
-- The effects that a batch told something of are looked at (again). What is no live write to a target is nobody's to check.
INSERT INTO counterfoil.check_state AS c (tenant, effect_id, target, is_urgent)
SELECT e.tenant, e.effect_id, e.target, said(e) = 'unknown'
FROM (SELECT DISTINCT * FROM unnest(%(tenants)s::text[], %(effect_ids)s::uuid[]) AS u (tenant, effect_id) OFFSET 0) AS i
CROSS JOIN LATERAL (SELECT * FROM effect AS e WHERE e.tenant = i.tenant AND e.effect_id = i.effect_id OFFSET 0) AS e
WHERE e.mode = 'live' AND e.intents > 0 AND e.target IS NOT NULL
ORDER BY 1, 2
ON CONFLICT (tenant, effect_id) DO UPDATE
SET told = c.told + 1, told_at = now(), due_at = now(), target = excluded.target, is_urgent = excluded.is_urgent, marks = NULL,
    sightings = 0, verdict = NULL, sighting_digest = NULL, fence = NULL, first_sighted_at = NULL, settled_at = NULL, closed_at = NULL

-- name: is_behind
-- Whether any member of the group, and not this process alone, has more to do than it can do in a moment.
SELECT EXISTS (SELECT FROM counterfoil.ingest_offset
               WHERE waiting > %(many)s AND updated_at > now() - interval '30 seconds') AS found

-- name: index_texts
SELECT counterfoil.index_texts(%(most)s) AS indexed

-- name: set_aside
-- The letters, and their way to the topic of dead letters. Those that stand already were read before, by another consumer
-- or before the offset was set back.
WITH given AS (
    SELECT * FROM unnest(
        %(letter_ids)s::uuid[], %(tenants)s::text[], %(letter_classes)s::text[], %(reasons)s::text[], %(partitions)s::int[],
        %(offsets)s::bigint[], %(record_timestamps)s::float8[], %(keys)s::bytea[], %(values)s::bytea[], %(headers)s::text[],
        %(task_ids)s::uuid[], %(effect_ids)s::uuid[], %(outbox_keys)s::bytea[], %(outbox_headers)s::text[])
    AS g (letter_id, tenant, letter_class, reason, partition, "offset", record_timestamp, key, value, headers, task_id,
          effect_id, outbox_key, outbox_headers)
), placed AS (
    INSERT INTO counterfoil.dead_letter (
        letter_id, tenant, letter_kind, letter_class, reason, source_id, partition, "offset", record_timestamp, key, value,
        headers, task_id, effect_id, placed_by)
    SELECT letter_id, tenant, 'record', letter_class, reason, %(source_id)s, partition, "offset",
           to_timestamp(record_timestamp / 1000.0), key, value, headers::json, task_id, effect_id, %(placed_by)s
    FROM given
    ON CONFLICT DO NOTHING
    RETURNING letter_id
)
INSERT INTO counterfoil.outbox (topic, key, value, headers)
SELECT %(topic)s, outbox_key, value, outbox_headers::json FROM given JOIN placed USING (letter_id)
ORDER BY partition, "offset"

-- name: note_gaps
INSERT INTO counterfoil.log_gap (consumer, source_id, partition, first_offset, next_offset, reason, accepted_by)
SELECT %(consumer)s, %(source_id)s, g.*, 'no record stands there: a transaction''s marker, or an aborted record', 'ingest'
FROM unnest(%(partitions)s::int[], %(first_offsets)s::bigint[], %(next_offsets)s::bigint[]) AS g
ON CONFLICT DO NOTHING

-- name: find_source
SELECT source_id, 'counterfoil.fact'::regtype::oid AS fact_oid FROM counterfoil.log_source
WHERE cluster_id = %(cluster_id)s AND topic_id = %(topic_id)s

-- name: add_source
INSERT INTO counterfoil.log_source (cluster_id, topic_id, topic) VALUES (%(cluster_id)s, %(topic_id)s, %(topic)s)
ON CONFLICT DO NOTHING

-- name: read_offsets
SELECT partition, next_offset FROM counterfoil.ingest_offset
WHERE consumer = %(consumer)s AND cluster_id = %(cluster_id)s AND topic_id = %(topic_id)s

-- name: find_other_topic_ids
SELECT DISTINCT topic_id FROM counterfoil.ingest_offset
WHERE consumer = %(consumer)s AND cluster_id = %(cluster_id)s AND topic = %(topic)s AND topic_id <> %(topic_id)s
  AND retired_at IS NULL

-- name: claim_offset
INSERT INTO counterfoil.ingest_offset AS o (consumer, cluster_id, topic_id, partition, topic, next_offset, epoch, owner)
VALUES (%(consumer)s, %(cluster_id)s, %(topic_id)s, %(partition)s, %(topic)s, %(start)s, 1, %(owner)s)
ON CONFLICT (consumer, cluster_id, topic_id, partition) DO UPDATE
SET epoch = o.epoch + 1, owner = excluded.owner, updated_at = now(), waiting = 0,
    -- Who claims again lives: what it had in hand has not ended it.
    idle_claims = CASE WHEN o.owner = excluded.owner THEN 0 ELSE o.idle_claims + 1 END,
    suspect_tries = CASE WHEN o.owner = excluded.owner THEN 0 ELSE o.suspect_tries END
RETURNING next_offset, last_sha256, epoch, idle_claims, suspect_offset, suspect_end, suspect_tries

-- name: clear_suspects
-- They were decoded, and nobody died: what may still go wrong is not their doing.
UPDATE counterfoil.ingest_offset SET suspect_tries = 0
WHERE consumer = %(consumer)s AND cluster_id = %(cluster_id)s AND topic_id = %(topic_id)s AND partition = %(partition)s
  AND owner = %(owner)s

-- name: leave_offsets
-- Given back in good order: nothing that was in hand has ended anybody.
UPDATE counterfoil.ingest_offset SET idle_claims = 0, suspect_tries = 0
WHERE consumer = %(consumer)s AND cluster_id = %(cluster_id)s AND topic_id = %(topic_id)s
  AND partition = ANY(%(partitions)s) AND owner = %(owner)s AND (idle_claims, suspect_tries) <> (0, 0)

-- name: try_suspect
-- Counted, and committed, before the records are decoded.
UPDATE counterfoil.ingest_offset
SET suspect_tries = CASE WHEN (suspect_offset, suspect_end) = (%(offset)s, %(end)s) THEN suspect_tries + 1 ELSE 1 END,
    suspect_offset = %(offset)s, suspect_end = %(end)s
WHERE consumer = %(consumer)s AND cluster_id = %(cluster_id)s AND topic_id = %(topic_id)s AND partition = %(partition)s
  AND epoch = %(epoch)s
RETURNING suspect_tries

-- name: move_offsets
-- By exact compare-and-set on what this owner last wrote, and its epoch.
UPDATE counterfoil.ingest_offset AS o
SET next_offset = m.to_offset, last_sha256 = m.last_sha256, waiting = m.waiting, updated_at = now(), idle_claims = 0,
    suspect_offset = NULL, suspect_end = NULL, suspect_tries = 0
FROM unnest(%(partitions)s::int[], %(from_offsets)s::bigint[], %(to_offsets)s::bigint[], %(epochs)s::bigint[],
            %(last_sha256s)s::bytea[], %(waiting)s::bigint[])
     AS m (partition, from_offset, to_offset, epoch, last_sha256, waiting)
WHERE consumer = %(consumer)s AND cluster_id = %(cluster_id)s AND topic_id = %(topic_id)s AND o.partition = m.partition
  AND o.next_offset = m.from_offset AND o.epoch = m.epoch
RETURNING o.partition

-- name: open_window
SELECT coalesce(sum(counterfoil.open_partitions(
    retention_class, %(months_back)s, %(months_ahead)s, current_schema())), 0)::int AS made
FROM counterfoil.retention_rule

-- name: find_leaves
SELECT retention_class, leaf, first_id, next_id FROM counterfoil.event_leaves(current_schema())

-- name: find_tenants
SELECT tenant FROM counterfoil.tenant

-- name: find_tenant_keys
-- All keys, milliseconds since the epoch; one row where there is none, for when they were read.
SELECT (extract(epoch FROM r.read_at) * 1000)::bigint AS read_at, k.tenant, k.key_id, k.key,
       (extract(epoch FROM k.valid_from) * 1000)::bigint AS valid_from,
       (extract(epoch FROM k.retired_at) * 1000)::bigint AS retired_at
FROM (SELECT now() AS read_at) AS r LEFT JOIN counterfoil.tenant_key AS k ON true

-- name: admit_tenants
SELECT counterfoil.admit_tenants(%(names)s)
