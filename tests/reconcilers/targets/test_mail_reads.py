"""The e-mail adapter on a real IMAP server: odd mail, hostile ids, few commands, nothing written, no wrong row."""

import hashlib
import logging
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from email.message import EmailMessage
from pathlib import Path
from typing import Any

import pytest

from counterfoil_console.stack.ports import HOST, pick
from counterfoil_reconcilers.rows import Row, RowKey
from counterfoil_reconcilers.targets.opening import open_target
from counterfoil_reconcilers.targets.port import Address, Target, TargetUnavailable
from counterfoil_reconcilers.touched import Search
from tests.fix_mail import PASSWORD, MailServer
from tests.reconcilers.targets.conformance import contracts_of

EFFECT, OTHER = "01" * 16, "02" * 16
PDF = b"%PDF-1.7\r\n\x00\xff" * 1_000
BY_UID = """
[targets.mail]
kind = "email"
[targets.mail.resources.sent]
key = ["uid"]
headers.reference = "X-Counterfoil-Effect"
"""
BY_ID = BY_UID.replace('["uid"]', '["message_id"]')

Opened = Callable[..., Target]


@pytest.fixture
def opened(mail_server: MailServer, tmp_path: Path) -> Iterator[Opened]:
    """Opens targets on the account's mailbox, with other settings where named; and closes them."""
    targets: list[Target] = []

    def open_(text: str = BY_UID, **changed: str) -> Target:
        settings = {
            "host": HOST,
            "port": str(mail_server.tls_port),
            "username": mail_server.account,
            "password": PASSWORD,
            "ca_file": str(mail_server.authority / "ca.pem"),
        }
        targets.append(open_target(contracts_of(tmp_path, text), "mail", {"mail": settings | changed}))
        return targets[-1]

    yield open_
    for target in targets:
        target.close()


def invoice(server: MailServer, reference: str = EFFECT, **headers: str) -> EmailMessage:
    """A message with an attachment, as an agent sends it."""
    message = EmailMessage()
    named = {"From": f"Shop <{server.address}>", "To": "Ann <ann@customer.example>, bob@customer.example"}
    defaults = {"Subject": "Invoice R-17", "Message-ID": "<R-17@shop.example>", "X-Counterfoil-Effect": reference}
    for name, value in (named | defaults | headers).items():
        message[name] = value
    message.set_content("Dear Ann,\n\nyour invoice.\n")
    message.add_attachment(PDF, maintype="application", subtype="pdf", filename="R-17 für Ann.pdf")
    return message


def raw(*headers: str, body: bytes = b"text\r\n") -> bytes:
    """A message byte by byte."""
    return "\r\n".join((*headers, "", "")).encode() + body


def rows_of(target: Target, limit: int = 50, **fields: Any) -> list[Row]:
    """What a search finds."""
    found = target.find(None, [Search("sent", tuple(sorted(fields.items())))], limit)
    assert len({row.address for row in found}) == len(found)
    return [row.row for row in found if row.row is not None]


def only(rows: list[Row]) -> dict[str, Any]:
    """The document of the one row."""
    [row] = rows
    assert row.problem is None
    assert isinstance(row.doc, dict)
    return row.doc


def read(target: Target, *keys: str) -> list[Row | None]:
    return [found.row for found in target.read([Address(None, RowKey("sent", (key,))) for key in keys])]


def test_a_row_holds_what_was_sent(mail_server: MailServer, opened: Opened) -> None:
    mail_server.send(invoice(mail_server, Cc="eve@x.example", Date="Sat, 28 Nov 2026 10:00:00 +0100"))
    row = only(rows_of(opened(), reference=EFFECT))
    headers = row.pop("headers")
    uid = row.pop("uid")
    assert row == {
        "message_id": "<R-17@shop.example>",
        "from": mail_server.address,
        "to": ["ann@customer.example", "bob@customer.example"],
        "cc": ["eve@x.example"],
        "subject": "Invoice R-17",
        "date": "2026-11-28T10:00:00+01:00",
        "reference": EFFECT,
        "text": "Dear Ann,\n\nyour invoice.",
        "html": None,
        "attachments": [
            {"name": "R-17 für Ann.pdf", "size": float(len(PDF)), "sha256": hashlib.sha256(PDF).hexdigest()}
        ],
    }
    assert headers["x-counterfoil-effect"] == EFFECT
    assert uid.endswith(".1")


@pytest.mark.parametrize(
    "fields",
    [
        {"message_id": "<R-17@shop.example>"},
        {"subject": "Invoice R-17"},
        {"from": "AGENT"},
        {"to": ["ann@customer.example", "bob@customer.example"]},
        {"reference": EFFECT, "text": "Dear Ann,\n\nyour invoice."},
    ],
    ids="-".join,
)
def test_messages_are_found_by_these(mail_server: MailServer, opened: Opened, fields: dict[str, Any]) -> None:
    mail_server.send(invoice(mail_server))
    mail_server.send(
        invoice(
            mail_server, OTHER, To="x@y.example", Subject="Invoice R-171", **{"Message-ID": "<R-17@shop.example.com>"}
        )
    )
    if "from" in fields:
        mail_server.deliver(raw("From: a@y.example", "Subject: hers"))
        fields = {"from": mail_server.address, "reference": EFFECT}
    assert only(rows_of(opened(), **fields))["reference"] == EFFECT
    assert rows_of(opened(), **(fields | {"subject": "Invoice"})) == []


def test_a_search_that_mail_can_not_serve_is_no_answer(mail_server: MailServer, opened: Opened) -> None:
    mail_server.send(invoice(mail_server))
    with pytest.raises(TargetUnavailable, match="add one to find"):
        rows_of(opened(), text="Dear Ann,")
    assert rows_of(opened(), reference={"not": "text"}) == []
    tool = '[tools.send]\ntarget = "mail"\n[[tools.send.writes]]\nresource = "sent"\ncreate = true\n'
    [mistake] = opened(BY_UID + tool + 'find = { text = "args.text" }\nset.text = "args.text"\n').check()
    assert "not found by text" in str(mistake)
    [mistake] = opened(BY_UID.replace('["uid"]', '["subject"]')).check()
    assert "neither uid, message_id nor one of headers" in str(mistake)


def test_two_messages_with_one_message_id_are_two_rows(mail_server: MailServer, opened: Opened) -> None:
    for _ in range(2):
        mail_server.send(invoice(mail_server))
    mail_server.send(invoice(mail_server, OTHER, **{"Message-ID": "<other@shop.example>"}))
    by_uid, by_id = opened(), opened(BY_ID)
    for target in (by_uid, by_id):
        docs = [row.doc for row in rows_of(target, reference=EFFECT)]
        assert len(docs) == 2
        assert len(list(target.scan("sent"))) == 3
    keys = [row.address.row.key[0] for row in by_uid.find(None, [Search("sent", (("reference", EFFECT),))], 9)]
    assert [row is not None and row.problem is None for row in read(by_uid, *keys)] == [True, True]
    [twice, once] = read(by_id, "<R-17@shop.example>", "<other@shop.example>")
    assert twice is not None
    assert "2 messages have this key" in str(twice.problem)
    assert once is not None
    assert once.problem is None


@pytest.mark.parametrize(
    "key",
    [
        '<a"@x>', "<a\\@x>", "<a\\", '"', '\\"', "{5}", "{5+}", "<x> {3}", ")", "() OR ALL", "%*", "NIL", "ALL",
        "<a@x>\tb", "<ä@x>", "日本", "日本 <a@x>", "<" + "y" * 900 + "@x>",
    ],
    ids=lambda key: ascii(key)[:24],
)  # fmt: skip
def test_an_odd_id_is_looked_for_as_it_is(mail_server: MailServer, opened: Opened, key: str) -> None:
    mail_server.deliver(raw("Message-ID: <plain@x>", "Subject: other"))
    target = opened(BY_ID)
    assert read(target, key, "<plain@x>")[0] is None
    mail_server.deliver(raw(f"Message-ID: {key}", "Subject: meant"))
    meant, plain = read(target, key, "<plain@x>")
    assert [row is not None and isinstance(row.doc, dict) and row.doc["subject"] for row in (meant, plain)] == [
        "meant",
        "other",
    ]


@pytest.mark.parametrize("key", ["a\r\nA1 LOGOUT", "a\nb", "a\0b", "\ud800", "\x7f", "", "  "])
def test_what_no_header_holds_names_no_row(mail_server: MailServer, opened: Opened, key: str) -> None:
    mail_server.deliver(raw("Message-ID: <plain@x>"))
    target = opened(BY_ID)
    assert [row is None for row in read(target, key, "<plain@x>")] == [True, False]
    assert rows_of(target, message_id=key) == []


def test_folded_repeated_and_encoded_headers(mail_server: MailServer, opened: Opened) -> None:
    mail_server.deliver(
        raw(
            "Message-ID:\r\n\t<folded@x.example>",
            f"X-Counterfoil-Effect: {EFFECT}",
            f"x-counterfoil-effect: {EFFECT}",
            "Subject: =?iso-8859-1?q?=C4rger_=26?=\r\n =?utf-8?b?IOaXpeacrA==?=",
            "To: =?utf-8?q?=C3=84nn?= <ann@x.example>,\r\n bob@x.example",
            "To: eve@x.example",
        )
    )
    mail_server.deliver(raw("Message-ID: <two@x>", f"X-Counterfoil-Effect: {OTHER}", "X-Counterfoil-Effect: else"))
    row = only(rows_of(opened(), reference=EFFECT))
    assert (row["message_id"], row["subject"]) == ("<folded@x.example>", "Ärger & 日本")
    assert row["to"] == ["ann@x.example", "bob@x.example", "eve@x.example"]
    assert only(rows_of(opened(), message_id="<folded@x.example>")) == row
    assert only(rows_of(opened(), subject="Ärger & 日本")) == row
    assert rows_of(opened(), reference=OTHER) == []


@pytest.mark.parametrize(
    ("content_type", "body", "expected"),
    [
        ("text/plain; charset=windows-1252", "Ärger „hier“".encode("cp1252"), "Ärger „hier“"),
        ("text/plain; charset=iso-2022-jp", "日本".encode("iso-2022-jp"), "日本"),
        ("text/plain", "Ärger".encode(), "Ärger"),
        ("text/plain; charset=utf-8", "Ärger".encode("latin-1"), "not in the charset utf-8"),
        ("text/plain; charset=x-nobody", b"text", "charset x-nobody"),
        ("multipart/mixed; boundary=b", b"--b\r\n\r\ntext\r\n", "may be cut off"),
        ("multipart/mixed", b"text", "may be cut off"),
    ],
)
def test_texts_are_decoded_strictly(
    mail_server: MailServer, opened: Opened, content_type: str, body: bytes, expected: str
) -> None:
    head = (f"Content-Type: {content_type}", "MIME-Version: 1.0", f"X-Counterfoil-Effect: {EFFECT}")
    mail_server.deliver(raw(*head, "Content-Transfer-Encoding: 8bit", body=body + b"\r\n"))
    [row] = rows_of(opened(), reference=EFFECT)
    if row.problem is not None:
        assert expected in row.problem
    else:
        assert isinstance(row.doc, dict)
        assert row.doc["text"] == expected


def test_attachments_of_all_sorts(mail_server: MailServer, opened: Opened) -> None:
    inner = EmailMessage()
    inner["Subject"] = "within"
    inner.set_content("inner")
    message = EmailMessage()
    message["X-Counterfoil-Effect"] = EFFECT
    message.set_content("plain")
    message.add_alternative("<p>html</p>", subtype="html")
    message.add_attachment(b"a,b\r\n", maintype="text", subtype="csv", filename="list.csv")
    message.add_attachment(inner)
    mail_server.send(message)
    row = only(rows_of(opened(), reference=EFFECT))
    assert (row["text"], row["html"]) == ("plain", "<p>html</p>")
    assert row["attachments"] == [
        {"name": "list.csv", "size": 5.0, "sha256": hashlib.sha256(b"a,b\r\n").hexdigest()},
        {"name": None, "size": None, "sha256": None},
    ]
    head = ("MIME-Version: 1.0", "Content-Type: application/pdf", "Content-Transfer-Encoding: base64")
    mail_server.deliver(raw(*head, f"X-Counterfoil-Effect: {OTHER}", body=b"QUJD\r\n"))
    assert only(rows_of(opened(), reference=OTHER))["attachments"] == [
        {"name": None, "size": 3.0, "sha256": hashlib.sha256(b"ABC").hexdigest()}
    ]
    mail_server.deliver(raw(*head, "X-Counterfoil-Effect: broken", body=b"QUJ\r\n"))
    [row_] = rows_of(opened(), reference="broken")
    assert "no Base64" in str(row_.problem)


def test_broken_mail_spoils_no_other_row(mail_server: MailServer, opened: Opened) -> None:
    nested = "".join(f"--{n}\r\nContent-Type: multipart/mixed; boundary={n + 1}\r\n\r\n" for n in range(3_000))
    broken = [
        b"\xff\xfe\x00 not mail at all",
        raw(
            "From: <<>>,;",
            "To: @@@ <",
            "Message-ID: <[@",
            "Date: yesterday",
            'Subject: "',
            f"X-Counterfoil-Effect: {EFFECT}",
        ),
        raw(f"X-Counterfoil-Effect: {EFFECT}", "Content-Type: multipart/mixed; boundary=0", body=nested.encode()),
        b"X-Counterfoil-Effect: " + EFFECT.encode() + b"\r\nSubject: \xff\xfe\r\n\r\ntext\r\n",
    ]
    for message in broken:
        mail_server.deliver(message)
    mail_server.send(invoice(mail_server))
    rows = [row for row in rows_of(opened(), reference=EFFECT) if row.problem is None]
    assert "Invoice R-17" in {row.doc["subject"] for row in rows if isinstance(row.doc, dict)}
    listed = [found.row for found in opened().scan("sent")]
    assert len(listed) == 5
    assert sum(row is not None and row.problem is not None for row in listed) >= 2


@pytest.mark.alone
@pytest.mark.parametrize(
    "head",
    ["To: " + '"' * 60_000, "Content-Type: text/plain" + ";" * 60_000, "Cc: " + "a@b," * 15_000],
    ids=["quotes", "semicolons", "addresses"],
)
def test_a_header_made_to_be_slow_is_not_read(mail_server: MailServer, opened: Opened, head: str) -> None:
    mail_server.deliver(raw(f"X-Counterfoil-Effect: {EFFECT}", head))
    started = time.monotonic()
    [row] = rows_of(opened(), reference=EFFECT)
    assert row.problem is not None
    assert time.monotonic() - started < 10


def test_a_large_message_is_told_by_its_size(mail_server: MailServer, opened: Opened) -> None:
    message = invoice(mail_server)
    message.add_attachment(b"x" * 1_500_000, maintype="application", subtype="octet-stream", filename="large")
    mail_server.send(message)
    [row] = rows_of(opened(BY_UID + "most_megabytes = 1\n"), reference=EFFECT)
    assert "more than 1000000" in str(row.problem)
    assert len(only(rows_of(opened(), reference=EFFECT))["attachments"]) == 2


def test_nothing_is_marked_as_read(mail_server: MailServer, opened: Opened) -> None:
    mail_server.send(invoice(mail_server))
    target = opened(BY_ID)
    assert read(target, "<R-17@shop.example>") != [None]
    assert len(rows_of(target, reference=EFFECT)) == 1
    assert len(list(target.scan("sent"))) == 1
    with mail_server.client() as client:
        client.select_folder("Sent", readonly=True)
        assert {flag for flags in client.get_flags(client.search()).values() for flag in flags} <= {b"\\Recent"}


def test_ten_thousand_messages_take_few_commands(
    mail_server: MailServer, opened: Opened, caplog: pytest.LogCaptureFixture
) -> None:
    for number in range(10_000):
        reference = f"{number:032x}"
        mail_server.deliver(raw(f"Message-ID: <{number}@x>", f"X-Counterfoil-Effect: {reference}", "Subject: Invoice"))
    target = opened(BY_ID)
    assert only(rows_of(target, reference=f"{17:032x}"))["message_id"] == "<17@x>"  # the server makes its index
    caplog.set_level(logging.DEBUG, "imapclient")

    def commands(ask: Callable[[], object]) -> int:
        caplog.clear()
        ask()
        return sum(record.getMessage().startswith("> ") for record in caplog.records)

    assert 0 < commands(lambda: only(rows_of(target, reference=f"{4_711:032x}"))) <= 4
    wanted = [f"<{number}@x>" for number in range(0, 10_000, 50)]
    assert 0 < commands(lambda: read(target, *wanted)) <= 12
    assert all(row is not None and row.problem is None for row in read(target, *wanted))
    assert len(rows_of(target, limit=5, subject="Invoice")) == 5


def test_a_mailbox_that_was_numbered_anew(mail_server: MailServer, opened: Opened) -> None:
    mail_server.send(invoice(mail_server))
    by_uid, by_id = opened(), opened(BY_ID)
    uid = only(rows_of(by_uid, reference=EFFECT))["uid"]
    assert isinstance(read(by_uid, uid)[0], Row)
    with mail_server.client() as client:
        client.rename_folder("Sent", "Old")
        client.create_folder("Sent")
    mail_server.send(invoice(mail_server, OTHER, **{"Message-ID": "<other@shop.example>"}))
    [row] = read(by_uid, uid)
    assert row is not None
    assert "numbered the mailbox anew" in str(row.problem)
    assert read(by_id, "<R-17@shop.example>") == [None]
    assert rows_of(by_uid, reference=EFFECT) == []
    assert only(rows_of(by_uid, reference=OTHER))["uid"] != uid
    assert read(by_uid, "x", "1", "1.", ".1", "1.0", "0.0", "9" * 99 + ".1", "1.٢") == [None] * 8


def test_a_mailbox_with_an_odd_name(mail_server: MailServer, opened: Opened) -> None:
    with mail_server.client() as client:
        client.create_folder('Gesendet & "Ärger"')
        client.append('Gesendet & "Ärger"', invoice(mail_server).as_bytes())
    target = opened(BY_UID + "mailbox = 'Gesendet & \"Ärger\"'\n")
    assert len(rows_of(target, reference=EFFECT)) == 1
    assert target.check() == []


def test_starttls_and_no_tls(mail_server: MailServer, opened: Opened) -> None:
    mail_server.send(invoice(mail_server))
    for tls in ("starttls", "none"):
        target = opened(BY_UID, port=str(mail_server.port), tls=tls)
        assert len(rows_of(target, reference=EFFECT)) == 1


def test_a_server_that_is_not_the_one_is_not_told_the_password(mail_server: MailServer, opened: Opened) -> None:
    own = opened(BY_UID, host="localhost")  # the certificate is for 127.0.0.1
    with pytest.raises(TargetUnavailable, match="certificate") as caught:
        rows_of(own, reference=EFFECT)
    assert caught.value.trouble == "away"
    with pytest.raises(TargetUnavailable) as caught:
        rows_of(opened(BY_UID, port=str(pick(None, ()))), reference=EFFECT)
    assert caught.value.trouble == "away"


@contextmanager
def speaking(greeting: bytes, says: bytes = b"") -> Iterator[int]:
    """A server that greets, tells what it can, and says one thing to all else; gives its port.

    Dovecot can't be made to say that it is overloaded, nor to talk nonsense.
    """
    with closing(socket.create_server((HOST, 0))) as listening:

        def serve() -> None:
            connection, _ = listening.accept()
            with connection, connection.makefile("rb") as lines:
                connection.sendall(greeting)
                for line in lines:
                    tag, command = line.split()[:2]
                    told = (
                        b"* CAPABILITY IMAP4rev1\r\n" + tag + b" OK done"
                        if command == b"CAPABILITY"
                        else tag + b" " + says
                    )
                    connection.sendall(told + b"\r\n")

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield listening.getsockname()[1]
    thread.join(30)


@pytest.mark.parametrize(
    ("says", "trouble"),
    [
        (b"NO [UNAVAILABLE] back in a minute", "away"),
        (b"NO [LIMIT] too many logins", "throttled"),
        (b"NO [OVERQUOTA] bandwidth", "throttled"),
        (b"NO [AUTHENTICATIONFAILED] no", "refused"),
        (b"NO go away", "refused"),
        (b"BAD what", "refused"),
        (b"OK done", "unreadable"),  # and so to EXAMINE, without a word on the mailbox
    ],
)
def test_what_a_server_says_after_its_greeting(opened: Opened, says: bytes, trouble: str) -> None:
    with speaking(b"* OK hello\r\n", says) as port:
        target = opened(BY_UID, port=str(port), tls="none", password="hunter2")
        with pytest.raises(TargetUnavailable) as caught:
            rows_of(target, reference=EFFECT)
    assert (caught.value.trouble, "hunter2" in str(caught.value)) == (trouble, False)


@pytest.mark.parametrize(
    ("greeting", "trouble"),
    [(b"* BYE [UNAVAILABLE] later\r\n", "away"), (b"HTTP/1.1 400 Bad Request\r\n\r\n", "unreadable"), (b"", "away")],
)
def test_what_is_no_greeting_is_no_answer(opened: Opened, greeting: bytes, trouble: str) -> None:
    with speaking(greeting) as port:
        target = opened(BY_UID, port=str(port), tls="none")
        with pytest.raises(TargetUnavailable) as caught:
            rows_of(target, reference=EFFECT)
    assert caught.value.trouble == trouble
