-- Named queries of the outbox: final bytes, relayed at least once, unchanged.

-- name: put
INSERT INTO counterfoil.outbox (topic, event_id, key, value, headers)
VALUES (%(topic)s, %(event_id)s, %(key)s, %(value)s, %(headers)s)

-- name: try_to_relay_alone
SELECT pg_try_advisory_xact_lock(hashtext('counterfoil.outbox')) AS alone

-- name: find_waiting
SELECT outbox_id, topic, key, value, headers FROM counterfoil.outbox
WHERE relayed_at IS NULL ORDER BY outbox_id LIMIT %(limit)s

-- name: mark_relayed
UPDATE counterfoil.outbox SET relayed_at = now() WHERE outbox_id = ANY(%(outbox_ids)s)

-- name: count_waiting
SELECT count(*) AS waiting FROM counterfoil.outbox WHERE relayed_at IS NULL
