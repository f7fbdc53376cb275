"""`make demo`: an agent meets real trouble in a shop of its own, and Counterfoil says what landed."""

import argparse
import datetime as dt
import os
import shutil
import sys
import time
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import psycopg
from psycopg.conninfo import make_conninfo
from rich.console import Console
from rich.text import Text

from counterfoil import CounterfoilError, Recorder, RecorderSettings
from counterfoil_console import local
from counterfoil_console.cli.stack import progress_report
from counterfoil_console.rendering import drift_table, print_timeline
from counterfoil_console.stack import default_directories
from counterfoil_console.timeline import read_timeline
from counterfoil_consumers.store import connect, queries
from counterfoil_reconcilers.concluding import Policy
from counterfoil_reconcilers.contracts import load
from examples.shop.agent import STRAY_ORDER, totals, work
from examples.shop.shop import MERCHANT, Shop
from examples.workbench import workbench

_CONTRACTS = Path(__file__).with_name("contracts.toml")
_SETTLED_WITHIN_SECONDS = 60.0
_TASK = "refund-A-1003"


def main() -> int:
    """Run the demo; 0 when it went through."""
    parser = argparse.ArgumentParser(prog="python -m examples.shop", description=__doc__)
    parser.add_argument(
        "--data", type=Path, help="the demo's data directory; emptied first (default: beside the stack's)"
    )
    parser.add_argument("--down", action="store_true", help="take the demo's stack down at the end")
    options = parser.parse_args()
    data = options.data or default_directories(os.environ).data.with_name("counterfoil-demo")
    out = Console(
        file=sys.stdout, highlight=False, width=max(120, min(160, shutil.get_terminal_size((140, 24)).columns))
    )
    try:
        started = time.monotonic()
        with progress_report() as report:
            settings = local.up(data, fresh=True, report=report)
        _say(out, f"a real Kafka and a real Postgres are up ({time.monotonic() - started:.1f} s)")
        _demo(out, settings)
    except CounterfoilError as error:
        print(f"demo: {error}", file=sys.stderr)
        return 1
    finally:
        if options.down:
            local.local_stack(data).down()
    if not options.down:
        _say_what_next(out, data)
    return 0


def _demo(out: Console, settings: Mapping[str, Any]) -> None:
    target = _new_shop(settings["store"]["dsn"])
    shop = Shop(target)
    shop.open(totals())
    policy = Policy(sweep_every=dt.timedelta(0), give_up_after=dt.timedelta(seconds=1))
    with workbench(settings, load(_CONTRACTS), {"shop": {"dsn": target}}, policy) as bench:
        _register(settings["store"]["dsn"])
        bench.pass_once()
        _say(out, "the shop as it is now is the baseline; the agent starts work")
        own = RecorderSettings(
            kafka=settings["kafka"],
            profile="local",
            identity_key=settings["identity_key"],
            agent="support-7",
            release="2026.11",
        )
        with Recorder(own) as recorder:
            for line in work(recorder, shop):
                out.print(Text(f"    {line}"))
        shop.meddle(STRAY_ORDER)
        out.print(Text(f"    {STRAY_ORDER}: somebody changes its total by hand, and tells nobody"))
        _say(out, "waiting until absence is proven: two sightings, the log read past them, no producer silent")
        bench.pass_until_settled(_SETTLED_WITHIN_SECONDS)
    with closing(connect(settings["store"]["dsn"], "operator", application="demo")) as store:
        _say(out, f"counterfoil timeline {_TASK}")
        print_timeline(out, read_timeline(store, _TASK))
        _say(out, "counterfoil drift")
        filters = {"tenant": None, "target": None, "verdict": None, "limit": 100}
        out.print(drift_table(store.execute(queries("console")["drift"], filters).fetchall()))


def _say_what_next(out: Console, data: Path) -> None:
    command = Path(sys.executable).with_name("counterfoil")
    shown = command.relative_to(Path.cwd()) if command.is_relative_to(Path.cwd()) else command
    _say(out, "the stack is still up; what to type next:")
    for line in (
        f"export COUNTERFOIL_DATA_DIRECTORY={data}",
        f"{shown} timeline refund-A-1002        # the reply was lost, the money is refunded: no second refund",
        f"{shown} timeline refund-A-1004        # refunded twice",
        f"{shown} drift --json",
        f"{shown} down",
    ):
        out.print(Text(f"    {line}"), soft_wrap=True)


def _say(out: Console, what: str) -> None:
    out.print()
    out.print(Text(f"── {what}", style="bold"))


def _register(dsn: str) -> None:
    with connect(dsn, "operator", application="demo") as store:
        store.execute(queries("console")["add_tenant"], {"tenant": MERCHANT})


def _new_shop(dsn: str) -> str:
    with psycopg.connect(make_conninfo(dsn, dbname="postgres"), autocommit=True) as admin:
        admin.execute("CREATE DATABASE shop")
    return make_conninfo(dsn, dbname="shop")


if __name__ == "__main__":
    sys.exit(main())
