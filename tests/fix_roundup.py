"""A real Roundup issue tracker on loopback, with its REST API and a folder of its own."""

import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx2
import pytest

from bench.pgbouncer import served
from counterfoil_console.stack.ports import HOST, pick
from tests.fix_stack import memory_folder
from tests.waiting import is_served

USER, _PASSWORD = "admin", "only-on-loopback"
_SERVER = Path(__file__).with_name("roundup_server.py")


class Roundup:
    """One tracker. What it is asked here goes around any adapter, as an agent's tools do."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.settings = {"url": url, "user": USER, "password": _PASSWORD}
        # Its forgery protection wants to know where a write comes from.
        headers = {"X-Requested-With": "rest", "Origin": url, "Referer": f"{url}/"}
        self._http = httpx2.Client(
            base_url=f"{url}/rest/data", auth=(USER, _PASSWORD), headers=headers, timeout=120, trust_env=False
        )

    def open_issue(self, **fields: Any) -> str:
        """Make an issue; gives its id."""
        return str(self._asked("POST", "/issue", fields)["id"])

    def change_issue(self, key: str, fields: Mapping[str, Any]) -> None:
        """Change some of its fields."""
        self._asked("PATCH", f"/issue/{key}", fields, self._etag(key))

    def retire_issue(self, key: str) -> None:
        """Take it away; Roundup deletes nothing."""
        self._asked("DELETE", f"/issue/{key}", {}, self._etag(key))

    def close(self) -> None:
        """Let go of connections."""
        self._http.close()

    def _etag(self, key: str) -> dict[str, str]:
        return {"If-Match": self._http.get(f"/issue/{key}").raise_for_status().headers["etag"]}

    def _asked(self, verb: str, path: str, fields: Any, headers: Mapping[str, str] | None = None) -> Any:
        return self._http.request(verb, path, json=fields, headers=headers).raise_for_status().json()["data"]


@pytest.fixture(scope="session")
def roundup() -> Iterator[Roundup]:
    """A tracker for the run, of Roundup's classic template."""
    with tempfile.TemporaryDirectory(prefix="counterfoil-", dir=memory_folder()) as name:
        folder, port = Path(name), pick(None, ())
        home, url = folder / "home", f"http://{HOST}:{port}"
        home.mkdir()
        settings = f"web_enable_rest=yes,tracker_web={url}/,mail_domain=example.com,mail_host=localhost"
        _administer(home, "install", "classic", "sqlite", settings)
        _administer(home, "initialise", _PASSWORD)
        command = ["setpriv", "--pdeathsig", "INT", sys.executable, str(_SERVER), str(home), str(port)]
        with served(command, folder / "log", lambda: is_served(f"{url}/rest", auth=(USER, _PASSWORD), timeout=30)):
            tracker = Roundup(url)
            yield tracker
            tracker.close()


def _administer(home: Path, *command: str) -> None:
    program = Path(sys.executable).with_name("roundup-admin")
    subprocess.run([program, "-i", home, *command], check=True, capture_output=True, timeout=300, cwd=home)
