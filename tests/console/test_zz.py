from .conftest import *
import time, pytest, sys


@pytest.mark.parametrize("n", range(12))
def test_x(n, call, recorder, bank, database, capsys):
    def timed(*a):
        t = time.monotonic()
        r = call(*a)
        d = time.monotonic() - t
        with capsys.disabled():
            print("Z", n, a, round(d, 2), len(r.out), r.err[:300], flush=True)
        return r

    timed("tenant", "add", "acme")
    timed("reconcile", "--once")
    work(recorder, database)
    for _ in range(12):
        timed("ingest", "--once")
        o = timed("reconcile", "--once", "--json").json["open"]
        if not o:
            break
