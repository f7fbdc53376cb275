"""Plays recorded agents against the database they wrote to, and says of every write what became of it.

    python -m examples.trajectories --data DIR --contracts FILE --events F --target-final F \\
        [--labels F] --report OUT.jsonl

All that is particular to a domain stands in the contracts; a stack of its own is started for the run.
"""

import argparse
import datetime as dt
import os
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import psycopg
from psycopg import sql
from psycopg.conninfo import make_conninfo

from counterfoil import CounterfoilError, Recorder, RecorderSettings
from counterfoil_console import local
from counterfoil_console.stack import LocalStack, StackState, default_directories
from counterfoil_consumers.store import connect, queries
from counterfoil_reconcilers.concluding import Policy
from counterfoil_reconcilers.contracts import Contracts, load
from examples.trajectories.playing import Played, play
from examples.trajectories.recording import Recording, WrongData, read_recording
from examples.trajectories.reporting import count_rows, report_lines, score, table, write_report
from examples.trajectories.target import load_final, load_snapshot
from examples.workbench import workbench

_SETTLED_WITHIN_SECONDS = 600.0
_DATABASE = "trajectories"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run it; 0 when the report is written, 1 with one sentence when it can't be."""
    parser = argparse.ArgumentParser(prog="python -m examples.trajectories", description=__doc__.partition("\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="directory of recorded runs")
    parser.add_argument("--contracts", type=Path, required=True, help="what each tool's write should leave behind")
    parser.add_argument("--events", type=Path, required=True, help="the steps to play (.jsonl or .jsonl.gz)")
    parser.add_argument("--target-final", type=Path, required=True, help="rows that differ once all was done")
    parser.add_argument("--labels", type=Path, help="the faults put in, to hold the report against")
    parser.add_argument("--report", type=Path, required=True, help="where to write one JSON line per write and change")
    options = parser.parse_args(arguments)
    try:
        _check_files(options)
        contracts = load(options.contracts)
        recording = read_recording(options.data, options.events)
        with tempfile.TemporaryDirectory() as folder:
            own = default_directories(os.environ)
            stack = LocalStack(Path(folder) / "stack", own.cache, os.environ.get("PATH"))
            with stack.running() as state:
                return _run(options, contracts, recording, local.prepare(stack.data_directory, state), state)
    except (CounterfoilError, WrongData) as error:
        print(f"examples.trajectories: {error}", file=sys.stderr)
        return 1


def _run(
    options: argparse.Namespace,
    contracts: Contracts,
    recording: Recording,
    settings: Mapping[str, Any],
    state: StackState,
) -> int:
    started = time.monotonic()
    target = _new_database(state.postgres_dsn)
    rows = load_snapshot(target, options.data, recording.domains)
    _say(started, f"{rows} rows of the target loaded for {len(recording.domains)} tenants")
    policy = Policy(sweep_every=dt.timedelta(0), give_up_after=dt.timedelta(0))
    with workbench(settings, contracts, {name: {"dsn": target} for name in contracts.targets}, policy) as bench:
        _register(settings["store"]["dsn"], recording.domains)
        bench.pass_once()
        _say(started, "the target as it was is the baseline")
        writes = _play(settings, recording, contracts)
        _say(started, f"{len(recording.runs)} runs with {len(writes)} writes recorded")
        changed = load_final(target, options.target_final, recording.domains)
        _say(started, f"{changed} rows of the target as they were afterwards")
        passes = bench.pass_until_settled(_SETTLED_WITHIN_SECONDS)
        _say(started, f"settled after {passes} passes; {count_rows(settings['store']['dsn'])} events in the store")
    with connect(settings["store"]["dsn"], "operator", application="report") as store:
        lines = list(report_lines(store, writes, contracts, recording.domains))
    write_report(lines, options.report)
    drift = sum(bool(line["drift"]) for line in lines)
    print(
        f"{len(writes)} writes and {len(lines) - len(writes)} unexplained changes: {drift} in drift -> {options.report}"
    )
    if options.labels is not None:
        for line in table(score(lines, options.labels)):
            print(line)
    return 0


def _check_files(options: argparse.Namespace) -> None:
    """What is needed at the end is asked for at the start."""
    for path in (options.target_final, options.labels):
        if path is not None and not path.is_file():
            raise WrongData(f"{path} is not a file")
    if not options.report.absolute().parent.is_dir():
        raise WrongData(f"{options.report} can't be written: its folder does not exist")


def _play(settings: Mapping[str, Any], recording: Recording, contracts: Contracts) -> list[Played]:
    own = RecorderSettings(kafka=settings["kafka"], profile="local", identity_key=settings["identity_key"])
    with Recorder(own) as recorder:
        return play(recorder, recording.runs, contracts)


def _register(dsn: str, tenants: Mapping[str, str]) -> None:
    with connect(dsn, "operator", application="trajectories") as store:
        for tenant in tenants:
            store.execute(queries("console")["add_tenant"], {"tenant": tenant})


def _new_database(admin_dsn: str) -> str:
    with psycopg.connect(admin_dsn, autocommit=True) as admin:
        admin.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(_DATABASE)))
    return make_conninfo(admin_dsn, dbname=_DATABASE)


def _say(started: float, what: str) -> None:
    print(f"{time.monotonic() - started:6.1f} s  {what}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
