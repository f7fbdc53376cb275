"""One way through one event: every text in it is laid beside the others, and all are searched at once."""

import base64
import binascii
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, NamedTuple

from counterfoil.detection import Detector, Finding
from counterfoil.documents import Document, json_text
from counterfoil.field_rules import Decision, Location, Plan
from counterfoil.jsontext import to_text
from counterfoil.sealing import text_of
from counterfoil.tokens import Tokens

# Names that others go by: no rule is applied to them.
_NAMES = frozenset({"tool", "target", "role", "outcome", "status", "call_id", "error_type"})
_SCHEMES = frozenset({"bearer", "basic", "token", "digest", "apikey", "api-key", "bot", "ssws", "splunk", "negotiate"})
_LEAST_CARD, _MOST_CARD = 13, 19  # digits
_SHORTEST_SECRET = 6
_LONGEST_WORD = 16
# `{"name": ..., "value": ...}`: what names, what describes, and what holds the content.
_NAMING = frozenset({"name", "key", "header", "label"})
_DESCRIPTIONS = frozenset({"element", "selector", "field", "locator", "label", "placeholder"})
_CONTENTS = frozenset({"value", "text", "v", "raw", "plain", "plaintext", "string"})
_TELLS_PASSWORD = re.compile("(?i)passw|passcode|passphrase")
_LONGEST_DESCRIPTION = 200
_JWK_PRIVATE = frozenset({"d", "p", "q", "dp", "dq", "qi", "k"})  # RFC 7518, section 6
_REDUCED = "$reduced"
_KEEP = Decision("keep", "")


class Means(NamedTuple):
    """What a pass replaces with: rules that find, tokens, and a seal for what may be read again."""

    detector: Detector
    tokens: Tokens
    seal: Callable[[Any, str], Any]  # of a value in a field of the body


class Pass:
    """Redacts one body or value. `suspects` are the rules that can match in it; with `lookalikes`, what looks like a
    token is none of ours.
    """

    def __init__(
        self, means: Means, suspects: Sequence[int], plan: Plan | None = None, *, lookalikes: bool = True
    ) -> None:
        self._means = means
        self._detector = means.detector
        self._suspects = suspects
        self._plan = plan
        self._lookalikes = lookalikes
        self._slots: list[tuple[Any, Any, str]] = []  # what holds a text, where in it, and the text
        self._names: list[tuple[dict[str, Any], str]] = []  # names of fields that may be secrets themselves
        self._is_changed = False

    def body(self, body: Mapping[str, Any], document: Document, kept: Collection[str] = ()) -> Mapping[str, Any]:
        """The body without the secrets in it: itself, if there are none. `document` is the body, and is changed.

        Fields in `kept` stay as they are, but for what the policy says of places in them.
        """
        fields = document.fields
        for name in [name for name in fields if name not in _NAMES]:
            if name in document.parsed:
                self._visit(fields, name, fields[name], (name,), None, is_kept=name in kept)
            else:
                self._visit_field(fields, name, fields[name], (name,), _KEEP if name in kept else None)
        self._replace()
        if not self._is_changed:
            return body
        return fields | {name: to_text(json_text(fields[name])) for name in document.parsed}

    def value(self, value: Any) -> Any:
        """A JSON value without the secrets in it; what is given is changed in place."""
        holder = [value]
        self._visit(holder, 0, value, (), None)
        self._replace()
        return holder[0]

    def _visit_field(self, holder: Any, key: Any, value: Any, place: Location, before: Decision | None) -> None:
        """Look at what the schema of the event holds: a text, or lists and records of texts, which stay what they are.

        `before` is what was decided of what holds it.
        """
        decision = (self._plan.decision(place) if self._plan else None) or before
        if isinstance(value, str):
            if decision is None:
                self._slots.append((holder, key, value))
            elif decision.do != "keep":
                decided = self._decided(value, decision, str(place[0]))
                self._put(holder, key, decided if isinstance(decided, str) else json_text(decided))
        elif isinstance(value, (list, tuple)):
            holder[key] = copied = list(value)
            for index, item in enumerate(value):
                self._visit_field(copied, index, item, (*place, index), decision)
        elif isinstance(value, Mapping):
            holder[key] = record = dict(value)
            for name, item in value.items():
                self._visit_field(record, name, item, (*place, name), decision)

    def _visit(
        self, holder: Any, key: Any, value: Any, place: Location, name: str | None, *, is_kept: bool = False
    ) -> None:
        """Look at one JSON value, which is `holder[key]`. `name` is that of the field that it, or its list, is in."""
        decision = self._plan.decision(place) if self._plan and value is not None else None
        if decision is not None:
            is_kept = decision.do == "keep"
            if not is_kept:
                self._put(holder, key, self._decided(value, decision, str(place[0])))
                return
        if isinstance(value, dict):
            self._visit_object(holder, key, value, place, name, is_kept)
        elif isinstance(value, list):
            before: Any = None
            for index, item in enumerate(value):
                said = before.lstrip("-") if isinstance(before, str) and before.startswith("-") else name
                self._visit(value, index, item, (*place, index) if self._plan else place, said, is_kept=is_kept)
                before = item
        elif is_kept:
            return
        elif isinstance(value, str):
            if name is None or not self._is_named(holder, key, value, name):
                self._slots.append((holder, key, value))
        elif isinstance(value, (int, float)) and not isinstance(value, bool):
            self._visit_number(holder, key, value, name)

    def _visit_object(
        self, holder: Any, key: Any, value: dict[str, Any], place: Location, name: str | None, is_kept: bool
    ) -> None:
        if len(value) == 1 and not is_kept:
            if isinstance(encoded := value.get("$bytes"), str):
                self._visit_bytes(value, encoded, name)
                return
            if isinstance(value.get(_REDUCED), str):  # the text of what was no JSON
                self._visit(value, _REDUCED, value[_REDUCED], place, name)
                return
        own_name = _name_beside(value)
        is_key = "kty" in value
        for field, item in list(value.items()):
            if not is_kept and self._may_be_secret(field):
                self._names.append((value, field))
            said: str | None = field
            if field.lower() in _CONTENTS:
                said = own_name or name or field
            elif is_key and field in _JWK_PRIVATE:
                said = "private_key"
            self._visit(value, field, item, (*place, str(field)) if self._plan else place, said, is_kept=is_kept)

    def _may_be_secret(self, field: str) -> bool:
        if self._detector.has_own_rules:
            return True
        return len(field) >= _SHORTEST_SECRET and not (len(field) < _LONGEST_WORD and field.isidentifier())

    def _decided(self, value: Any, decision: Decision, field: str) -> Any:
        if decision.do == "seal":
            return self._means.seal(value, field)
        return self._shown(decision.kind, text_of(value))

    def _is_named(self, holder: Any, key: Any, value: str, name: str) -> bool:
        """Whether the name of its field makes this text a secret."""
        scheme, _, rest = value.partition(" ")
        before, secret = (f"{scheme} ", rest) if rest and scheme.lower() in _SCHEMES else ("", value)
        kind = self._detector.secret_kind(name, secret)
        if kind is None:
            return False
        self._put(holder, key, before + self._shown(kind, secret))
        return True

    def _visit_number(self, holder: Any, key: Any, value: int | float, name: str | None) -> None:
        """Of numbers, whole ones of cards are secret, and those in a field with a secret's name."""
        if isinstance(value, float) and value.is_integer() and abs(value) < 10**_MOST_CARD:
            value = int(value)
        text = str(value)
        kind = None if name is None else self._detector.secret_kind(name, text)
        if kind is not None:
            self._put(holder, key, self._shown(kind, text))
        elif self._detector.has_own_rules or (text.isdigit() and _LEAST_CARD <= len(text) <= _MOST_CARD):
            self._slots.append((holder, key, text))

    def _visit_bytes(self, holder: dict[str, Any], encoded: str, name: str | None) -> None:
        """Bytes may be a text with secrets in it: then all of them go, so that what a target holds can be compared."""
        try:
            text = base64.b64decode(encoded, validate=True).decode("utf-8", "replace")
        except (binascii.Error, ValueError):
            self._visit(holder, "$bytes", encoded, (), name)
            return
        kind = None if name is None else self._detector.secret_kind(name, text)
        if kind is None:
            suspects = self._detector.suspects(text.encode())
            found = self._detector.findings([text], suspects, lookalikes=self._lookalikes).get(0)
            kind = found[0].kind if found else None
        if kind is not None:
            self._put(holder, "$bytes", self._shown(kind, encoded))

    def _replace(self) -> None:
        """Search all texts, and put tokens where something was found."""
        texts = [text for _, _, text in self._slots] + [name for _, name in self._names]
        found = self._detector.findings(texts, self._suspects, lookalikes=self._lookalikes)
        renamed: dict[int, tuple[dict[str, Any], dict[str, str]]] = {}
        for number, ones in found.items():
            text = self._without(texts[number], ones)
            if number < len(self._slots):
                holder, key, _ = self._slots[number]
                self._put(holder, key, text)
            else:
                owner, name = self._names[number - len(self._slots)]
                renamed.setdefault(id(owner), (owner, {}))[1][name] = text
        for owner, names in renamed.values():
            items = [(names.get(name, name), item) for name, item in owner.items()]
            owner.clear()
            owner.update(items)
            self._is_changed = True

    def _put(self, holder: Any, key: Any, value: Any) -> None:
        holder[key] = value
        self._is_changed = True

    def _without(self, text: str, found: Sequence[Finding]) -> str:
        """A text whose findings are replaced."""
        content = text.encode("utf-8", "surrogatepass")
        pieces, at = [], 0
        for one in found:
            secret = content[one.start : one.end]
            pieces += [content[at : one.start], self._means.tokens.shown(one.kind, secret).encode()]
            at = one.end
        return b"".join([*pieces, content[at:]]).decode("utf-8", "surrogatepass")

    def _shown(self, kind: str, secret: str) -> str:
        return self._means.tokens.shown(kind, secret.encode("utf-8", "surrogatepass"))


def _name_beside(value: Mapping[str, Any]) -> str | None:
    """The name in `{"name": "DB_PASSWORD", "value": ...}`, or in `{"element": "Password field", "text": ...}`."""
    if len(value) < 2 or not any(field.lower() in _CONTENTS for field in value):
        return None
    for field, item in value.items():
        if isinstance(item, str) and len(item) < _LONGEST_DESCRIPTION:
            if field.lower() in _DESCRIPTIONS and _TELLS_PASSWORD.search(item):
                return "password"
            if field.lower() in _NAMING:
                return item
    return None
