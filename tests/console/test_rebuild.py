"""`counterfoil rebuild | digest | fold-unread`."""

import pytest

from counterfoil.codec import encode
from counterfoil_consumers.store import Connection
from tests.consumers.made import event, key_of
from tests.fix_log import Produce

from .conftest import Call


def spoil(operator: Connection) -> None:
    """As a bug would, or a hand."""
    operator.execute("RESET ROLE")
    operator.execute("SET ROLE counterfoil_ingester")
    operator.execute("UPDATE task SET cost = 7")
    operator.execute("RESET ROLE")
    operator.execute("SET ROLE counterfoil_operator")


def test_a_spoiled_projection_is_told_and_made_anew(
    call: Call, produce: Produce, operator: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(3):
        produce(encode(event(seq=number)), key_of(event()))
    assert call("ingest", "--once").code == 0
    right = call("digest", "--json").json
    assert right["projections"]["event"]["rows"] == 3
    assert sum(row["next_offset"] for row in right["offsets"]) == 3
    said = call("digest")
    assert said.out.splitlines()[1].split() == ["event", "3", right["projections"]["event"]["sha256"]]
    assert said.out.splitlines()[-2].split() == ["all", right["sha256"]]
    assert said.out.splitlines()[-1] == "as of 3 ingested offsets"

    same = call("rebuild", "--compare")
    assert same.code == 0
    assert f"the live projections are what the log says, {right['sha256']}: 3 events from the log" in same.out
    spoil(operator)
    differs = call("rebuild", "--compare", "--json")
    assert differs.code == 1
    assert (differs.json["swapped"], differs.json["differing"]) == (False, ["task"])
    assert "\n  task: 1 rows are " in call("rebuild", "--compare").out

    monkeypatch.setattr("counterfoil_console.cli.rebuild._TELL_EVERY_SECONDS", 0)
    done = call("rebuild", "--from", "store")
    assert done.out == "the projections are rebuilt and swapped: 0 events from the log, 3 from the stored bytes\n"
    assert "rebuilt 3 of at most 3 events" in done.err
    assert call("digest", "--json").json == right
    assert call("rebuild", "--json").json == {"from_store": 0, "from_log": 3, "swapped": True}


def test_what_no_version_of_ours_knows_stays_unread(call: Call, produce: Produce) -> None:
    later = event("dreamt", None, raw_body=b"\xff later", body_schema=b"\x07" * 8)
    produce(encode(later), key_of(later))
    assert call("ingest", "--once").code == 0
    assert call("fold-unread", "--json").json == {"read": 0, "unread": 1}
    said = call("fold-unread").out
    assert said == (
        "0 events that were kept unread are read and folded; 1 are of kinds or bodies that this version does not know\n"
    )


def test_an_origin_that_there_is_not(call: Call) -> None:
    assert "'half' is not one of" in call("rebuild", "--from", "half").sentence
