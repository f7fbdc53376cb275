"""Reads the rules that come with this package."""

import re
import tomllib
from functools import cache
from importlib.resources import files
from typing import Any

_MACRO = re.compile("@([a-z]+)")


@cache
def rules_file() -> dict[str, Any]:
    """`redaction_rules.toml`, its macros put in."""
    text = files("counterfoil").joinpath("redaction_rules.toml").read_text(encoding="utf-8")
    read = tomllib.loads(text)
    macros: dict[str, str] = read["macros"]
    for rule in read["rules"]:
        for part in ("gate", "pattern"):
            if part in rule:
                rule[part] = _MACRO.sub(lambda match: macros.get(match[1], match[0]), rule[part])
    return read
