"""The open window of event ids: which partitions there are, and what each holds, as the store itself says."""

from collections import defaultdict

from counterfoil_consumers.records import Leaf, Window
from counterfoil_consumers.store import Connection, fetch_one, queries

_MONTHS_BACK, _MONTHS_AHEAD = 13, 2


def open_window(connection: Connection) -> Window:
    """Make each class's monthly partitions from 13 months back to 2 ahead; returns what ids all those that stand hold.

    A month that is past its time, or was dropped, is not made.
    """
    make_partitions(connection)
    return read_window(connection)


def read_window(connection: Connection) -> Window:
    """What ids the partitions hold that stand, newest first."""
    leaves: defaultdict[str, list[Leaf]] = defaultdict(list)
    for row in connection.execute(queries("ingest")["find_leaves"]):
        leaves[row["retention_class"]].append(Leaf(row["first_id"].bytes, row["next_id"].bytes, row["leaf"]))
    return Window({retention_class: tuple(its) for retention_class, its in leaves.items()})


def make_partitions(connection: Connection) -> int:
    """Make those partitions that are missing, and return how many those were."""
    params = {"months_back": _MONTHS_BACK, "months_ahead": _MONTHS_AHEAD}
    return int(fetch_one(connection, queries("ingest")["open_window"], params)["made"])
