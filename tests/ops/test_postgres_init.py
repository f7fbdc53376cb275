"""ops/postgres/init.sh on a real Postgres: the roles that it makes suffice for the migrations and the services."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from counterfoil_console.stack import LocalStack, default_directories
from counterfoil_console.stack.postgres import binaries
from counterfoil_consumers.errors import StoreError
from counterfoil_consumers.migrations import migrate
from counterfoil_consumers.store import connect

SCRIPT = Path(__file__).parents[2] / "ops" / "postgres" / "init.sh"
# With all that quoting could get wrong.
PASSWORDS = {
    name: f"it's \"{name}\" \\ $HOME :'x' %s"
    for name in ("migrator", "ingest", "reconcile", "console", "retention", "registry")
}
SERVICES = {"ingest": "ingester", "reconcile": "reconciler", "console": "operator", "retention": "eraser"}


def _secrets(folder: Path, passwords: dict[str, str]) -> Path:
    folder.mkdir()
    for name, password in passwords.items():
        (folder / f"{name}_password").write_text(password + "\n", "utf-8")
    return folder


def _run_script(admin_dsn: str, secrets: Path) -> subprocess.CompletedProcess[str]:
    at = conninfo_to_dict(admin_dsn)
    environment = {
        "PATH": f"{binaries()}:{os.environ['PATH']}",
        "PGHOST": str(at["host"]),
        "PGPORT": str(at["port"]),
        "PGPASSWORD": str(at["password"]),
        "POSTGRES_USER": str(at["user"]),
        "COUNTERFOIL_SECRETS_DIR": str(secrets),
    }
    return subprocess.run(["bash", SCRIPT], env=environment, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def fresh_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The administrator's DSN of a server of this module's own: roles belong to a whole server."""
    data = tmp_path_factory.mktemp("compose-postgres") / "data"
    with LocalStack(data, default_directories(os.environ).cache, os.environ.get("PATH")).running() as state:
        yield state.postgres_dsn


@pytest.fixture(scope="module")
def initialised(fresh_server: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The same server, after the script and the migrations."""
    secrets = _secrets(tmp_path_factory.mktemp("run") / "secrets", PASSWORDS)
    done = _run_script(fresh_server, secrets)
    assert done.returncode == 0, done.stderr
    assert not any(password in done.stdout + done.stderr for password in PASSWORDS.values())
    assert [migration.number for migration in migrate(_dsn(fresh_server, "migrator"))]
    return fresh_server


def _dsn(admin_dsn: str, name: str, database: str = "counterfoil") -> str:
    user = name if name == "registry" else f"counterfoil_{name}"
    return make_conninfo(admin_dsn, user=user, password=PASSWORDS[name], dbname=database)


def test_empty_or_missing_secret_ends_the_script_before_anything_is_made(fresh_server: str, tmp_path: Path) -> None:
    empty = _run_script(fresh_server, _secrets(tmp_path / "empty", PASSWORDS | {"console": ""}))
    assert empty.returncode != 0
    assert "console_password is empty" in empty.stderr
    missing = _run_script(fresh_server, _secrets(tmp_path / "missing", {"migrator": "x"}))
    assert missing.returncode != 0
    assert "ingest_password" in missing.stderr


def test_migrator_is_no_superuser_and_owns_the_database(initialised: str) -> None:
    with psycopg.connect(initialised) as admin:
        rights = admin.execute(
            "SELECT rolsuper, rolcreaterole, rolbypassrls, rolcanlogin FROM pg_roles"
            " WHERE rolname = 'counterfoil_migrator'"
        ).fetchone()
        owner = admin.execute(
            "SELECT pg_get_userbyid(datdba) FROM pg_database WHERE datname = 'counterfoil'"
        ).fetchone()
    assert rights == (False, True, False, True)
    assert owner == ("counterfoil_migrator",)


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_acts_as_its_own_role_and_no_other(initialised: str, name: str) -> None:
    dsn = _dsn(initialised, name)
    with closing(connect(dsn, SERVICES[name], application="test")) as connection:
        connection.execute("SELECT count(*) FROM schema_migration")
    for other in {"owner", *SERVICES.values()} - {SERVICES[name]}:
        with pytest.raises(StoreError, match=f"may not act as counterfoil_{other}"):
            connect(dsn, other, application="test")


def test_a_tenant_s_login_makes_nothing_of_its_own(initialised: str) -> None:
    with psycopg.connect(_dsn(initialised, "migrator"), autocommit=True) as migrator:
        migrator.execute("CREATE ROLE reader_1 LOGIN PASSWORD 'only-on-loopback' IN ROLE counterfoil_auditor")
    reader = make_conninfo(initialised, user="reader_1", password="only-on-loopback", dbname="counterfoil")
    with psycopg.connect(reader, autocommit=True) as connection:
        assert connection.execute("SELECT FROM counterfoil.event").fetchall() == []
        for statement in ("CREATE TEMP TABLE mine ()", "CREATE TABLE mine ()", "CREATE SCHEMA mine"):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                connection.execute(sql.SQL(statement))


def test_the_registry_has_a_database_that_nobody_else_enters(initialised: str) -> None:
    with psycopg.connect(_dsn(initialised, "registry", "registry")) as connection:
        connection.execute("CREATE TABLE artifacts ()")
    with pytest.raises(psycopg.OperationalError, match="permission denied for database"):
        psycopg.connect(_dsn(initialised, "ingest", "registry"))
