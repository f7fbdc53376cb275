"""The Prometheus rules and the board: by the real promtool, and against the metrics that our code declares."""

import importlib
import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client import Counter, Gauge, Histogram
from prometheus_client.metrics import MetricWrapperBase

ROOT = Path(__file__).parents[2]
PROMETHEUS = ROOT / "ops" / "prometheus"
RULES: list[dict[str, Any]] = [
    rule for group in yaml.safe_load((PROMETHEUS / "rules.yml").read_text("utf-8"))["groups"] for rule in group["rules"]
]
ALERTS = [rule for rule in RULES if "alert" in rule]
BOARDS = sorted((ROOT / "ops" / "grafana" / "dashboards").glob("*.json"))

METRIC_MODULES = ["counterfoil_consumers.metrics", "counterfoil_reconcilers.metrics"]
# What Prometheus itself adds to a sample, and what the rules add to an alert.
COMMON_LABELS = {"job", "instance", "le", "alertname", "alertstate", "severity", "service"}
COMMANDS = {"doctor", "drift", "timeline", "topics", "schemas", "ingest", "migrate", "reconcile", "config"}


def _metrics() -> dict[str, set[str]]:
    """Every sample name that our modules can expose, with the labels that it has."""
    names: dict[str, set[str]] = {}
    for module in METRIC_MODULES:
        for metric in vars(importlib.import_module(module)).values():
            if isinstance(metric, MetricWrapperBase):
                names |= dict.fromkeys(_samples(metric), _labels(metric))
    return names


def _samples(metric: MetricWrapperBase) -> list[str]:
    (family,) = metric.describe()
    match metric:
        case Counter():
            return [f"{family.name}_total"]
        case Histogram():
            return [f"{family.name}_{part}" for part in ("bucket", "count", "sum")]
        case Gauge():
            return [family.name]
        case _:
            raise AssertionError(f"{family.name}: a kind of metric that this test does not know")


def _labels(metric: MetricWrapperBase) -> set[str]:
    names: tuple[str, ...] = metric._labelnames  # there is no public way
    return set(names)


METRICS = _metrics()
RECORDED = {rule["record"] for rule in RULES if "record" in rule}


def _board_expressions(board: Path) -> Iterator[str]:
    described = json.loads(board.read_text("utf-8"))
    for panel in described["panels"]:
        yield from (target["expr"] for target in panel.get("targets", []))
    for variable in described["templating"]["list"]:
        yield variable["definition"]
    for annotation in described["annotations"]["list"]:
        yield annotation["expr"]


EXPRESSIONS = [rule["expr"] for rule in RULES] + [expr for board in BOARDS for expr in _board_expressions(board)]


def _without_strings(expression: str) -> str:
    return re.sub(r'"[^"]*"', '""', expression)


@pytest.fixture(scope="module")
def promtool() -> str:
    """The real promtool. Under CI its absence is a failure."""
    found = shutil.which("promtool")
    if found:
        return found
    reason = "promtool is not on PATH; ops/install-test-packages.sh says how to get it"
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)


def _run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    output = done.stdout + done.stderr
    assert done.returncode == 0, output
    return output


def test_rules_are_valid(promtool: str) -> None:
    output = _run(promtool, "check", "rules", str(PROMETHEUS / "rules.yml"))
    assert f"{len(RULES)} rules found" in output


def test_alerts_fire_when_they_should_and_only_then(promtool: str) -> None:
    _run(promtool, "test", "rules", str(PROMETHEUS / "rules_test.yml"))


def test_configuration_of_prometheus_is_valid(promtool: str) -> None:
    _run(promtool, "check", "config", str(PROMETHEUS / "prometheus.yml"))


def test_expressions_of_the_boards_are_valid(promtool: str, tmp_path: Path) -> None:
    expressions = [
        expr.replace("$__rate_interval", "1m")
        for board in BOARDS
        for expr in _board_expressions(board)
        if not expr.startswith("label_values(")
    ]
    rules = [{"record": f"board:expression_{number}", "expr": expr} for number, expr in enumerate(expressions)]
    file = tmp_path / "board.yml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "board", "rules": rules}]}), "utf-8")
    output = _run(promtool, "check", "rules", str(file))
    assert f"{len(expressions)} rules found" in output


def test_every_alert_is_tested_both_ways() -> None:
    fires: set[str] = set()
    silent: set[str] = set()
    for case in yaml.safe_load((PROMETHEUS / "rules_test.yml").read_text("utf-8"))["tests"]:
        for expected in case["alert_rule_test"]:
            (fires if expected["exp_alerts"] else silent).add(expected["alertname"])
    alerts = {rule["alert"] for rule in ALERTS}
    assert fires == alerts
    assert silent == alerts


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_expressions_name_metrics_and_labels_that_exist(expression: str) -> None:
    bare = _without_strings(expression)
    names = set(re.findall(r"\bcounterfoil[a-z0-9_:]*", bare))
    assert names <= set(METRICS) | RECORDED
    labels = COMMON_LABELS.union(*(METRICS[name] for name in names - RECORDED))
    asked = set(re.findall(r"(\w+)\s*(?:=~|!~|!=|=)\s*\"", bare))
    for listed in re.findall(r"\b(?:by|without|on|ignoring)\s*\(([^)]*)\)", bare):
        asked |= set(re.findall(r"\w+", listed))
    assert asked <= labels


def test_every_metric_is_shown_on_a_board() -> None:
    shown = " ".join(expr for board in BOARDS for expr in _board_expressions(board))
    stems = {re.sub(r"_(bucket|count|sum)$", "", name) for name in METRICS}
    # The board shows the lag's sum by its recorded name, and the lag of each partition by its own.
    assert {stem for stem in stems if stem not in shown} == set()


@pytest.mark.parametrize("rule", ALERTS, ids=lambda rule: str(rule["alert"]))
def test_alerts_say_how_bad_it_is_and_what_to_do(rule: dict[str, Any]) -> None:
    assert rule["labels"]["severity"] in {"critical", "warning", "info"}
    assert set(rule["annotations"]) == {"summary", "description"}
    named = set(re.findall(r"`counterfoil ([a-z-]+)", rule["annotations"]["description"]))
    assert named, "the description names no command to run"
    assert named <= COMMANDS


def test_alerts_that_alertmanager_inhibits_exist() -> None:
    config = yaml.safe_load((ROOT / "ops" / "alertmanager" / "alertmanager.yml").read_text("utf-8"))
    alerts = {str(rule["alert"]) for rule in ALERTS}
    for rule in config["inhibit_rules"]:
        (source,) = (re.findall(r'alertname = "(\w+)"', matcher) for matcher in rule["source_matchers"])
        assert set(source) <= alerts
        pattern = next(
            m[0] for matcher in rule["target_matchers"] if (m := re.findall(r'alertname =~ "(.+)"', matcher))
        )
        assert any(re.fullmatch(pattern, alert) for alert in alerts)


@pytest.mark.parametrize("board", BOARDS, ids=lambda board: str(board.name))
def test_panels_read_the_provisioned_source_and_do_not_overlap(board: Path) -> None:
    described = json.loads(board.read_text("utf-8"))
    provisioning = ROOT / "ops" / "grafana" / "provisioning" / "datasources" / "prometheus.yml"
    known = {source["uid"] for source in yaml.safe_load(provisioning.read_text("utf-8"))["datasources"]}
    panels = described["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        if panel["type"] != "row":
            assert panel["datasource"]["uid"] in known
            assert {target["datasource"]["uid"] for target in panel["targets"]} <= known
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not cells & taken, panel["title"]
        taken |= cells
