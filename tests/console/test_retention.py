"""`counterfoil retention` and `counterfoil hold`, as people use them."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping

from counterfoil_consumers.store import Connection
from tests.consumers.past import event_of, ids, months_ago, store
from tests.waiting import wait_until

from .conftest import Call


def test_a_rule_is_set_listed_and_followed(call: Call, database: str, operator: Connection) -> None:
    listed = call("retention", "list")
    assert "standard  for ever" in listed.out
    assert "nobody has decided yet" in listed.out
    assert "astray: none; held past their time: 0" in listed.out
    refused = call("retention", "set", "standard", "--keep-months", "5", "--reason", "r").sentence
    assert "less than the 6" in refused
    assert "--less-than-six-months" in refused
    assert "either" in call("retention", "set", "standard", "--reason", "r").sentence
    assert (
        "either" in call("retention", "set", "standard", "--keep-months", "7", "--for-ever", "--reason", "r").sentence
    )
    assert "a class has up to 40" in call("retention", "set", "Café", "--for-ever", "--reason", "r").sentence

    old, young = event_of(months_ago(8)), event_of(months_ago(1))
    store(database, [old, young, event_of(months_ago(1), retention_class="x\x1b[31m")])
    said = call("retention", "set", "standard", "--keep-months", "7", "--reason", "a \x1b[31mreason", "--by", "dana")
    assert said.out == "standard is kept for 7 months\n"
    rehearsed = call("retention", "run", "--dry-run", "--json").json
    assert rehearsed["dry_run"] is True
    assert {one["outcome"] for one in rehearsed["done"]} == {"would be dropped"}
    assert ids(operator, "event") == {old.event_id, young.event_id}
    leaf = f"event_standard_{months_ago(8):%Y_%m}"
    assert f"{leaf} (standard): dropped, 1 events" in call("retention", "run", "--by", "eva").out
    assert call("retention", "run").out == "nothing is past its time\n"
    assert ids(operator, "event") == {young.event_id}

    listed = call("retention", "list")
    assert f"dropped {leaf} (standard): 1 events, kept for 7 months, by eva" in listed.out
    assert "1 events name the class x\\x1b[31m, which had no rule" in listed.out
    assert "astray: 1 no such class" in listed.out
    assert "\x1b" not in listed.out
    found = call("retention", "list", "--json").json
    [rule] = found["classes"]
    assert (rule["keep_months"], rule["changed_by"], len(rule["leaves"])) == (7, "dana", 10)
    assert [row["reason"] for row in found["astray"]] == ["no such class"]


def test_a_hold_is_added_listed_and_released(call: Call, database: str, operator: Connection) -> None:
    call("tenant", "add", "acme")
    one, other = event_of(months_ago(8)), event_of(months_ago(8), tenant="acme", task_id=b"\x05" * 16, task_ref="T-5")
    store(database, [one, other])
    assert "no tenant 'acm'" in call("hold", "add", "--tenant", "acm", "--reason", "r").sentence
    assert "no task 'T-6'" in call("hold", "add", "--tenant", "acme", "--task", "T-6", "--reason", "r").sentence
    said = call(
        "hold", "add", "--tenant", "acme", "--task", "T-5", "--reason", "a \x1b[31mclaim", "--by", "dana", "--json"
    )
    number = str(said.json["hold_id"])
    call("retention", "set", "standard", "--keep-months", "6", "--reason", "r")
    assert "dropped, 2 events, 1 of them held" in call("retention", "run").out
    listed = call("hold", "list")
    assert f"tenant acme, task {'05' * 16}" in listed.out
    assert "by dana" in listed.out
    assert "\x1b" not in listed.out
    [hold] = call("hold", "list", "--json").json
    assert (hold["held"], hold["task_id"]) == (1, "05" * 16)

    told = call("timeline", "T-5", "--json").json
    assert (len(told["events"]), told["dropped_events"]) == (1, 0)
    assert "(1 of them dropped past their time)" in call("timeline", one.task_id.hex()).out
    assert call("hold", "release", number, "--reason", "settled", "--by", "eva").out == f"hold {number} is released\n"
    assert f"no hold {number}" in call("hold", "release", number, "--reason", "again").sentence
    assert "nothing is held" in call("hold", "list").out
    assert "by eva: settled" in " ".join(call("hold", "list", "--all").out.split())
    assert "event_held (standard): dropped, 1 events" in call("retention", "run").out
    assert call("timeline", "T-5", "--json").json["dropped_events"] == 1
    times = ("--from", "2026-01-01", "--until", "2026-01-02T12:00:00")
    scope = ("--workflow", "w", "--agent", "a", "--subject", "s", *times)
    call("hold", "add", "--tenant", "acme", *scope, "--reason", "r")
    [hold] = call("hold", "list", "--json").json
    assert (hold["workflow"], hold["agent"], hold["subject_ref"], hold["task_id"]) == ("w", "a", "s", None)
    assert (hold["from_at"], hold["until_at"]) == ("2026-01-01T00:00:00+00:00", "2026-01-02T12:00:00+00:00")


def test_as_a_service_it_runs_at_once_and_says_so_in_metrics(
    environment: Mapping[str, str], variables: Mapping[str, str], call: Call, database: str, operator: Connection
) -> None:
    old = event_of(months_ago(8))
    store(database, [old])
    call("retention", "set", "standard", "--keep-months", "6", "--reason", "r")
    command = [sys.executable, "-m", "counterfoil_console", "retention", "run", "--every-hours", "1", "--by", "cron"]
    plain = {name: value for name, value in os.environ.items() if not name.startswith("COUNTERFOIL_")}
    process = subprocess.Popen(
        command, env=plain | dict(environment) | dict(variables), stderr=subprocess.PIPE, text=True
    )
    try:
        wait_until(lambda: ids(operator, "event") == set())
        process.send_signal(signal.SIGTERM)
        _, said = process.communicate(timeout=30)
    finally:
        if process.poll() is None:
            process.kill()
            process.communicate()
    assert process.returncode == 0
    assert "metrics on http://127.0.0.1:" in said
    assert json.dumps(f"event_standard_{months_ago(8):%Y_%m}")[1:-1] in said
    refused = call("retention", "run", "--every-hours", "1", "--dry-run").sentence
    assert "neither --dry-run nor --json" in refused
