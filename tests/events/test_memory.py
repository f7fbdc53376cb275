"""An outage costs disk, not memory. The long form: COUNTERFOIL_TEST_OUTAGE_SECONDS=600, as `make soak` runs it."""

import json
import os
import signal

import pytest

from counterfoil import Recorder, RecorderSettings
from tests.accounts import assert_accounted
from tests.fix_log import Logged, StartPython
from tests.fix_recorder import folders
from tests.waiting import wait_until

SECONDS = int(os.environ.get("COUNTERFOIL_TEST_OUTAGE_SECONDS", "0"))
EVENTS = SECONDS * 1000 or int(os.environ.get("COUNTERFOIL_TEST_OUTAGE_EVENTS", "20000"))

_RECORDS_ALONE = """
import json, os, signal, sys, time
from pathlib import Path
from counterfoil import Recorder
count, seconds, broker = int(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
recorder = Recorder.from_env(ack_timeout_seconds=0.5, close_timeout_seconds=5)
with recorder.task("t", task_ref="T-9") as task:
    for number in range(2000):
        task.completion("x" * 1000)
    recorder.flush()
    os.kill(broker, signal.SIGSTOP)
    before, most, started = resident(), 0, time.monotonic()
    for number in range(count):
        task.completion(f"{number} " + "x" * 1000)
        if number % 100 == 0:
            most = max(most, resident())
            while seconds and time.monotonic() - started < number / 1000:
                time.sleep(0.01)
    task.suspend("enough")
print(json.dumps({"grown": most - before, "seconds": time.monotonic() - started}), flush=True)
recorder.close()
"""


@pytest.mark.alone
@pytest.mark.timeout(SECONDS * 3 + 180)
def test_an_outage_costs_little_memory_and_loses_nothing(
    start_python: StartPython, recorder_settings: RecorderSettings, broker_pid: int, logged: Logged
) -> None:
    try:
        process = start_python(_RECORDS_ALONE, str(EVENTS), str(SECONDS), str(broker_pid))
        printed, said = process.communicate(timeout=SECONDS + 90)
    finally:
        os.kill(broker_pid, signal.SIGCONT)
    assert process.returncode == 0, said
    found = json.loads(printed)
    print(found)
    assert found["grown"] < 64 * 1024**2, found
    [left] = folders(recorder_settings)
    with Recorder(recorder_settings) as heir, heir.task("other"):
        wait_until(lambda: not left.exists(), 60 + EVENTS / 2000)
    events = logged()
    accounts = assert_accounted(events)
    assert not any(account.gaps for account in accounts.values())
    texts = [(event.body or {})["text"] for event in events if event.kind == "completion"]
    numbers = [int(text.split()[0]) for text in dict.fromkeys(texts) if text[0].isdigit()]
    assert numbers == list(range(EVENTS))
