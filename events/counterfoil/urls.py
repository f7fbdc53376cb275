"""Addresses as they may be shown."""

from urllib.parse import urlsplit, urlunsplit


def without_password(url: str) -> str:
    """The address without user and password."""
    parts = urlsplit(url)
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))
