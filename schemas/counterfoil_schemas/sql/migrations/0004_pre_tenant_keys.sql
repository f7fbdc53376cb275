-- Records: the keys that tenants' records are signed with. The ingester reads them; an operator makes them, sees each
-- once, and from then on its fingerprint alone.

CREATE TABLE counterfoil.tenant_key (
    tenant      text NOT NULL,
    key_id      text NOT NULL CHECK (key_id ~ '^[a-z0-9]{4,40}$'),
    key         bytea NOT NULL CHECK (length(key) >= 32),
    fingerprint bytea NOT NULL GENERATED ALWAYS AS (sha256(key)) STORED,
    made_at     timestamptz NOT NULL,
    valid_from  timestamptz NOT NULL, -- records appended from the first key's on must be signed
    retired_at  timestamptz,          -- records appended from then on are not signed with it
    PRIMARY KEY (tenant, key_id),
    CHECK (valid_from <= retired_at)
);

-- Not as other tables that name a tenant: no role but these has anything to look for in it.
ALTER TABLE counterfoil.tenant_key ENABLE ROW LEVEL SECURITY;
ALTER TABLE counterfoil.tenant_key FORCE ROW LEVEL SECURITY;
CREATE POLICY owner_rows ON counterfoil.tenant_key TO counterfoil_owner USING (true) WITH CHECK (true);
CREATE POLICY readers ON counterfoil.tenant_key FOR SELECT TO counterfoil_ingester, counterfoil_operator USING (true);
CALL counterfoil.keep_no_statistics('counterfoil.tenant_key');

-- 256 bits of randomness or more (three UUIDs of version 4 have 366); made here, so that no log of statements holds them.
CREATE FUNCTION counterfoil.put_tenant_key(of_tenant text, since timestamptz) RETURNS counterfoil.tenant_key
LANGUAGE sql AS $$
    INSERT INTO counterfoil.tenant_key (tenant, key_id, key, made_at, valid_from)
    SELECT of_tenant, left(replace(gen_random_uuid()::text, '-', ''), 12),
           sha256(uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid())),
           clock_timestamp(), since
    RETURNING *
$$;

-- Registers a tenant all of whose records must be signed. No row where it is registered already.
CREATE FUNCTION counterfoil.add_signed_tenant(of_tenant text) RETURNS SETOF counterfoil.tenant_key
LANGUAGE plpgsql SECURITY DEFINER SET search_path = counterfoil, pg_temp AS $$
BEGIN
    INSERT INTO counterfoil.tenant (tenant) VALUES (of_tenant) ON CONFLICT DO NOTHING;
    IF FOUND THEN
        RETURN QUERY SELECT * FROM counterfoil.put_tenant_key(of_tenant, 'epoch');
    END IF;
END
$$;

-- A new key for a tenant, or the operators' reserved one; no row where there is no such tenant. What was taken before, older
-- keys or unsigned records, is taken for `grace` more: a minute at least, so that all who check know of the end before it.
CREATE FUNCTION counterfoil.rotate_tenant_key(of_tenant text, grace interval) RETURNS SETOF counterfoil.tenant_key
LANGUAGE plpgsql SECURITY DEFINER SET search_path = counterfoil, pg_temp AS $$
DECLARE
    ends timestamptz;
BEGIN
    PERFORM FROM counterfoil.turn WHERE name = 'tenant_key' FOR UPDATE;
    IF of_tenant <> '_operators' AND NOT EXISTS (SELECT FROM counterfoil.tenant WHERE tenant = of_tenant) THEN
        RETURN;
    END IF;
    ends := clock_timestamp() + greatest(grace, interval '1 minute');
    IF EXISTS (SELECT FROM counterfoil.tenant_key WHERE tenant = of_tenant) THEN
        UPDATE counterfoil.tenant_key SET retired_at = greatest(ends, valid_from)
        WHERE tenant = of_tenant AND (retired_at IS NULL OR retired_at > ends);
        RETURN QUERY SELECT * FROM counterfoil.put_tenant_key(of_tenant, clock_timestamp());
    ELSE
        RETURN QUERY SELECT * FROM counterfoil.put_tenant_key(of_tenant, ends);
    END IF;
END
$$;

REVOKE EXECUTE ON FUNCTION counterfoil.put_tenant_key, counterfoil.add_signed_tenant, counterfoil.rotate_tenant_key
    FROM PUBLIC;
GRANT EXECUTE ON FUNCTION counterfoil.add_signed_tenant, counterfoil.rotate_tenant_key TO counterfoil_operator;
GRANT SELECT ON counterfoil.tenant_key TO counterfoil_ingester;
GRANT SELECT (tenant, key_id, fingerprint, made_at, valid_from, retired_at) ON counterfoil.tenant_key
    TO counterfoil_operator;
