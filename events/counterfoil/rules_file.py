"""Reads the rules that come with this package."""

import re
import tomllib
from functools import cache
from importlib.resources import files
from typing import Any

_MACRO = re.compile("@([a-z]+)")
# A gate looks at JSON text, too, where a line's end is a backslash and an n: no boundary, and no white space.
_SPACE_OR_CLASS = re.compile(r"(\[(?:\\.|[^\]\\])*\])|\\s")
_SPACE_IN_JSON = r"(?:\s|\\[nrtf])"


@cache
def rules_file() -> dict[str, Any]:
    """`redaction_rules.toml`, its macros put in, and every rule with a gate."""
    text = files("counterfoil").joinpath("redaction_rules.toml").read_text(encoding="utf-8")
    read = tomllib.loads(text)
    macros: dict[str, str] = read["macros"]
    for rule in read["rules"]:
        for part in ("gate", "pattern"):
            if part in rule:
                rule[part] = _MACRO.sub(lambda match: macros.get(match[1], match[0]), rule[part])
        gate = rule.get("gate", rule["pattern"]).replace(r"\b", "")
        rule["gate"] = _SPACE_OR_CLASS.sub(lambda match: match[1] or _SPACE_IN_JSON, gate)
    return read
