"""What a contract and the settings say of a target of kind email."""

import re
from typing import Final, Literal

from pydantic import Field, FilePath, SecretStr, field_validator

from counterfoil_reconcilers.contract_files import Written
from counterfoil_reconcilers.targets.port import Connection

# The fields that every row has; those that IMAP finds messages by, with their headers, and those that it does not.
FOUND_BY: Final = {"message_id": "Message-ID", "from": "From", "to": "To", "cc": "Cc", "subject": "Subject"}
OTHERS: Final = ("uid", "date", "headers", "text", "html", "attachments")
_HEADER = re.compile(r"[!-9;-~]{1,200}")  # RFC 5322, section 3.6.8


class MailResource(Written):
    """Which messages are rows: those of a mailbox. docs/targets.md says what a row holds.

    `headers`: further fields of the row, each with the header that it stands in. A message of more than
    `most_megabytes` (10^6 bytes) is not read.
    """

    mailbox: str = Field(default="Sent", min_length=1, max_length=1_000)
    headers: dict[str, str] = Field(default_factory=dict)
    most_megabytes: int = Field(default=32, gt=0, le=500)

    @field_validator("mailbox")
    @classmethod
    def _is_one_line(cls, mailbox: str) -> str:
        if not mailbox.isprintable():
            raise ValueError(f"{mailbox!r} is no mailbox; write its name as the mail program shows it, in one line")
        return mailbox

    @field_validator("headers")
    @classmethod
    def _are_headers(cls, headers: dict[str, str]) -> dict[str, str]:
        for field, header in headers.items():
            if field in (*FOUND_BY, *OTHERS):
                raise ValueError(f"headers.{field}: every message has a field {field}; choose another name")
            if not _HEADER.fullmatch(header):
                raise ValueError(f"headers.{field}: {header!r} is no header's name; write it without colon and spaces")
        return headers

    @property
    def searchable(self) -> dict[str, str]:
        """The fields that messages can be looked for by, with their headers."""
        return FOUND_BY | self.headers


class MailConnection(Connection):
    """How to reach a mailbox by IMAP, with a login of an account that need only read."""

    host: str = Field(min_length=1, description="The IMAP server.")
    port: int | None = Field(None, ge=1, le=65535, description="993 with tls=implicit, else 143.")
    username: str
    password: SecretStr = Field(description="The account's own, or one that was made for this program.")
    tls: Literal["implicit", "starttls", "none"] = "implicit"
    ca_file: FilePath | None = Field(None, description="PEM of the authority that the server's certificate is from.")
