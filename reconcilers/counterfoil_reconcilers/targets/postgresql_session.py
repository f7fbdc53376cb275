"""How a PostgreSQL database is reached, and what its errors mean."""

import re

import psycopg
from psycopg.conninfo import conninfo_to_dict
from pydantic import Field, SecretStr, field_validator

from counterfoil_reconcilers.targets.port import Connection, Trouble


class PostgresConnection(Connection):
    """How to reach a PostgreSQL database."""

    dsn: SecretStr = Field(description="libpq connection string, of a role that may only read.")

    @field_validator("dsn")
    @classmethod
    def _can_be_read(cls, dsn: SecretStr) -> SecretStr:
        try:
            conninfo_to_dict(dsn.get_secret_value())
        except psycopg.ProgrammingError:  # its own words would quote the password
            raise ValueError(
                "is no connection string that libpq reads; write postgresql://user@host/database"
            ) from None
        return dsn


def sentence(error: psycopg.Error) -> str:
    """The driver's first line; it never holds a password, the connection string may."""
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0] if text else 'no reason was given'}"


def trouble_of(error: psycopg.Error) -> Trouble:
    """Class 28 is invalid authorization; while connecting the driver has no code, only the server's words."""
    refused = isinstance(error, psycopg.errors.InvalidAuthorizationSpecification | psycopg.errors.InsufficientPrivilege)
    told = isinstance(error, psycopg.OperationalError) and re.search(
        r"authentication failed|role .* (does not exist|is not permitted)|no pg_hba\.conf entry|no password supplied",
        str(error),
    )
    return "refused" if refused or told else "away"
