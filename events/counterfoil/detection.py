"""Finds secrets in text, in time linear in its length (RE2, and never Python's `re` on what somebody else wrote).

One pass of all gates over an event says which rules can match at all; for most events that is none.
"""

import bisect
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cache, lru_cache, partial
from typing import Any, ClassVar, NamedTuple
from weakref import WeakSet

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
_SINGLE_BYTE = re.compile(r"(?<!\\)(?:\\\\)*\\C")
_SURROGATE = re.compile("[\ud800-\udfff]")


class Finding(NamedTuple):
    """A secret in a text: bytes from `start` to `end`, and its kind. `rank` says which of two names it."""

    start: int
    end: int
    kind: str
    rank: int
    is_personal: bool


class _Lazy:
    """Something of RE2's, made when it is first needed.

    While RE2 searches, Python's lock is free and RE2's own may be held: a child forked then would wait for that for
    ever. So a child makes everything anew, and keeps the old, for what is locked can't be taken down either.
    """

    __slots__ = ("__weakref__", "_made", "_make")
    _all: ClassVar["WeakSet[_Lazy]"] = WeakSet()
    _left: ClassVar[list[Any]] = []  # of the parent

    def __init__(self, make: Callable[[], Any]) -> None:
        self._make = make
        self._made: Any = None
        self._all.add(self)

    def get(self) -> Any:
        """It."""
        if self._made is None:
            self._made = self._make()
        return self._made

    @classmethod
    def forget_in_child(cls) -> None:
        """Leave everything to the parent."""
        re2.purge()
        for one in list(cls._all):
            made, one._made = one._made, None
            cls._left.append(made)


os.register_at_fork(after_in_child=_Lazy.forget_in_child)


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
        self._lazy = _Lazy(partial(compiled, pattern))

    def findings(self, content: bytes) -> Iterator[Finding]:
        """Where this form stands in a text."""
        regex = self._lazy.get()
        groups = regex.groupindex
        at = 0
        while at <= len(content) and (match := regex.search(content, at)) is not None:
            start, end = _secret_of(match, groups, regex.groups)
            at = max(match.end(), at + 1)
            if start == end:
                continue
            if self._check is not None:
                found = _found(content, start, end, match, groups)
                end = start + len(found.secret.encode("utf-8", "surrogatepass"))
                if not self._check(found):
                    # It may be the name of the next value; a long one is none, else this would be quadratic.
                    at = start if start > match.start() and end - start < _LONGEST_WORD else at
                    continue
            yield Finding(start, end, self.kind, self.rank, self.is_personal)


class Detector:
    """The rules of a policy. Thread-safe, and of use in a forked child.

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
        self._named_kinds = (secret | wanted) - left_out
        self._rules = [
            rule for rule, _ in rules if rule.kind not in left_out and (not rule.is_personal or rule.kind in wanted)
        ]
        gates = {id(rule): gate for rule, gate in rules}
        patterns = [*(gates[id(rule)] for rule in self._rules), LOOKALIKE_PATTERN, _names_gate(), _BYTES_MARK]
        self._gate = _Lazy(partial(_gate, patterns))
        self._gate.get()
        self._rules += [Rule(-1, _LOOKALIKE, LOOKALIKE_PATTERN), _FieldsInText(len(rules), self._kind_by_name)]
        self._own = [_own_rule(len(rules) + 1 + number, *one) for number, one in enumerate(own)]
        allowed = "|".join(".*".join(map(re2.escape, text.split("*"))) for text in allow)
        self._allowed = _Lazy(partial(compiled, f"(?s)(?:{allowed})")) if allow else None

    @property
    def has_own_rules(self) -> bool:
        """Whether there are rules that no gate stands before."""
        return bool(self._own)

    def suspects(self, content: bytes) -> Sequence[int]:
        """Which rules can match in any string of this JSON text, or in this text."""
        found: list[int] | None = self._gate.get().Match(content)
        return found or ()

    def findings(
        self, texts: Sequence[str], suspects: Iterable[int], *, lookalikes: bool = True
    ) -> dict[int, list[Finding]]:
        """The secrets in texts, by the number of the text; in order, none overlapping another, in bytes of UTF-8.

        A text that looks like a token of ours is one, too: whoever reads it must not take it for a secret's.
        """
        found: dict[int, list[Finding]] = {}
        searched = _Searched([_searchable(text) for text in texts])
        for index in suspects:
            if index < len(self._rules) and (lookalikes or self._rules[index].kind != _LOOKALIKE):
                searched.search(self._rules[index], found)
        for rule in self._own:
            searched.search_each(rule, found)
        if not found:
            return found
        kept: dict[int, list[Finding]] = {}
        for number, ones in found.items():
            content = searched.contents[number]
            left = [one for one in ones if not self._is_allowed(content[one.start : one.end])]
            if left:
                kept[number] = left if len(left) < 2 else _disjoint(left)
        return kept

    def _is_allowed(self, secret: bytes) -> bool:
        return self._allowed is not None and self._allowed.get().fullmatch(secret) is not None

    def secret_kind(self, name: str, value: str) -> str | None:
        """The kind of secret that a field of this name holds, if this value is one."""
        kind = self._kind_by_name(name, value)
        return None if kind is None or self._is_allowed(_searchable(value)) else kind

    def _kind_by_name(self, name: str, value: str) -> str | None:
        rule = _rule_of_name(name)
        return rule.kind if rule and rule.kind in self._named_kinds and rule.check(Found(value, name)) else None


class _FieldsInText(Rule):
    """Fields of JSON, or of what Python prints, inside a text: as fields of a document, they go by their names."""

    def __init__(self, rank: int, kind_of: Callable[[str, str], str | None]) -> None:
        super().__init__(rank, "", rules_file()["fields_in_text"])
        self._kind_of = kind_of

    def findings(self, content: bytes) -> Iterator[Finding]:
        """Where this form stands in a text."""
        regex = self._lazy.get()
        at = 0
        while (match := regex.search(content, at)) is not None:
            name, value = (number for number in range(1, regex.groups + 1) if match.span(number)[0] >= 0)
            start, end = match.span(value)
            kind = self._kind_of(match[name].decode("utf-8", "replace"), content[start:end].decode("utf-8", "replace"))
            if start < end and kind is not None:
                yield Finding(start, end, kind, self.rank, kind in kinds()[1])
                at = match.end()
            else:
                at = start  # it may be JSON itself, escaped once more


class _Searched:
    """Texts laid beside each other, so that a rule searches all of them at once."""

    def __init__(self, contents: Sequence[bytes]) -> None:
        self.contents = contents
        self._joined = BETWEEN.join(contents)
        self._starts: list[int] = []
        at = 0
        for content in contents:
            self._starts.append(at)
            at += len(content) + len(BETWEEN)

    def search(self, rule: Rule, found: dict[int, list[Finding]]) -> None:
        """Add what one of our rules finds."""
        torn: set[int] = set()
        for one in rule.findings(self._joined):
            number = bisect.bisect_right(self._starts, one.start) - 1
            start = self._starts[number]
            if one.end <= start + len(self.contents[number]):
                found.setdefault(number, []).append(one._replace(start=one.start - start, end=one.end - start))
            else:  # over the end of a text: what stands in each of these is not seen so
                torn.update(range(number, bisect.bisect_left(self._starts, one.end)))
        for number in torn:
            found.setdefault(number, []).extend(rule.findings(self.contents[number]))

    def search_each(self, rule: Rule, found: dict[int, list[Finding]]) -> None:
        """Add what a rule finds that knows nothing of what stands between texts."""
        for number, content in enumerate(self.contents):
            if ones := list(rule.findings(content)):
                found.setdefault(number, []).extend(ones)


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


def _own_rule(rank: int, kind: str, pattern: str) -> Rule:
    """A rule of the user's.

    Raises SettingsError.
    """
    if _SINGLE_BYTE.search(pattern):
        raise SettingsError(f"the pattern {pattern!r} of a redaction rule has \\C, which tears characters apart")
    if compiled(pattern).search(b"") is not None:
        raise SettingsError(f"the pattern {pattern!r} of a redaction rule matches the empty text, so it finds nothing")
    return Rule(rank, kind, pattern)


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
            one["gate"],
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
    forms = (plain, plain.removesuffix("s"))
    if any(form.endswith(harmless) for form in forms):
        return None
    for form in forms:
        if form in named:
            return named[form]
    return next((rule for ending, rule in endings.items() for form in forms if form.endswith(ending)), None)


def _plain(name: str) -> str:
    return "".join(filter(str.isalnum, name.lower()))


def _names_gate() -> str:
    """In every JSON text with a field whose name tells of a secret."""
    names = {name for one in rules_file()["names"] for name in (*one["names"], *one["endings"])}
    forms = "|".join("[^a-z0-9\"']*".join(name.split("_")) for name in sorted(names))
    return rf"(?i)(?:{forms})s?[^a-z0-9\"']*[\"']"


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


def _searchable(text: str) -> bytes:
    """As UTF-8 of the same length as with lone surrogates, which no pattern matches."""
    try:
        return text.encode()
    except UnicodeEncodeError:
        return _SURROGATE.sub("\ufffd", text).encode()


def _secret_of(match: Any, named: Any, groups: int) -> tuple[int, int]:
    """Where the group `secret` is, else the first group that took part, else the whole match."""
    for group in (*((named[b"secret"],) if b"secret" in named else ()), *range(1, groups + 1)):
        span: tuple[int, int] = match.span(group)
        if span[0] >= 0:
            return span
    whole: tuple[int, int] = match.span()
    return whole


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
