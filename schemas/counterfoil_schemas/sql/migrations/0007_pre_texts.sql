-- The words of prompts and outputs (docs/decisions/0016): put down a moment after their events, gone with them. No projection, since
-- a search must find them while a rebuild is under way, and after it; they can be made from the events again.
CREATE TABLE event_text (
    tenant      text NOT NULL,
    event_id    uuid NOT NULL,
    task_id     uuid NOT NULL,
    kind        text NOT NULL,
    occurred_at timestamptz NOT NULL,
    words       tsvector NOT NULL,
    PRIMARY KEY (tenant, event_id)
);
CREATE INDEX event_text_words ON event_text USING gin (words);
CALL close_to_others('event_text');
CREATE POLICY owner_rows ON event_text TO counterfoil_owner USING (true) WITH CHECK (true);
GRANT SELECT ON event_text TO counterfoil_auditor, counterfoil_operator;
