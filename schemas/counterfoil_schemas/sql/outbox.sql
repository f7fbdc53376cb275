-- Named queries of the outbox: final bytes, relayed at least once, unchanged.

-- name: put
-- In the order given. In one statement, and not by libpq's pipeline: see projection.py.
INSERT INTO counterfoil.outbox (topic, event_id, key, value, headers)
SELECT topic, event_id, key, value, headers::json
FROM unnest(%(topics)s::text[], %(event_ids)s::uuid[], %(keys)s::bytea[], %(values)s::bytea[], %(headers)s::text[])
    WITH ORDINALITY AS m (topic, event_id, key, value, headers, place)
ORDER BY place

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

