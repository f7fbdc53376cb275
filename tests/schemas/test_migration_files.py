"""Names of migrations, and the named queries beside them."""

import hashlib
import re
from pathlib import Path

import pytest

from counterfoil_schemas import migrations, sql_queries
from counterfoil_schemas.loading import read_migrations


def test_ours_are_numbered_from_one_without_holes() -> None:
    assert [migration.number for migration in migrations()] == list(range(1, len(migrations()) + 1))
    assert migrations()[0].phase == "pre"


def test_the_digest_is_of_the_exact_bytes(tmp_path: Path) -> None:
    content = "SELECT 1;\r\n-- ünï\n".encode()
    (tmp_path / "0001_post_things_2.sql").write_bytes(content)
    [migration] = read_migrations(tmp_path)
    assert (migration.number, migration.phase, migration.name) == (1, "post", "things_2")
    assert migration.sha256 == hashlib.sha256(content).hexdigest()


@pytest.mark.parametrize("name", ["1_pre_x.sql", "0001_x.sql", "0001_pre_X.sql", "0001_pre_x.txt", "0001_pre_.sql"])
def test_another_name_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("SELECT 1")
    with pytest.raises(ValueError, match=re.escape(name)):
        read_migrations(tmp_path)


def test_a_number_taken_twice_is_refused(tmp_path: Path) -> None:
    (tmp_path / "0001_pre_a.sql").write_text("SELECT 1")
    (tmp_path / "0001_post_b.sql").write_text("SELECT 1")
    with pytest.raises(ValueError, match="0001 is taken by"):
        read_migrations(tmp_path)


@pytest.mark.parametrize("file", ["ingest", "outbox"])
def test_a_query_has_one_name_and_the_ingester_s_never_delete(file: str) -> None:
    text = sql_queries(file)
    names = re.findall(r"^-- name: (\S+)$", text, re.MULTILINE)
    assert names
    assert len(names) == len(set(names))
    statements = re.sub(r"--[^\n]*", "", text)
    assert not re.search(r"\b(DELETE\s+FROM|TRUNCATE)\b", statements)
