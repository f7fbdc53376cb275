"""The database that the agents wrote to: one table per `<domain>_<table>`, key (tenant_id, key), `doc jsonb`."""

import json
from collections.abc import Mapping
from pathlib import Path

import psycopg
from psycopg import sql

from examples.trajectories.recording import WrongData, json_lines, read_json

_SUFFIX = ".json.gz"


def load_snapshot(dsn: str, data: Path, domains: Mapping[str, str]) -> int:
    """Make the tables and give every tenant the rows of its domain; returns the number of rows.

    Raises WrongData.
    """
    count = 0
    files = sorted((data / "target_snapshot").glob(f"*{_SUFFIX}"))
    if not files:
        raise WrongData(f"{data / 'target_snapshot'} holds no *{_SUFFIX}")
    with psycopg.connect(dsn) as target:
        for file in files:
            table = file.name.removesuffix(_SUFFIX)
            target.execute(
                sql.SQL(
                    "CREATE TABLE {} (tenant_id text, key text, doc jsonb NOT NULL, PRIMARY KEY (tenant_id, key))"
                ).format(sql.Identifier(table))
            )
            rows = [(key, json.dumps(doc)) for key, doc in read_json(file).items()]
            copy = sql.SQL("COPY {} (tenant_id, key, doc) FROM STDIN").format(sql.Identifier(table))
            with target.cursor().copy(copy) as writer:
                for tenant, domain in domains.items():
                    if table.startswith(f"{domain}_"):
                        count += len(rows)
                        for key, doc in rows:
                            writer.write_row((tenant, key, doc))
    return count


def load_final(dsn: str, final: Path, domains: Mapping[str, str]) -> int:
    """Put the rows of `final` on top; returns their number.

    Raises WrongData.
    """
    count = 0
    with psycopg.connect(dsn) as target:
        known = {row[0] for row in target.execute("SELECT relname FROM pg_class WHERE relkind = 'r'")}
        for number, line in enumerate(json_lines(final), 1):
            tenant, name = str(line.get("tenant_id")), f"{domains.get(str(line.get('tenant_id')))}_{line.get('table')}"
            if name not in known or not {"key", "doc"} <= set(line):
                raise WrongData(
                    f"{final} line {number} is no row of a known tenant and table: {tenant}, {line.get('table')}"
                )
            table = sql.Identifier(name)
            if line["doc"] is None:
                delete = sql.SQL("DELETE FROM {} WHERE tenant_id = %s AND key = %s").format(table)
                target.execute(delete, (tenant, line["key"]))
            else:
                upsert = sql.SQL(
                    "INSERT INTO {} (tenant_id, key, doc) VALUES (%s, %s, %s) "
                    "ON CONFLICT (tenant_id, key) DO UPDATE SET doc = excluded.doc"
                ).format(table)
                target.execute(upsert, (tenant, line["key"], json.dumps(line["doc"])))
            count += 1
    return count
