-- Every event that the store still has, wherever it stands.
CREATE VIEW every_event WITH (security_invoker) AS
SELECT *, false AS is_astray FROM event
UNION ALL
SELECT *, true FROM event_astray
UNION ALL
SELECT tenant, event_id, retention_class, kind, workflow, environment, mode, task_id, task_ref, parent_task_id,
       conversation_id, subject_ref, agent, release, principal, on_behalf_of, effect_id, attempt, causation_id, trace_id,
       span_id, producer_id, seq, occurred_at, redaction, body_schema, unread, body, source_id, partition, "offset",
       appended_at, value, value_sha256, false
FROM counterfoil.event_held;

-- What is astray, and why.
CREATE VIEW astray WITH (security_invoker) AS
SELECT tenant, event_id, retention_class, task_id, occurred_at, appended_at,
       counterfoil.astray_reason(retention_class, event_id, appended_at) AS reason
FROM event_astray;

GRANT SELECT ON every_event, astray TO counterfoil_auditor, counterfoil_operator;
