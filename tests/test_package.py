"""What an agent installs stays small."""

import subprocess
import sys
import tomllib
from importlib.metadata import version
from pathlib import Path

PYPROJECT = tomllib.loads(Path(__file__).parents[1].joinpath("pyproject.toml").read_text(encoding="utf-8"))
NOT_FOR_AGENTS = {
    *("psycopg", "apscheduler", "starlette", "typer", "rich", "structlog", "prometheus_client"),
    *("fsspec", "authlib", "avro", "cachetools", "httpx", "httpx2"),
}


def test_the_base_dependencies() -> None:
    names = [requirement.partition(">")[0] for requirement in PYPROJECT["project"]["dependencies"]]
    own = "confluent-kafka fastavro fsspec google-re2 pydantic pydantic-settings rfc8785 stamina uuid-utils"
    assert names == own.split()


def test_importing_the_recorder_loads_nothing_else() -> None:
    code = "import sys, counterfoil; print(*{name.partition('.')[0] for name in sys.modules})"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert "fastavro" in loaded
    assert NOT_FOR_AGENTS & set(loaded) == set()
    assert {name for name in loaded if name.startswith("counterfoil")} == {"counterfoil", "counterfoil_schemas"}


def test_the_installed_version_is_that_of_the_tree() -> None:
    assert version("counterfoil") == PYPROJECT["project"]["version"]


def test_every_room_is_packaged_and_typed() -> None:
    root = Path(__file__).parents[1]
    packages = PYPROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
    assert len(packages) == 5
    assert [package for package in packages if not root.joinpath(package, "py.typed").exists()] == []
