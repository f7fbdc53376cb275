-- Named queries of the HTTP API and its tokens; it reads as counterfoil_operator.

-- name: add_token
-- No row where there is no such tenant.
INSERT INTO counterfoil.token (token_id, tenant, secret_sha256, created_by, expires_at)
SELECT %(token_id)s, t.tenant, %(secret_sha256)s, %(by)s, now() + %(lasts)s FROM counterfoil.tenant AS t WHERE t.tenant = %(tenant)s
RETURNING token_id, tenant, role, expires_at

-- name: list_tokens
SELECT token_id, tenant, role, created_at, created_by, expires_at, revoked_at, last_used_at,
       CASE WHEN revoked_at IS NOT NULL THEN 'revoked' WHEN expires_at <= now() THEN 'expired' ELSE 'valid' END AS state
FROM counterfoil.token WHERE %(tenant)s::text IS NULL OR tenant = %(tenant)s
ORDER BY tenant, created_at, token_id

-- name: revoke_token
-- The first revocation stands.
UPDATE counterfoil.token SET revoked_at = coalesce(revoked_at, now()) WHERE token_id = %(token_id)s RETURNING tenant, revoked_at

-- name: find_token
SELECT tenant, role, secret_sha256, revoked_at IS NULL AND expires_at > now() AS is_valid,
       coalesce(last_used_at < now() - interval '1 hour', true) AS is_long_unused
FROM counterfoil.token WHERE token_id = %(token_id)s

-- name: use_token
UPDATE counterfoil.token SET last_used_at = date_trunc('hour', now()) WHERE token_id = %(token_id)s

-- name: read_retry
-- What bears on sending a write again. What was put into the outbox last is in force before ingest has brought it. The first
-- attempt is the earliest by the brokers' clock: of all attempts, or of none where events of one are gone.
SELECT clock_timestamp() AS now, s.tool, s.target, s.mode, s.intents, s.reply::text AS reply, s.verdict, s.verdict_reason,
       s.last_appended_at, s.intent_at, s.intent_partition, c.emitted, c.settled_at IS NOT NULL AS is_settled,
       coalesce(json_typeof(s.expect), 'null') <> 'null' AS has_own_expectation,
       greatest(s.intents - s.ok - s.accepted - s.partial - s.unknown - s.failed - s.denied, 0) AS without_result,
       CASE WHEN a.intents >= s.intents THEN a.first_at END AS first_at,
       %(after)s::uuid IS NULL OR a.has_after AS has_after
FROM counterfoil.effect_state AS s
LEFT JOIN counterfoil.check_state AS c ON c.tenant = s.tenant AND c.effect_id = s.effect_id
CROSS JOIN LATERAL (
    SELECT count(*) AS intents, min(i.appended_at) AS first_at, coalesce(bool_or(i.event_id = %(after)s), false) AS has_after
    FROM (SELECT kind, event_id, appended_at FROM counterfoil.every_event AS e
          WHERE e.tenant = s.tenant AND e.effect_id = s.effect_id OFFSET 0) AS i
    WHERE i.kind = 'tool_intent') AS a
WHERE s.tenant = %(tenant)s AND s.effect_id = %(effect_id)s AND s.intents > 0

-- name: read_twins
-- Other effects of its task that are the same write by the arguments that a contract names as its identity.
SELECT t.effect_id, t.verdict, c.emitted, c.settled_at IS NOT NULL AS is_settled,
       (t.intent_at, t.effect_id) > (e.intent_at, e.effect_id) AS is_later
FROM counterfoil.effect AS e
JOIN counterfoil.effect AS t ON t.tenant = e.tenant AND t.task_id = e.task_id AND t.effect_id <> e.effect_id
     AND t.tool = e.tool AND t.target = e.target AND t.mode = e.mode AND t.step IS NOT DISTINCT FROM e.step AND t.intents > 0
LEFT JOIN counterfoil.check_state AS c ON c.tenant = t.tenant AND c.effect_id = t.effect_id
WHERE e.tenant = %(tenant)s AND e.effect_id = %(effect_id)s
  AND NOT EXISTS (SELECT FROM unnest(%(identity)s::text[]) AS name
                  WHERE coalesce(e.args ->> name <> t.args ->> name, true))
ORDER BY t.intent_at

-- name: read_ingested
SELECT o.next_offset FROM counterfoil.ingest_offset AS o
WHERE o.consumer = %(consumer)s AND o.topic_id = %(topic_id)s AND o.partition = %(partition)s
