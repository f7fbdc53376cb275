"""`counterfoil ingest` and `counterfoil reconcile` as processes of their own, and what they log."""

import json
import logging
import re
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from counterfoil import Recorder
from counterfoil_console.logs import set_up_logs
from examples.shop.agent import STRAY_ORDER, totals, work
from examples.shop.shop import MERCHANT, Shop
from tests.fix_http import Api

from .conftest import Call, Said

CONTRACTS = Path(__file__).parents[2] / "examples" / "shop" / "contracts.toml"
SERVICE_SECONDS = 30.0


class Service:
    """A running `counterfoil` service, its stderr in a file."""

    def __init__(self, command: str, environment: dict[str, str], log: Path) -> None:
        self.log = log
        with log.open("wb") as stderr:
            self.process = subprocess.Popen(
                [sys.executable, "-W", "error", "-m", "counterfoil_console", command], env=environment, stderr=stderr
            )

    def get(self, path: str) -> tuple[int, str]:
        """Status and text of one answer."""
        found = wait_for(lambda: re.search(r"metrics on (http://[\d.]+:\d+)/metrics", self.log.read_text()))
        try:
            with urllib.request.urlopen(found[1] + path, timeout=5) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()

    def stop(self) -> float:
        """SIGTERM; returns the seconds that it took to end with 0."""
        started = time.monotonic()
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(SERVICE_SECONDS) == 0, self.log.read_text()
        return time.monotonic() - started


def wait_for(ask: Callable[[], Any]) -> Any:
    deadline = time.monotonic() + SERVICE_SECONDS
    while not (found := ask()):
        assert time.monotonic() < deadline, "it did not come true in time"
        time.sleep(0.1)
    return found


@pytest.fixture
def start(environment: dict[str, str], variables: dict[str, str], tmp_path: Path) -> Iterator[Callable[..., Service]]:
    """Starts services that reach the test's topics and store; those left are killed."""
    services: list[Service] = []

    def begin(command: str, **changes: str) -> Service:
        own = {f"COUNTERFOIL_{name}": value for name, value in changes.items()}
        services.append(Service(command, environment | variables | own, tmp_path / f"{command}.log"))
        return services[-1]

    yield begin
    for service in services:
        if service.process.poll() is None:
            service.process.kill()
            service.process.wait()


def test_ingest_answers_and_ends_when_told(start: Callable[..., Service]) -> None:
    ingest = start("ingest")
    assert ingest.get("/livez") == (200, "200 OK\n")
    wait_for(lambda: ingest.get("/readyz")[0] == 200)
    assert ingest.get("/elsewhere") == (404, "404 Not Found\n")
    status, metrics = ingest.get("/metrics")
    assert status == 200
    for name in ("events_stored_total", "duplicates_total", "dead_letters_total", "lag_records", "batch_seconds"):
        assert f"# TYPE counterfoil_ingest_{name} " in metrics
    assert "# TYPE counterfoil_outbox_waiting gauge" in metrics
    assert ingest.stop() < 5
    assert "Traceback" not in ingest.log.read_text()


def test_a_service_that_never_came_round_is_not_ready_and_ends_when_told(start: Callable[..., Service]) -> None:
    reconcile = start("reconcile", CONTRACTS=str(CONTRACTS), TARGETS__SHOP__DSN="host=127.0.0.1 port=1 dbname=x")
    assert reconcile.get("/livez")[0] == 200
    assert reconcile.stop() < 5


def test_the_http_api_ends_soon_while_somebody_waits(start: Callable[..., Service], call: Call, bank: Path) -> None:
    assert bank.exists()
    assert call("migrate").code == call("topics", "--create").code == call("tenant", "add", "acme").code == 0
    token = call("token", "create", "--tenant", "acme").out.strip()
    serve = start("serve", HTTP_PORT="0")
    found = wait_for(lambda: re.search(r"answers on http://[\d.]+:(\d+)/v1", serve.log.read_text()))
    api = Api(int(found[1]))
    assert api.ask("GET", "/readyz", None).status == 200
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(api.confirm, uuid.uuid4().hex, token, timeout_seconds=30)
        time.sleep(1)
        assert serve.stop() < 15
        assert waiting.result().status == 404
    log = serve.log.read_text()
    assert "Traceback" not in log
    assert token not in log
    assert token.split("_")[2] not in log
    assert token.split("_")[1] in log  # which of them asked


def test_the_whole_way_in_separate_processes(
    start: Callable[..., Service], call: Call, recorder: Recorder, database: str, admin_dsn: str
) -> None:
    target = make_conninfo(database, options="-c search_path=shop")
    shop = Shop(target)
    shop.open(totals())
    changes = {
        "CONTRACTS": str(CONTRACTS), "TARGETS__SHOP__DSN": target, "SWEEP_INTERVAL_SECONDS": "0.2",
        "RECONCILE_INTERVAL_SECONDS": "0.2", "GIVE_UP_AFTER_SECONDS": "1",
    }  # fmt: skip
    call("tenant", "add", MERCHANT)
    ingest, reconcile = start("ingest"), start("reconcile", LOG_FORMAT="json", **changes)
    wait_for(lambda: ingest.get("/readyz")[0] == 200 and reconcile.get("/readyz")[0] == 200)
    wait_for(lambda: _has_a_baseline(database))
    assert len(list(work(recorder, shop))) == 7
    recorder.close()
    shop.meddle(STRAY_ORDER)

    def verdicts() -> set[str]:
        return {one["verdict"] for one in call("drift", "--json").json["drift"]}

    try:
        wait_for(lambda: verdicts() == {"duplicated", "not_applied", "partial", "unattributed"})
    except AssertionError:
        print(verdicts(), call("doctor", **changes).out, reconcile.log.read_text(), ingest.log.read_text())
        raise
    wait_for(
        lambda: (
            'counterfoil_drift{acknowledged="no",target="shop",tenant="demo",verdict="partial"} 1.0'
            in _metrics(reconcile)
        )
    )
    wait_for(lambda: call("doctor", **changes).out.count("\nok    ingest"))
    assert "counterfoil_oldest_unresolved_effect_seconds" in _metrics(reconcile)
    assert "counterfoil_reconcile_passes_total" in _metrics(reconcile)
    _follow_one(call)
    assert ingest.stop() < 5
    assert reconcile.stop() < 5
    for line in reconcile.log.read_text().splitlines():
        assert line.startswith("metrics on ") or "event" in json.loads(line)


def _metrics(service: Service) -> str:
    return service.get("/metrics")[1]


def _has_a_baseline(dsn: str) -> bool:
    with psycopg.connect(dsn) as connection:
        connection.execute("SET ROLE counterfoil_operator")
        row = connection.execute("SELECT count(*) FROM counterfoil.target_baseline").fetchone()
        return row is not None and row[0] > 0


def _follow_one(call: Call) -> Said:
    """What a responder types next leads to the write."""
    said = call("timeline", "refund-A-1005")
    assert "the agent said ok, the target says not_applied: DRIFT, it never landed" in said.out
    return said


@pytest.fixture
def logged(capsys: pytest.CaptureFixture[str]) -> Iterator[Callable[[str], list[str]]]:
    """Logs a few hostile lines in one form, and returns what came out of stderr."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level

    def log(form: Any) -> list[str]:
        set_up_logs(form)
        capsys.readouterr()
        logger = logging.getLogger("counterfoil.test")
        logger.warning("set aside %s", "\x1b[2J\nfake line")
        logger.error("it failed", exc_info=ValueError("\x1b[31mwrong\x1b[0m"))
        logging.getLogger("counterfoil.kafka").info("chatter")
        return capsys.readouterr().err.splitlines()

    yield log
    root.handlers[:] = handlers
    root.setLevel(level)
    for name in ("counterfoil.kafka", "apscheduler"):
        logging.getLogger(name).setLevel(logging.NOTSET)


def test_json_logs_are_one_object_a_line(logged: Callable[[str], list[str]]) -> None:
    first, second = [json.loads(line) for line in logged("json")]
    assert (first["event"], first["level"], first["logger"]) == (
        "set aside \x1b[2J\nfake line", "warning", "counterfoil.test",
    )  # fmt: skip
    assert first["timestamp"].endswith("Z")
    assert "ValueError" in second["exception"]


def test_console_logs_are_plain(logged: Callable[[str], list[str]]) -> None:
    lines = logged("console")
    assert "set aside \\x1b[2J\\nfake line" in lines[0]
    assert not [line for line in lines if "\x1b" in line]
    assert "ValueError" in "".join(lines)


def test_librdkafka_never_writes_to_stderr_itself(environment: dict[str, str], variables: dict[str, str]) -> None:
    code = (
        "from counterfoil import Recorder\n"
        "r = Recorder.from_env(close_timeout_seconds=1)\n"
        "t = r.task('x', tenant='acme')\n"
        "t.__enter__()\n"
        "r.flush(2)\n"
        "import os; os._exit(0)\n"
    )
    own = {"COUNTERFOIL_KAFKA__BOOTSTRAP_SERVERS": "127.0.0.1:1"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment | variables | own, capture_output=True, text=True, check=True
    )
    assert (done.stdout, done.stderr) == ("", "")
