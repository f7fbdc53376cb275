"""A mail server of the run's own: SMTP takes what agents send, and Dovecot gives the senders' copies by IMAP.

Dovecot is Debian's, which ops/install-test-packages.sh installs. It runs under the user of the local stack's Postgres,
with its own configuration and Maildirs, and listens on the loopback interface alone.
"""

import grp
import os
import pwd
import shutil
import signal
import smtplib
import ssl
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from email.message import EmailMessage
from itertools import count
from pathlib import Path

import psutil
import pytest
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, Envelope
from aiosmtpd.smtp import Session as SmtpSession
from imapclient import IMAPClient

from bench.pgbouncer import folder_of_servers, served
from counterfoil_console.stack.ports import HOST, is_open, pick
from tests.fix_oldest import need
from tests.fix_stack import memory_folder
from tests.waiting import freeze

PROGRAM, IMAP = Path("/usr/sbin/dovecot"), Path("/usr/lib/dovecot/imap")
PASSWORD = "only-on-loopback-é"
LARGEST_BYTES = 64_000_000
# dovecot.org, "Rootless installation": all processes are of one user, and none changes its root.
_CONFIGURATION = """\
base_dir = {folder}/run
state_dir = {folder}/state
log_path = {folder}/log
protocols = imap
listen = {host}
default_internal_user = {user}
default_internal_group = {group}
default_login_user = {user}
disable_plaintext_auth = no
auth_failure_delay = 0
ssl = yes
ssl_cert = <{folder}/keystore.pem
ssl_key = <{folder}/keystore.pem
mail_location = maildir:{folder}/mail/%u
mail_fsync = never
mail_max_userip_connections = 50
passdb {{
  driver = static
  args = password={password}
}}
userdb {{
  driver = static
  args = uid={uid} gid={gid} home={folder}/home/%u
}}
namespace inbox {{
  inbox = yes
  mailbox Sent {{
    auto = create
  }}
}}
service imap-login {{
  chroot =
  inet_listener imap {{
    port = {port}
  }}
  inet_listener imaps {{
    port = {tls_port}
  }}
}}
service anvil {{
  chroot =
  unix_listener anvil-auth-penalty {{
    mode = 0
  }}
}}
service stats {{
  chroot =
}}
"""


class _Copies:
    """Keeps a copy of what is sent in the mailbox Sent of whoever sent it, as a submission server can."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    async def handle_DATA(self, _server: SMTP, _session: SmtpSession, envelope: Envelope) -> str:  # noqa: N802
        assert isinstance(envelope.content, bytes)
        deliver(self._folder, str(envelope.mail_from).partition("@")[0], envelope.content)
        return "250 kept"


_NUMBERS = count()


def deliver(folder: Path, account: str, message: bytes, mailbox: str = "Sent") -> None:
    """Put a message into a Maildir (cr.yp.to/proto/maildir.html)."""
    maildir, owner = folder / "mail" / account / f".{mailbox}", folder.stat()
    for made in (maildir.parent, maildir, *(maildir / part for part in ("tmp", "new", "cur"))):
        if not made.exists():
            made.mkdir()
            os.chown(made, owner.st_uid, owner.st_gid)
    name = f"{uuid.uuid4().hex}.{next(_NUMBERS)}"
    (maildir / "tmp" / name).write_bytes(message)
    os.chown(maildir / "tmp" / name, owner.st_uid, owner.st_gid)
    (maildir / "tmp" / name).rename(maildir / "new" / name)


@dataclass(frozen=True)
class MailServer:
    """Both servers. `account` is one of a test's own; any other exists, too, under the one password."""

    folder: Path
    pid: int
    port: int
    tls_port: int
    smtp_port: int
    authority: Path
    account: str = ""

    @property
    def address(self) -> str:
        """The account's address."""
        return f"{self.account}@shop.example"

    def send(self, message: EmailMessage) -> None:
        """Send a message, from the account."""
        with smtplib.SMTP(HOST, self.smtp_port, timeout=60) as client:
            client.send_message(message, self.address, ["ann@customer.example"])

    def deliver(self, message: bytes, mailbox: str = "Sent") -> None:
        """Put bytes into a mailbox, mail or not."""
        deliver(self.folder, self.account, message, mailbox)

    @contextmanager
    def client(self) -> Iterator[IMAPClient]:
        """A login that may write."""
        context = ssl.create_default_context(cafile=str(self.authority / "ca.pem"))
        with IMAPClient(HOST, self.tls_port, ssl_context=context, timeout=60) as client:
            client.plain_login(self.account, PASSWORD)
            yield client

    @contextmanager
    def stopped(self) -> Iterator[None]:
        """For the length of a block no process of Dovecot's does anything, and no connection is closed."""
        processes = [psutil.Process(self.pid), *psutil.Process(self.pid).children(recursive=True)]
        for process in processes:
            freeze(process.pid)
        try:
            yield
        finally:
            for process in processes:
                with suppress(psutil.NoSuchProcess):
                    process.send_signal(signal.SIGCONT)


@pytest.fixture(scope="session")
def mail_servers(authority: Path) -> Iterator[MailServer]:
    """One for the whole run."""
    need(IMAP, "dovecot-imapd")
    with folder_of_servers(memory_folder()) as (folder, run_as):
        user = pwd.getpwuid(folder.stat().st_uid)
        port = pick(None, ())
        tls_port = pick(None, (port,))
        smtp_port = pick(None, (port, tls_port))
        shutil.copy(authority / "keystore.pem", folder)
        os.chown(folder / "keystore.pem", user.pw_uid, user.pw_gid)
        (folder / "mail").mkdir()
        os.chown(folder / "mail", user.pw_uid, user.pw_gid)
        configuration = _CONFIGURATION.format(
            folder=folder, host=HOST, port=port, tls_port=tls_port, password=PASSWORD, user=user.pw_name,
            group=grp.getgrgid(user.pw_gid).gr_name, uid=user.pw_uid, gid=user.pw_gid,
        )  # fmt: skip
        (folder / "dovecot.conf").write_text(configuration)
        smtp = Controller(_Copies(folder), hostname=HOST, port=smtp_port, data_size_limit=LARGEST_BYTES)
        command = run_as(PROGRAM, "-F", "-c", folder / "dovecot.conf")
        with served(command, folder / "said", lambda: is_open(tls_port)) as pid:
            smtp.start()
            try:
                yield MailServer(folder, pid, port, tls_port, smtp_port, authority)
            finally:
                smtp.stop()


@pytest.fixture
def mail_server(mail_servers: MailServer) -> MailServer:
    """With an empty account of the test's own."""
    return replace(mail_servers, account=f"agent-{uuid.uuid4().hex[:12]}")
