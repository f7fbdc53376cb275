#!/usr/bin/env bash
# Run once by the Postgres image, on an empty volume: roles and databases, with passwords from the secrets.
#
# counterfoil_migrator may log in and create roles, is no superuser, and owns the database `counterfoil`.
# The services log in as roles of their own and act only as the group role that is theirs. The group
# roles are made here as the migrator, which so may grant them on; the migrations find them and go on.
set -euo pipefail

SECRETS="${COUNTERFOIL_SECRETS_DIR:-/run/secrets}"

password() {
    local value
    value="$(<"${SECRETS}/$1")"
    if [[ -z "${value}" ]]; then
        echo "the secret $1 is empty; docs/deploy.md says how to make it" >&2
        return 1
    fi
    printf '%s' "${value}"
}

# Assignments of their own, so that a missing secret ends the script.
MIGRATOR_PASSWORD="$(password migrator_password)"
INGEST_PASSWORD="$(password ingest_password)"
RECONCILE_PASSWORD="$(password reconcile_password)"
CONSOLE_PASSWORD="$(password console_password)"
RETENTION_PASSWORD="$(password retention_password)"
REGISTRY_PASSWORD="$(password registry_password)"
export MIGRATOR_PASSWORD INGEST_PASSWORD RECONCILE_PASSWORD CONSOLE_PASSWORD RETENTION_PASSWORD REGISTRY_PASSWORD

# \getenv and :'name' keep the passwords off the command line and quote them. Nothing is echoed, and a
# failing statement is not logged with them.
psql --no-psqlrc --quiet --set ON_ERROR_STOP=1 --username "${POSTGRES_USER:-postgres}" --dbname postgres <<'SQL'
\getenv migrator MIGRATOR_PASSWORD
\getenv ingest INGEST_PASSWORD
\getenv reconcile RECONCILE_PASSWORD
\getenv console CONSOLE_PASSWORD
\getenv retention RETENTION_PASSWORD
\getenv registry REGISTRY_PASSWORD

SET log_min_error_statement = panic;
SET log_statement = 'none';
SET password_encryption = 'scram-sha-256';

CREATE ROLE counterfoil_migrator LOGIN NOSUPERUSER CREATEROLE PASSWORD :'migrator';
CREATE ROLE registry LOGIN PASSWORD :'registry';

SET SESSION AUTHORIZATION counterfoil_migrator;
CREATE ROLE counterfoil_ingester NOLOGIN;
CREATE ROLE counterfoil_reconciler NOLOGIN;
CREATE ROLE counterfoil_operator NOLOGIN;
CREATE ROLE counterfoil_eraser NOLOGIN;
CREATE ROLE counterfoil_ingest LOGIN PASSWORD :'ingest' IN ROLE counterfoil_ingester;
CREATE ROLE counterfoil_reconcile LOGIN PASSWORD :'reconcile' IN ROLE counterfoil_reconciler;
CREATE ROLE counterfoil_console LOGIN PASSWORD :'console' IN ROLE counterfoil_operator;
CREATE ROLE counterfoil_retention LOGIN PASSWORD :'retention' IN ROLE counterfoil_eraser;
RESET SESSION AUTHORIZATION;

CREATE DATABASE registry OWNER registry;
REVOKE ALL ON DATABASE registry FROM PUBLIC;
-- Last, for the health check asks for this one: it answers only once everything above is there.
CREATE DATABASE counterfoil OWNER counterfoil_migrator;
-- Nothing of ours makes temporary tables or functions, and a tenant's login needs none.
REVOKE TEMPORARY ON DATABASE counterfoil FROM PUBLIC;
SQL
