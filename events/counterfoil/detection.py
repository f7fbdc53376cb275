"""Finds secrets in text, in time linear in its length (RE2, and never Python's `re` on what somebody else wrote).

One pass of all gates over an event says which rules can match at all; for most events that is none.
"""

import bisect
import re
from collections.abc import Iterable, Sequence
from functools import cache, lru_cache
from typing import Any, NamedTuple

import re2

from counterfoil.checks import CHECKS, Check, Found
from counterfoil.errors import SettingsError
from counterfoil.rules_file import rules_file
from counterfoil.tokens import LOOKALIKE_PATTERN

_MEMORY_BYTES = 64 * 1024**2  # of the automata; a gate that ran out of it would miss what it should find
# Stands between texts that are searched at once; no rule matches across it.
BETWEEN = b"\n\x00\n"
_LOOKALIKE = "lookalike"
_LONGEST_NAME = 200
_ASIAN = re.compile("[\u3000-\u9fff\uac00-\ud7af\uff00-\uffef]")  # writes on without a space
_LONGEST_WORD = 64
_BYTES_MARK = r'"\$bytes'


class Finding(NamedTuple):
    """A secret in a text: bytes from `start` to `end`, and its kind. `rank` says which of two names it."""

    start: int
    end: int
    kind: str
    rank: int
    is_personal: bool


class NameRule(NamedTuple):
    """What a field's name says of its value: the kind of secret, if `check` agrees."""

    kind: str
    check: Check
    is_personal: bool


class Rule:
    """One form of a secret; compiled when it is first needed."""

    def __init__(self, rank: int, kind: str, pattern: str, check: Check | None = None, personal: bool = False) -> None:
        self.rank = rank
        self.kind = kind
        self.pattern = pattern
        self.is_personal = personal
        self._check = check
        self._compiled: Any = None

    def findings(self, content: bytes) -> Iterable[Finding]:
        """Where this form stands in a text."""
        if self._compiled is None:
            self._compiled = compiled(self.pattern)
        groups = self._compiled.groupindex
        at = 0
        while (match := self._compiled.search(content, at)) is not None:
            start, end = match.span(groups.get(b"secret") or self._group(match))
            at = max(match.end(), at + 1)
            if self._check is not None:
                found = _found(content, start, end, match, groups)
                end = start + len(found.secret.encode("utf-8", "surrogatepass"))
                if not self._check(found):
                    # It may be the name of the next value; a long one is none, else this would be quadratic.
                    at = start if start > match.start() and end - start < _LONGEST_WORD else at
                    continue
            yield Finding(start, end, self.kind, self.rank, self.is_personal)

    def _group(self, match: Any) -> int:
        """The first group that took part, or the whole match."""
        return next((group for group in range(1, self._compiled.groups + 1) if match.span(group)[0] >= 0), 0)


class Detector:
    """The rules of a policy. Thread-safe.

    `personal` names the kinds of class personal to look for, `skip` kinds not to look for, `own` are (kind, pattern) of
    the user's, `allow` texts that are no secret (`*` stands for anything). Raises SettingsError.
    """

    def __init__(
        self,
        *,
        personal: Iterable[str] = (),
        skip: Iterable[str] = (),
        own: Sequence[tuple[str, str]] = (),
        allow: Sequence[str] = (),
    ) -> None:
        rules = _rules()
        secret, _ = kinds()
        left_out = _known_kinds(skip, "skip")
        wanted = _known_kinds(personal, "personal")
        self._rules = [
            rule for rule, _ in rules if rule.kind not in left_out and (not rule.is_personal or rule.kind in wanted)
        ]
        gates = {id(rule): gate for rule, gate in rules}
        self._gate = _gate([*(gates[id(rule)] for rule in self._rules), LOOKALIKE_PATTERN, _names_gate(), _BYTES_MARK])
        self._own = [Rule(len(rules) + number, kind, pattern) for number, (kind, pattern) in enumerate(own)]
        for rule in self._own:
            compiled(rule.pattern)
        self._lookalike = Rule(-1, _LOOKALIKE, LOOKALIKE_PATTERN)
        self._allowed = [re.compile(".*".join(map(re.escape, text.split("*"))), re.DOTALL) for text in allow]
        self._named_kinds = (secret | wanted) - left_out

    @property
    def has_own_rules(self) -> bool:
        """Whether there are rules that no gate stands before."""
        return bool(self._own)

    def suspects(self, content: bytes) -> Sequence[int]:
        """Which rules can match in any string of this JSON text, or in this text."""
        found: list[int] | None = self._gate.Match(content)
        return found or ()

    def findings(self, content: bytes, suspects: Iterable[int], *, lookalikes: bool = True) -> list[Finding]:
        """The secrets in a text that is UTF-8, in order, none overlapping another.

        A text that looks like a token of ours is one, too: whoever reads it must not take it for a secret's.
        """
        found: list[Finding] = []
        for index in suspects:
            if index < len(self._rules):
                found += self._rules[index].findings(content)
            elif index == len(self._rules) and lookalikes:
                found += self._lookalike.findings(content)
        for rule in self._own:
            found += rule.findings(content)
        if not found:
            return found
        found = [one for one in found if not self._is_allowed(content[one.start : one.end])]
        return found if len(found) < 2 else _disjoint(found)

    def _is_allowed(self, secret: bytes) -> bool:
        if not self._allowed:
            return False
        text = secret.decode("utf-8", "surrogatepass")
        return any(pattern.fullmatch(text) for pattern in self._allowed)

    def secret_kind(self, name: str, value: str) -> str | None:
        """The kind of secret that a field of this name holds, if this value is one."""
        rule = _rule_of_name(name)
        if rule is None or rule.kind not in self._named_kinds or not rule.check(Found(value, name)):
            return None
        return None if self._is_allowed(value.encode("utf-8", "surrogatepass")) else rule.kind


def compiled(pattern: str) -> Any:
    """A pattern of RE2's, for bytes.

    Raises SettingsError.
    """
    options = re2.Options()
    options.log_errors = False
    options.max_mem = _MEMORY_BYTES
    try:
        return re2.compile(pattern.encode(), options)
    except re2.error as error:
        said = error.args[0].decode() if isinstance(error.args[0], bytes) else str(error)
        raise SettingsError(f"the pattern {pattern!r} of a redaction rule is none of RE2's: {said}") from error


@cache
def rules_version() -> int:
    """The version of the rules that come with this package."""
    return int(rules_file()["version"])


@cache
def kinds() -> tuple[frozenset[str], frozenset[str]]:
    """The kinds always looked for, and the personal ones."""
    named, endings, _ = _names()
    rules: list[Rule | NameRule] = [*(rule for rule, _ in _rules()), *named.values(), *endings.values()]
    return (
        frozenset(rule.kind for rule in rules if not rule.is_personal),
        frozenset(rule.kind for rule in rules if rule.is_personal),
    )


@cache
def _rules() -> list[tuple[Rule, str]]:
    """Every rule with its gate."""
    return [
        (
            Rule(
                rank, one["kind"], one["pattern"], CHECKS[one.get("check", "is_no_mask")],
                one.get("class", "secret") == "personal",
            ),
            one.get("gate", one["pattern"]),
        )
        for rank, one in enumerate(rules_file()["rules"])
    ]  # fmt: skip


@cache
def _names() -> tuple[dict[str, NameRule], dict[str, NameRule], tuple[str, ...]]:
    """By plain name, by plain ending, and those that are harmless."""
    named: dict[str, NameRule] = {}
    endings: dict[str, NameRule] = {}
    for one in rules_file()["names"]:
        rule = NameRule(one["kind"], CHECKS[one["check"]], one.get("class") == "personal")
        named |= {_plain(name): rule for name in one["names"] if _plain(name) not in named}
        endings |= {_plain(name): rule for name in one["endings"] if _plain(name) not in endings}
    return named, endings, tuple(map(_plain, rules_file()["harmless"]["names"]))


@lru_cache(maxsize=4096)
def _rule_of_name(name: str) -> NameRule | None:
    named, endings, harmless = _names()
    plain = _plain(name[:_LONGEST_NAME])
    for form in (plain, plain.removesuffix("s")):
        if form.endswith(harmless):
            return None
        if form in named:
            return named[form]
    return next((rule for ending, rule in endings.items() if plain.endswith(ending)), None)


def _plain(name: str) -> str:
    return "".join(filter(str.isalnum, name.lower()))


def _names_gate() -> str:
    """In every JSON text with a field whose name tells of a secret."""
    names = {name for one in rules_file()["names"] for name in (*one["names"], *one["endings"])}
    forms = "|".join("[^a-z0-9]?".join(name.split("_")) for name in sorted(names))
    return rf'(?i)(?:{forms})s?[^a-z0-9"]*"'


def _gate(patterns: Sequence[str]) -> Any:
    options = re2.Options()
    options.log_errors = False
    options.max_mem = _MEMORY_BYTES
    gate = re2.Set.SearchSet(options)
    for pattern in patterns:
        gate.Add(pattern.encode())
    gate.Compile()
    return gate


def _known_kinds(asked: Iterable[str], setting: str) -> frozenset[str]:
    secret, personal = kinds()
    known = personal if setting == "personal" else secret
    for kind in asked:
        if kind not in known:
            raise SettingsError(
                f"COUNTERFOIL_REDACTION__{setting.upper()} names {kind!r}; there are {', '.join(sorted(known))}"
            )
    return frozenset(asked)


def _found(content: bytes, start: int, end: int, match: Any, groups: Any) -> Found:
    def text(begin: int, until: int) -> str:
        return content[begin:until].decode("utf-8", "replace")

    def group(name: bytes) -> str:
        span = match.span(groups[name]) if name in groups else (-1, -1)
        return "" if span[0] < 0 else text(*span)

    quote = group(b"quote")
    secret = content[start:end].decode("utf-8", "surrogatepass")
    after = text(end, end + 4)[:1].strip("\0")
    if not quote and b"name" in groups:
        trimmed = _ASIAN.split(secret, maxsplit=1)[0].rstrip(".,:!?)")
        if trimmed and trimmed != secret:
            secret, after = trimmed, secret[len(trimmed)]
    joint = text(match.span(groups[b"name"])[1], start) if group(b"name") else ""
    lead = match.span(groups[b"name"])[0] if group(b"name") else start
    before = text(max(0, lead - 8), lead)[-4:].rpartition("\0")[2]
    return Found(secret, group(b"name"), quote, before, after, joint)


def _disjoint(found: list[Finding]) -> list[Finding]:
    """Of overlapping findings the earlier rule names the kind, and all are covered; what is personal gives way."""
    secrets = _merged(one for one in found if not one.is_personal)
    if len(secrets) == len(found):
        return secrets
    starts = [one.start for one in secrets]
    others = []
    for one in _merged(one for one in found if one.is_personal):
        at = bisect.bisect_left(starts, one.end)
        if not at or secrets[at - 1].end <= one.start:
            others.append(one)
    return sorted((*secrets, *others))


def _merged(found: Iterable[Finding]) -> list[Finding]:
    kept: list[Finding] = []
    for one in sorted(found):
        if kept and one.start < kept[-1].end:
            last = kept.pop()
            first = min(last, one, key=lambda finding: finding.rank)
            kept.append(first._replace(start=last.start, end=max(last.end, one.end)))
        else:
            kept.append(one)
    return kept
