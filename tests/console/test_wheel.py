"""The wheel: what is in it, and what a base-only install says when someone types `counterfoil`."""

import shutil
import subprocess
import sys
import venv
import zipfile
from importlib.metadata import distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[2]
PACKAGES = {
    "schemas/counterfoil_schemas", "events/counterfoil", "consumers/counterfoil_consumers",
    "reconcilers/counterfoil_reconcilers", "console/counterfoil_console",
}  # fmt: skip
DATA = {".avsc", ".sql", ".toml", ".typed", ".json"}


def run(*command: str | Path, **environment: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(command, env=environment or None, capture_output=True, text=True, check=False, timeout=170)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The distribution, built from this tree with what is installed."""
    folder = tmp_path_factory.mktemp("wheel")
    options = ["--no-deps", "--no-build-isolation", "--quiet", "--disable-pip-version-check", "--wheel-dir"]
    built = run(sys.executable, "-m", "pip", "wheel", *options, folder, ROOT)
    assert built.returncode == 0, built.stderr
    [path] = folder.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def base_only(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bin folder of a fresh environment with the base dependencies and nothing else; no registry is asked."""
    folder = tmp_path_factory.mktemp("base-only")
    venv.create(folder, with_pip=False)
    python = folder / "bin" / "python"
    site = Path(run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").stdout.strip())
    for name in closure("counterfoil"):
        for file in distribution(name).files or ():
            if ".." not in file.parts:  # commands of the dependencies stay away
                target = site / file
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(str(file.locate()), target)
    installed = run(sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--no-deps", wheel)
    assert installed.returncode == 0, installed.stderr
    return python.parent


def closure(name: str) -> set[str]:
    """The distributions that `name` needs without any extra."""
    found: set[str] = set()
    waiting = [name]
    while waiting:
        for line in distribution(waiting.pop()).requires or ():
            requirement = Requirement(line)
            applies = requirement.marker is None or requirement.marker.evaluate({"extra": ""})
            if applies and requirement.name not in found:
                found.add(requirement.name)
                waiting.append(requirement.name)
    return found


def test_the_wheel_holds_five_packages_and_their_data(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        held = {name for name in archive.namelist() if ".dist-info/" not in name}
    assert {name.split("/")[0] for name in held} == {Path(package).name for package in PACKAGES}
    wanted = {
        path.relative_to((ROOT / package).parent).as_posix()
        for package in PACKAGES
        for path in (ROOT / package).rglob("*")
        if path.suffix in DATA | {".py"} and "__pycache__" not in path.parts
    }
    assert held == wanted
    assert "counterfoil_console/stack/kafka.lock.toml" in held
    assert sum(name.endswith("/py.typed") for name in held) == 5
    assert sum(name.endswith(".avsc") for name in held) >= 24


@pytest.mark.parametrize("arguments", [["--help"], ["timeline", "T-1"], []])
def test_the_command_of_a_base_only_install_names_the_extra(base_only: Path, arguments: list[str]) -> None:
    done = run(base_only / "counterfoil", *arguments)
    assert done.returncode != 0
    assert done.stdout == ""
    [line] = done.stderr.splitlines()
    assert line.startswith("counterfoil: the command needs the extra `console`: pip install 'counterfoil[console]'")


def test_a_base_only_install_records(base_only: Path) -> None:
    code = "from counterfoil import Recorder; print(Recorder.from_env(kafka={'bootstrap.servers': 'localhost:1'}))"
    done = run(base_only / "python", "-W", "error", "-c", code, COUNTERFOIL_IDENTITY_KEY="k" * 32)
    assert done.returncode == 0, done.stderr
    assert "Recorder" in done.stdout
