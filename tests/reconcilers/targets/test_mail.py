"""E-mail passes the suite of every kind; what is its own is in test_mail_reads.

A message can't change: like a mail program with its drafts, the subject takes the old one away and writes another.
"""

from collections.abc import Mapping
from contextlib import AbstractContextManager
from email.message import EmailMessage
from typing import Any

import pytest

from counterfoil_console.stack.ports import HOST
from tests.fix_mail import PASSWORD, MailServer
from tests.reconcilers.targets.conformance import SECRET, Conformance, Subject

_CONTRACT = """\
[targets.subject]
kind = "email"
[targets.subject.resources.items]
mailbox = "Sent"
key = ["id"]
tenant = "tenant"
headers = { id = "X-Item", tenant = "X-Tenant", status = "X-Status" }
"""


class Sent:
    """The mailbox Sent of an account, behind TLS and a login."""

    contract = _CONTRACT
    lost_contract = (_CONTRACT.replace('"Sent"', '"Snet"'), "Snet")

    def __init__(self, server: MailServer) -> None:
        self._server = server
        self.connection = {
            "host": HOST,
            "port": str(server.tls_port),
            "username": server.account,
            "password": PASSWORD,
            "ca_file": str(server.authority / "ca.pem"),
        }
        self.refused = {**self.connection, "password": SECRET}

    def put(self, tenant: str, key: str, fields: Mapping[str, Any]) -> None:
        self.remove(tenant, key)
        message = EmailMessage()
        message["X-Item"], message["X-Tenant"], message["X-Status"] = key, tenant, str(fields.get("status"))
        message["From"], message["To"] = self._server.address, "Ann <ann@customer.example>"
        message["Subject"] = str(fields.get("subject", "about an item"))
        message.set_content(str(fields.get("text", "")))
        self._server.send(message)

    def remove(self, tenant: str, key: str) -> None:
        with self._server.client() as client:
            client.select_folder("Sent")
            found = client.search(["HEADER", "X-Item", key, "HEADER", "X-Tenant", tenant])
            client.delete_messages(found)
            client.expunge()

    def away(self) -> AbstractContextManager[None]:
        """The server neither answers nor closes its connections."""
        return self._server.stopped()


class TestMail(Conformance):
    documents: Mapping[str, Any] = {
        "status": "paid",
        "subject": "Ärger, 日本, \"quoted\" and 'single' \\ back",
        "text": "Ärger,\n\n日本, \"quoted\" and 'single' \\ back\n. dot",
    }
    answers_within_seconds = 60.0

    @pytest.fixture
    def subject(self, mail_server: MailServer) -> Subject:
        return Sent(mail_server)
