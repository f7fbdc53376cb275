"""`counterfoil halt | resume | halts`: stop agents' writes, and see who obeys."""

import sys
from collections.abc import Callable, Sequence
from typing import Annotated, Any, TypeVar

import psycopg
import typer
from rich.table import Table
from rich.text import Text

from counterfoil.errors import CounterfoilError, UsageError
from counterfoil.issuing import OrderDesk, halts_of_people, refuse_breaker
from counterfoil.orders import Order
from counterfoil.scope import Scope
from counterfoil_console.cli.output import AsJson, console, open_store, print_json, user_of_this_shell
from counterfoil_console.halting import (
    Acknowledgements,
    Client,
    Reach,
    acknowledgements,
    client_json,
    collect,
    expected_clients,
    order_json,
    reach_of,
)
from counterfoil_console.hostile import shown
from counterfoil_console.settings import Settings, load
from counterfoil_console.timeline import plain
from counterfoil_consumers.store import Connection

_LONGEST_TEXT = 200
_LISTED = 20
T = TypeVar("T")

Scoped = Annotated[
    str, typer.Argument(help="everything, tenant:T, workflow:T/W, agent:T/A or tool:T/X", show_default=False)
]
Reason = Annotated[str, typer.Option("--reason", help="Why; shown to whoever is stopped.", show_default=False)]
By = Annotated[str | None, typer.Option("--by", help="Who orders it; the user of this shell if not given.")]
Wait = Annotated[float, typer.Option("--wait", min=0, max=3600, help="Seconds to wait for acknowledgements.")]


def add_to(app: typer.Typer) -> None:
    """Add these commands."""
    app.command()(halt)
    app.command()(resume)
    app.command()(halts)


def halt(scope: Scoped, reason: Reason, by: By = None, wait: Wait = 5, as_json: AsJson = False) -> None:
    """Stop the writes of a scope at every client, until `counterfoil resume` lifts the order.

    Works without the store. Exit code 0 says that the order stands; who has acknowledged it is told beside.

    Example: counterfoil halt tool:acme/refund --reason "refunds run twice"
    """
    settings, read = load(), _scope(scope)
    person = _person(by)
    _carry_out(settings, wait, as_json, lambda desk: desk.halt(read, by=person, reason=reason))


def resume(
    scope: Scoped,
    reason: Reason,
    by: By = None,
    order: Annotated[list[str] | None, typer.Option("--order", help="Only this order; may be given again.")] = None,
    breakers: Annotated[bool, typer.Option("--breakers", help="Lift the halts of breakers, too.")] = False,
    wait: Wait = 5,
    as_json: AsJson = False,
) -> None:
    """Lift the halts that people gave for exactly this scope; wider and narrower ones stay.

    Example: counterfoil resume tool:acme/refund --reason "fixed in release 7"
    """
    settings, read = load(), _scope(scope)
    person = _person(by)

    def give(desk: OrderDesk) -> Order:
        standing = desk.standing().in_force()
        own = (
            [one for one in standing if one.scope == str(read)]
            if breakers or order
            else halts_of_people(standing, read)
        )
        lifted = [one for one in own if not order or one.order_id.hex() in order]
        unknown = set(order or ()) - {one.order_id.hex() for one in lifted}
        if not lifted or unknown:
            raise UsageError(_nothing_to_lift(read, standing, unknown))
        return desk.resume(lifted, by=person, reason=reason)

    _carry_out(settings, wait, as_json, give)


def halts(as_json: AsJson = False) -> None:
    """List the halts in force: who has acknowledged, who has not, and which writes were under way already.

    What is in force is read from Kafka; the rest from the store, if it answers.

    Example: counterfoil halts --json
    """
    settings = load()
    standing = OrderDesk(settings).standing().in_force()
    found, problem = _from_store(settings, lambda store: [reach_of(store, one, _LISTED) for one in standing])
    reaches: Sequence[Reach | None] = [None] * len(standing) if found is None else found
    if as_json:
        listed = [
            order_json(one) | {"reach": None if reach is None else _reach_json(reach)}
            for one, reach in zip(standing, reaches, strict=True)
        ]
        print_json({"halts": listed, "store_problem": problem})
        return
    out = console()
    if not standing:
        out.print("no halt is in force")
    for one, reach in zip(standing, reaches, strict=True):
        out.print(_told(one))
        if reach is not None:
            _print_reach(reach)
    if problem:
        out.print(Text(f"\nwho obeys is not known: {shown(problem)}", style="yellow"))


def _scope(text: str) -> Scope:
    try:
        return Scope.parse(text)
    except UsageError as error:
        raise typer.BadParameter(shown(error)) from error


def _person(by: str | None) -> str:
    return refuse_breaker(user_of_this_shell() if by is None else by)


def _nothing_to_lift(scope: Scope, standing: tuple[Order, ...], unknown: set[str]) -> str:
    if unknown:
        return f"no halt of {scope} in force has the id {min(unknown)!r}; see `counterfoil halts`"
    breakers = [one for one in standing if one.scope == str(scope)]
    if breakers:
        return f"{scope} is halted by {breakers[0].by} alone, which lifts it itself; add --breakers to lift it now"
    others = ", ".join(sorted({one.scope for one in standing}))
    return f"nobody halted {scope}" + (f"; in force are halts of {others}" if others else "; no halt is in force")


def _from_store(settings: Settings, work: Callable[[Connection], T]) -> tuple[T | None, str | None]:
    """What the store says, or None and why it does not."""
    try:
        with open_store(settings) as store:
            return work(store), None
    except CounterfoilError as error:
        return None, str(error)
    except psycopg.Error as error:
        return None, str(error).strip().split("\n")[0]


def _carry_out(settings: Settings, wait: float, as_json: bool, give: Callable[[OrderDesk], Order]) -> None:
    """Give the order first, then say who has acknowledged it."""
    with acknowledgements(settings) as heard:
        order = give(OrderDesk(settings))
        if not as_json:
            console().print(_told(order))
        found, expected, problem = _gathered(settings, order, heard, wait)
    missing = None if expected is None else sorted(expected - found)
    if as_json:
        acknowledged = [client_json(client) for client in sorted(found)]
        waiting = None if missing is None else [client_json(client) for client in missing]
        print_json(order_json(order) | {"acknowledged": acknowledged, "waiting": waiting, "store_problem": problem})
        return
    console().print(_acknowledged(len(found), missing, problem))


def _gathered(
    settings: Settings, order: Order, heard: Acknowledgements | None, wait: float
) -> tuple[set[Client], set[Client] | None, str | None]:
    """Who acknowledged, who should, and why that is not known, if so."""
    expected, problem = _from_store(settings, lambda store: expected_clients(store, order))
    if heard is None:
        return set(), expected, "the log can't be read for acknowledgements"
    return collect(heard.of(order.order_id, wait), expected, _progress(expected)), expected, problem


def _progress(expected: set[Client] | None) -> Callable[[set[Client]], None]:
    def tell(found: set[Client]) -> None:
        if sys.stderr.isatty():
            total = "" if expected is None else f" of {len(expected | found)}"
            sys.stderr.write(f"\r{len(found)}{total} clients have acknowledged\r")
            sys.stderr.flush()

    return tell


def _told(order: Order) -> Text:
    verb, style = ("halted", "bold red") if order.action == "halt" else ("resumed", "bold green")
    text = Text(f"{shown(order.scope, _LONGEST_TEXT)} {verb}", style=style)
    by, reason = shown(order.by, _LONGEST_TEXT), shown(order.reason or "no reason given", _LONGEST_TEXT)
    text.append(f" by {by}: {reason}", style="not bold default")
    text.append(f"\norder {order.order_id.hex()}", style="not bold dim")
    return text


def _acknowledged(found: int, missing: list[Client] | None, problem: str | None) -> Text:
    have = f"{_clients(found)} acknowledged it"
    if missing is None:
        why = shown(problem or "the store is away")
        return Text(f"{have}; how many there are is not known ({why})", style="yellow")
    if not missing:
        return Text(f"{have}, and no other is open" if found else "no client is open", style="green")
    listed = ", ".join(f"{producer.hex()} of {tenant}" for tenant, producer in missing[:3])
    more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
    return Text(f"{have}; {_clients(len(missing))} not: {listed}{more}; see `counterfoil halts`", style="bold yellow")


def _clients(count: int) -> str:
    return f"{count} client has" if count == 1 else f"{count} clients have"


def _print_reach(reach: Reach) -> None:
    out = console()
    have, waiting, silent = len(reach.acknowledged), len(reach.waiting), len(reach.silent)
    style = "green" if not waiting + silent else "bold yellow"
    out.print(Text(f"{_clients(have)} acknowledged it, {waiting} not yet, {silent} not and silent", style=style))
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for word, rows in (("not yet", reach.waiting), ("silent", reach.silent)):
        for row in rows[:_LISTED]:
            where = f"{row['tenant']} · {row['host'] or 'host unknown'} · process {row['pid'] or 'unknown'}"
            table.add_row(word, shown(f"{where} · last heard {row['last_at']:%H:%M:%S} UTC", _LONGEST_TEXT))
    for row in reach.in_flight:
        when = f"{row['intent_at']:%m-%d %H:%M:%S}" if row["intent_at"] else "?"
        what = f"{row['tool']} → {row['target'] or 'no target'} · {row['agent']} · since {when} UTC"
        table.add_row("under way", shown(f"{what} · counterfoil timeline {row['task_id'].hex[:12]}", _LONGEST_TEXT))
    if table.row_count:
        out.print(table)
    more = reach.in_flight_count - len(reach.in_flight)
    if more:
        out.print(Text(f"… and {more} more writes under way", style="dim"))


def _reach_json(reach: Reach) -> dict[str, Any]:
    return {
        "acknowledged": [plain(row) for row in reach.acknowledged],
        "waiting": [plain(row) for row in reach.waiting],
        "silent": [plain(row) for row in reach.silent],
        "in_flight": [plain(row) for row in reach.in_flight],
        "in_flight_count": reach.in_flight_count,
    }
