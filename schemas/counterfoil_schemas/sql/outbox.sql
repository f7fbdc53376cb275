-- Named queries of the outbox: final bytes, relayed at least once, unchanged.

-- name: put
INSERT INTO counterfoil.outbox (topic, event_id, key, value, headers)
VALUES (%(topic)s, %(event_id)s, %(key)s, %(value)s, %(headers)s)

-- name: try_to_relay_alone
SELECT count(*) = 1 AS alone FROM (SELECT FROM counterfoil.turn WHERE name = 'relay' FOR UPDATE SKIP LOCKED) AS taken

-- name: find_waiting
-- The oldest of each topic, so that a topic that can't be written holds up no other.
SELECT outbox_id, topic, key, value, headers
FROM (SELECT o.*, row_number() OVER (PARTITION BY topic ORDER BY outbox_id) AS place
      FROM counterfoil.outbox AS o WHERE relayed_at IS NULL) AS waiting
WHERE place <= %(limit)s ORDER BY outbox_id

-- name: mark_relayed
UPDATE counterfoil.outbox SET relayed_at = now() WHERE outbox_id = ANY(%(outbox_ids)s)

