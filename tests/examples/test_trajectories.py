"""Recorded agents, played again: the shared runs where they are at hand, and a tiny domain of our own always."""

import gzip
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import pytest
from confluent_kafka import KafkaException

from counterfoil_console.stack import KafkaOptions, StackState
from counterfoil_consumers.topics import admin_client, describe
from counterfoil_schemas import topics
from examples.trajectories import __main__ as program
from tests.fix_stack import stack_with
from tests.waiting import wait_until

ROOT = Path(__file__).parents[2]
RECORDED = ROOT.parent / "shared" / "trajectories"
RETAIL = ROOT / "examples" / "trajectories" / "contracts.toml"
FLOOR_PRECISION, FLOOR_RECALL = 0.99, 0.73

FLEET = """
version = "1"
[outcomes]
unknown = ["gateway"]

[targets.garage]
kind = "postgresql"
writers = "exclusive"

[targets.garage.resources.cars]
table = "fleet_cars"
key = ["key"]
tenant = "tenant_id"
doc = "doc"

[targets.garage.resources.trips]
table = "fleet_trips"
key = ["key"]
tenant = "tenant_id"
doc = "doc"

[tools.book_car]
target = "garage"
[[tools.book_car.writes]]
resource = "cars"
key = { key = "args.car" }
set.driver = "args.driver"
set.bookings = "before.bookings + 1"
[[tools.book_car.writes]]
resource = "trips"
key = { key = "args.trip" }
create = true
set.car = "args.car"
set.driver = "args.driver"
"""

pytestmark = pytest.mark.timeout(400)


def recorded() -> Path:
    if not RECORDED.is_dir():
        if os.environ.get("CI"):
            pytest.fail(f"{RECORDED} is missing, and under CI nothing may be skipped")
        pytest.skip(f"{RECORDED} is not here")
    return RECORDED


def run(data: Path, contracts: Path, events: Path, final: Path, report: Path, labels: Path | None = None) -> int:
    arguments = ["--data", data, "--contracts", contracts, "--events", events, "--target-final", final]
    arguments += ["--report", report] + (["--labels", labels] if labels else [])
    return program.main([str(argument) for argument in arguments])


def lines_of(report: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in report.read_text(encoding="utf-8").splitlines()]


@dataclass(frozen=True)
class Up:
    """In the place of the program's own stack: one that is up, and stays so."""

    data_directory: Path
    state: StackState

    @contextmanager
    def running(self) -> Iterator[StackState]:
        yield self.state


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    with stack_with(KafkaOptions()) as state:
        yield Up(tmp_path_factory.mktemp("stack"), state)


@pytest.fixture
def is_up(up: Up, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The program finds a stack without store, target or topics: to start its own takes longer than most runs."""
    monkeypatch.setattr(program, "LocalStack", lambda *_: up)
    yield
    with psycopg.connect(up.state.postgres_dsn, autocommit=True) as postgres:
        postgres.execute("DROP DATABASE IF EXISTS trajectories WITH (FORCE)")
        postgres.execute("DROP DATABASE IF EXISTS counterfoil WITH (FORCE)")
    kafka = admin_client({"bootstrap.servers": up.state.bootstrap_servers})
    names = [topic.name for topic in topics("local").values()]
    for future in kafka.delete_topics(names).values():
        with suppress(KafkaException):  # a run that ended early has made none
            future.result()
    wait_until(lambda: not describe(kafka, names))


# -- the shared runs ----------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("is_up")
def test_clean_runs_have_no_drift(tmp_path: Path) -> None:
    data, report = recorded(), tmp_path / "report.jsonl"
    assert run(data, RETAIL, data / "events.jsonl.gz", data / "target_final_clean.jsonl.gz", report) == 0
    lines = lines_of(report)
    assert len(lines) > 100
    assert [line for line in lines if line["drift"]] == []
    assert all("trace_id" in line for line in lines), "no change is left unexplained"


@pytest.mark.usefixtures("is_up")
def test_faulted_runs_are_told_apart_better_than_the_floor(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data, report = recorded(), tmp_path / "report.jsonl"
    faults = data / "faults"
    events, final, labels = (faults / f"{name}.jsonl.gz" for name in ("events", "target_final", "labels"))
    assert run(data, RETAIL, events, final, report, labels) == 0
    printed = capsys.readouterr().out
    with capsys.disabled():
        print(f"\n{printed}")
    [summary] = [line.split() for line in printed.splitlines() if line.startswith("all ")]
    precision, recall = float(summary[-2]), float(summary[-1])
    assert precision >= FLOOR_PRECISION
    assert recall >= FLOOR_RECALL


# -- a domain of our own ------------------------------------------------------------------------------------------


def write(path: Path, lines: Sequence[Mapping[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return path


def call(number: int, trip: str, car: str, output: str = "booked", *, error: bool = False) -> list[dict[str, Any]]:
    one = {"trace_id": "run-1", "ts": None, "call_id": "always the same"}
    args = {"trip": trip, "car": car, "driver": "Ana"}
    return [
        one
        | {
            "step": number,
            "kind": "tool_call",
            "role": "assistant",
            "tool": "book_car",
            "effect": "write",
            "args": args,
        },
        one
        | {
            "step": number + 1,
            "kind": "tool_result",
            "role": "tool",
            "tool": "book_car",
            "output": output,
            "is_error": error,
        },
    ]


def car(bookings: int, driver: str | None = "Ana") -> dict[str, Any]:
    return {"driver": driver, "bookings": bookings}


def final(table: str, key: str, doc: Any) -> dict[str, Any]:
    return {"tenant_id": "depot", "table": table, "key": key, "doc": doc}


@pytest.fixture
def fleet(tmp_path: Path) -> Path:
    """One run: bookings well done, absent, doubled; two timeouts and a refusal; and a car that nobody took away."""
    (tmp_path / "target_snapshot").mkdir()
    for table, rows in {"cars": {f"C-{n}": car(0, None) for n in range(1, 8)}, "trips": {}}.items():
        with gzip.open(tmp_path / "target_snapshot" / f"fleet_{table}.json.gz", "wt") as file:
            json.dump(rows, file)
    tenants = [{"tenant_id": "depot", "domain": "fleet", "traces": ["run-1"]}]
    (tmp_path / "tenants.json").write_text(json.dumps(tenants))
    (tmp_path / "contracts.toml").write_text(FLEET)
    said = [{"trace_id": "run-1", "step": 0, "ts": None, "kind": "user_message", "role": "user", "content": "Book!"}]
    said += [*call(1, "T-1", "C-1"), *call(3, "T-2", "C-2"), *call(5, "T-3", "C-3")]
    said += [*call(7, "T-4", "C-4", "bad gateway", error=True), *call(9, "T-5", "C-5", "bad gateway", error=True)]
    said += call(11, "T-6", "C-6", "no such driver", error=True)
    write(tmp_path / "events.jsonl", said)
    trips = [final("trips", f"T-{n}", {"car": f"C-{n}", "driver": "Ana"}) for n in (1, 3, 4)]
    cars = [final("cars", "C-1", car(1)), final("cars", "C-3", car(2)), final("cars", "C-4", car(1))]
    write(tmp_path / "final.jsonl", [*trips, *cars, final("cars", "C-7", None)])
    return tmp_path


def run_fleet(folder: Path, **other: Path) -> int:
    files = {
        "data": folder,
        "contracts": folder / "contracts.toml",
        "events": folder / "events.jsonl",
        "final": folder / "final.jsonl",
        "report": folder / "report.jsonl",
    }
    return run(**(files | other))


def test_another_domain_needs_another_contract_and_no_code(fleet: Path, capsys: pytest.CaptureFixture[str]) -> None:
    labels = [
        {"trace_id": "run-1", "step": step, "tenant_id": "depot", "fault": fault, "actual": None, "detail": None}
        for step, fault in (
            (1, "none"),
            (3, "missing"),
            (5, "duplicated"),
            (7, "timeout_applied"),
            (11, "none_rejected"),
        )
    ]
    stray = {"table": "cars", "key": "C-7"}
    unrequested = {"trace_id": None, "step": None, "tenant_id": "depot", "fault": "unrequested", "actual": [stray]}
    timeout = labels[0] | {"step": 9, "fault": "timeout_not_applied"}
    write(fleet / "labels.jsonl", [*labels, timeout, unrequested | {"detail": None}])
    assert run_fleet(fleet, labels=fleet / "labels.jsonl") == 0
    lines = lines_of(fleet / "report.jsonl")
    assert [(line["step"], line["outcome"], line["drift"]) for line in lines[:-1]] == [
        (1, "ok", False),
        (3, "ok", True),
        (5, "ok", True),
        (7, "unknown", False),
        (9, "unknown", True),
        (11, "failed", False),
    ]
    verdicts = [line["verdict"] for line in lines]
    assert verdicts[:2] + verdicts[3:] == [
        "applied",
        "not_applied",
        "applied",
        "not_applied",
        "not_applied",
        "unattributed",
    ]
    assert verdicts[2] in ("duplicated", "partial", "mismatched")  # one row doubled, one row once
    assert [lines[-1][name] for name in ("tenant_id", "table", "key", "drift")] == ["depot", "cars", "C-7", True]
    assert "false alarms: 0, missed: 0" in capsys.readouterr().out


# -- bad input ----------------------------------------------------------------------------------------------------


def sentence(capsys: pytest.CaptureFixture[str]) -> str:
    """The last line said; whatever the run said before is progress."""
    said = capsys.readouterr().err
    assert "Traceback" not in said
    return said.splitlines()[-1]


def replaced(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


@pytest.mark.parametrize(
    ("name", "old", "new", "says"),
    [
        ("contracts.toml", 'target = "garage"', 'target = "harbour"', "harbour"),
        ("contracts.toml", "args.car", "args.car +", "contracts.toml"),
        (
            "events.jsonl",
            '{"trace_id": "run-1", "step": 0',
            '{"trace_id": run-1, "step": 0',
            "events.jsonl line 1 is not JSON",
        ),
        (
            "events.jsonl",
            '"trace_id": "run-1", "step": 0',
            '"trace_id": "run-2", "step": 0',
            "run-2 belongs to no tenant",
        ),
        ("events.jsonl", '"step": 0, ', "", "events.jsonl line 1 has no step"),
        ("events.jsonl", '"effect": "write", ', "", "events.jsonl line 2 has no effect"),
        ("tenants.json", '"domain": "fleet", ', "", "tenants.json has no domain"),
        ("tenants.json", "[", "", "tenants.json is not JSON"),
    ],
)
def test_wrong_files_end_in_one_sentence(
    fleet: Path, capsys: pytest.CaptureFixture[str], name: str, old: str, new: str, says: str
) -> None:
    replaced(fleet / name, old, new)
    assert run_fleet(fleet) == 1
    said = sentence(capsys)
    assert said.startswith("examples.trajectories: ")
    assert says in said


@pytest.mark.parametrize("which", ["data", "contracts", "events", "final", "labels", "report"])
def test_missing_files_end_in_one_sentence(fleet: Path, capsys: pytest.CaptureFixture[str], which: str) -> None:
    missing = fleet / "nowhere" / "missing.jsonl"
    assert run_fleet(fleet, **{which: missing}) == 1
    said = sentence(capsys)
    assert said.startswith("examples.trajectories: ")
    assert "nowhere" in said


def test_a_broken_archive_ends_in_one_sentence(fleet: Path, capsys: pytest.CaptureFixture[str]) -> None:
    broken = fleet / "events.jsonl.gz"
    broken.write_bytes(gzip.compress((fleet / "events.jsonl").read_bytes())[:-20])
    assert run_fleet(fleet, events=broken) == 1
    assert "events.jsonl.gz can't be read" in sentence(capsys)


@pytest.mark.usefixtures("is_up")
@pytest.mark.parametrize(
    ("name", "old", "new", "says"),
    [
        (
            "final.jsonl",
            '"table": "trips"',
            '"table": "boats"',
            "final.jsonl line 1 is no row of a known tenant and table",
        ),
        ("contracts.toml", 'table = "fleet_cars"', 'table = "fleet_carts"', "there is no table fleet_carts"),
        ("contracts.toml", 'key = ["key"]', 'key = ["plate"]', "there is no column plate in table fleet_cars"),
    ],
)
def test_what_only_the_database_can_tell_ends_in_one_sentence_too(
    fleet: Path, capsys: pytest.CaptureFixture[str], name: str, old: str, new: str, says: str
) -> None:
    replaced(fleet / name, old, new)
    if new == 'key = ["plate"]':
        replaced(fleet / name, "key = { key = ", "key = { plate = ")
    assert run_fleet(fleet) == 1
    assert says in sentence(capsys)
