"""A real PocketBase on loopback, with a folder of its own: the REST API that the kind `http` is held against."""

import json
import os
import secrets
import signal
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest

from bench.pgbouncer import served
from counterfoil_console.stack import default_directories
from counterfoil_console.stack.ports import HOST, pick
from tests.fix_oldest import need
from tests.fix_stack import memory_folder
from tests.waiting import freeze, is_served

VERSION = "0.36.8"
PROGRAM = default_directories(os.environ).cache / f"pocketbase-{VERSION}" / "base"
_ADMIN, _PASSWORD = "admin@example.com", "only-on-loopback"


class PocketBase:
    """One server. `token` is a superuser's: everybody else sees an empty list where a rule hides the rows."""

    def __init__(self, url: str, pid: int) -> None:
        self.url = url
        self._pid = pid
        self._http = httpx2.Client(base_url=url, timeout=60, trust_env=False)
        self.token = ""
        login = {"identity": _ADMIN, "password": _PASSWORD}
        self.token = str(self._asked("POST", "/api/collections/_superusers/auth-with-password", login)["token"])

    def make_collection(self, name: str, fields: Mapping[str, str]) -> None:
        """A collection anew, for superusers alone; its keys are any letters, digits, dashes and underscores."""
        self._sent("DELETE", f"/api/collections/{name}")
        key = {"name": "id", "type": "text", "primaryKey": True, "required": True, "system": True, "min": 1,
               "max": 100, "pattern": "^[A-Za-z0-9_-]+$", "autogeneratePattern": "[a-z0-9]{15}"}  # fmt: skip
        when = {"onCreate": True, "onUpdate": True}  # of an autodate: the server itself sets it at each write
        declared = [key, *({"name": field, "type": kind, **when} for field, kind in fields.items())]
        self._asked("POST", "/api/collections", {"name": name, "type": "base", "fields": declared})

    def put(self, name: str, key: str, fields: Mapping[str, Any]) -> None:
        """Write a record, new or not."""
        records = f"/api/collections/{name}/records"
        is_new = self._sent("GET", f"{records}/{key}").status_code == 404
        if is_new:
            self.add(name, key, fields)
        else:
            self._asked("PATCH", f"{records}/{key}", fields)

    def add(self, name: str, key: str, fields: Mapping[str, Any]) -> None:
        """Write a new record."""
        self._asked("POST", f"/api/collections/{name}/records", {"id": key, **fields})

    def fresh_token(self, email: str) -> str:
        """A token of another superuser, whose earlier ones are worth nothing from now on."""
        password = secrets.token_hex(16)
        said = {"email": email, "password": password, "passwordConfirm": password}
        superusers = "/api/collections/_superusers"
        found = self._asked("GET", f"{superusers}/records?filter=(email='{email}')")["items"]
        if found:
            self._asked("PATCH", f"{superusers}/records/{found[0]['id']}", said)
        else:
            self._asked("POST", f"{superusers}/records", said)
        login = {"identity": email, "password": password}
        return str(self._asked("POST", f"{superusers}/auth-with-password", login)["token"])

    def remove(self, name: str, key: str) -> None:
        """Take a record away."""
        self._asked("DELETE", f"/api/collections/{name}/records/{key}")

    @contextmanager
    def stopped(self) -> Iterator[None]:
        """It takes connections and says nothing, as a host that swaps."""
        freeze(self._pid)
        try:
            yield
        finally:
            os.kill(self._pid, signal.SIGCONT)

    def close(self) -> None:
        """Let go of connections."""
        self._http.close()

    def _asked(self, verb: str, path: str, fields: Mapping[str, Any] | None = None) -> Any:
        return json.loads(self._sent(verb, path, fields).raise_for_status().text or "null")

    def _sent(self, verb: str, path: str, fields: Mapping[str, Any] | None = None) -> httpx2.Response:
        return self._http.request(verb, path, json=fields, headers={"Authorization": self.token})


@pytest.fixture(scope="session")
def pocketbase() -> Iterator[PocketBase]:
    """A server for the run."""
    need(PROGRAM, "PocketBase")
    with tempfile.TemporaryDirectory(prefix="counterfoil-", dir=memory_folder()) as name:
        folder, port = Path(name), pick(None, ())
        places = [f"--{what}Dir={folder / what}" for what in ("migrations", "hooks", "public")]
        common = [str(PROGRAM), f"--dir={folder / 'data'}", *places, "--automigrate=false", "--hooksWatch=false"]
        made = [*common, "superuser", "upsert", _ADMIN, _PASSWORD]
        subprocess.run(made, check=True, capture_output=True, cwd="/", timeout=120)
        url = f"http://{HOST}:{port}"
        command = ["setpriv", "--pdeathsig", "INT", *common, "serve", f"--http={HOST}:{port}"]
        with served(command, folder / "log", lambda: is_served(f"{url}/api/health")) as pid:
            server = PocketBase(url, pid)
            yield server
            server.close()
