"""What a benchmark says: one row per contender and metric, one table, and the same as JSON lines."""

import argparse
import json
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

# Where more is better the best is the highest; elsewhere the lowest.
_MORE_IS_BETTER = {"events_per_second", "effects_per_second", "reads_per_second", "kept_share"}


@dataclass(frozen=True, slots=True)
class Row:
    """One metric of one contender over `rounds` rounds."""

    contender: str
    metric: str
    unit: str
    best: float
    median: float
    worst: float
    rounds: int


@dataclass(frozen=True, slots=True)
class Failed:
    """A contender that could not run, and why."""

    contender: str
    error: str


def row_of(contender: str, metric: str, unit: str, values: Sequence[float]) -> Row:
    """The row of one value per round."""
    low, high = min(values), max(values)
    best, worst = (high, low) if metric in _MORE_IS_BETTER else (low, high)
    return Row(contender, metric, unit, best, statistics.median(values), worst, len(values))


def rows_of(contender: str, rounds: Sequence[Mapping[str, float]], units: Mapping[str, str]) -> list[Row]:
    """A row for every metric that the rounds measured."""
    return [row_of(contender, metric, units[metric], [values[metric] for values in rounds]) for metric in rounds[0]]


Measure = Callable[[], dict[str, float]]


def interleaved(contenders: Mapping[str, Measure], rounds: int, units: Mapping[str, str]) -> list[Row | Failed]:
    """Every contender once a round, so that what the machine does meanwhile meets all of them."""
    found: dict[str, list[dict[str, float]]] = {name: [] for name in contenders}
    failed: dict[str, str] = {}
    for _ in range(rounds):
        for name, measure in contenders.items():
            if name in failed:
                continue
            try:
                found[name].append(measure())
            except Exception as error:  # noqa: BLE001  # a contender that could not run is a row
                failed[name] = f"{type(error).__name__}: {error}"
    rows: list[Row | Failed] = []
    for name, measured in found.items():
        rows += [Failed(name, failed[name])] if name in failed else rows_of(name, measured, units)
    return rows


def command(
    name: str,
    description: str | None,
    title: str,
    run: Callable[[bool], Sequence[Row | Failed]],
    ratios: Callable[[Sequence[Row | Failed]], Iterable[str]],
    arguments: Sequence[str] | None,
) -> int:
    """The command of one benchmark: `run`, quick or not, and show what it found; returns 0."""
    parser = argparse.ArgumentParser(prog=f"python -m bench.{name}", description=description)
    parser.add_argument("--quick", action="store_true", help="less work and fewer rounds: under five minutes")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows there, one a line")
    given = parser.parse_args(arguments)
    rows = run(given.quick)
    show(title, rows)
    for line in ratios(rows):
        print(line)
    if given.json is not None:
        write_json(rows, given.json)
    return 0


def write_json(rows: Iterable[Any], path: Path) -> None:
    """One row, a dataclass, a line."""
    path.write_text("".join(json.dumps(asdict(row)) + "\n" for row in rows), encoding="utf-8")


def show(title: str, rows: Sequence[Row | Failed]) -> None:
    """Print the table."""
    table = Table(title=title, title_justify="left")
    for name in ("contender", "metric", "unit"):
        table.add_column(name)
    for name in ("best", "median", "worst"):
        table.add_column(name, justify="right")
    for row in rows:
        if isinstance(row, Failed):
            table.add_row(row.contender, "error", "", row.error)
        else:
            figures = (
                f"{value:,.3g}" if value < 100 else f"{value:,.0f}" for value in (row.best, row.median, row.worst)
            )
            table.add_row(row.contender, row.metric, row.unit, *figures)
    Console(width=110).print(table)
