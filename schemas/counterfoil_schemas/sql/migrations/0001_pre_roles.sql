-- The roles, and the schema. Runs as a login role with CREATEROLE and CREATE on the database; no superuser, no BYPASSRLS.
-- Group roles belong to the cluster, everything else to the schema. Later migrations run as the owner, with the schema
-- as their search_path.

DO $$
DECLARE
    name text;
BEGIN
    FOREACH name IN ARRAY ARRAY['owner', 'ingester', 'reconciler', 'auditor', 'operator', 'eraser'] LOOP
        BEGIN
            EXECUTE format('CREATE ROLE %I NOLOGIN', 'counterfoil_' || name);
        EXCEPTION WHEN duplicate_object OR unique_violation THEN
            NULL; -- another database of this cluster made it
        END;
        -- From 16 on, making a role gives no right to act as it; granting that right again does no harm.
        EXECUTE format('GRANT %I TO CURRENT_USER', 'counterfoil_' || name);
    END LOOP;
END
$$;

CREATE SCHEMA counterfoil AUTHORIZATION counterfoil_owner;
GRANT USAGE ON SCHEMA counterfoil TO counterfoil_ingester, counterfoil_reconciler, counterfoil_auditor, counterfoil_operator;
SET LOCAL ROLE counterfoil_owner;
SET LOCAL search_path TO counterfoil;

CREATE TABLE schema_migration (
    number     int PRIMARY KEY,
    phase      text NOT NULL CHECK (phase IN ('pre', 'post')),
    name       text NOT NULL,
    sha256     text NOT NULL,
    applied_at timestamptz NOT NULL DEFAULT now()
);
GRANT SELECT ON schema_migration TO PUBLIC;
