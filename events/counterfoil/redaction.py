"""Takes secrets out of events before they leave the process: the spool, the blob folder and the brokers get the rest.

One pass over an event says whether anything in it can be a secret; most events end there. What is found is replaced by
`[kind:token]`, or sealed where the policy says so. The bodies that come out are `Redacted`, and no others are recorded.
"""

import base64
import binascii
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NewType

from counterfoil.detection import BETWEEN, Detector, Finding, rules_version
from counterfoil.field_rules import Decision, FieldRules, Location, Plan
from counterfoil.jsontext import to_text
from counterfoil.origin import Origin
from counterfoil.redaction_policy import StorePrompts
from counterfoil.sealing import KeyRing, require_cipher, text_of
from counterfoil.settings import RecorderSettings, identity_key_of
from counterfoil.tokens import Tokens
from counterfoil_schemas import json_fields

Redacted = NewType("Redacted", Mapping[str, Any])

# What a model read and wrote, by kind: these follow `store_prompts`.
_PROMPTS = {
    "task_started": ("input",),
    "message": ("content",),
    "completion": ("text", "rationale"),
    "retrieval": ("query",),
}
# Names that others go by: no rule is applied to them.
_NAMES = frozenset({"tool", "target", "role", "outcome", "status", "call_id", "error_type"})
_ORIGIN_TEXTS = ("task_ref", "conversation_id", "subject_ref", "principal", "on_behalf_of")
_SCHEMES = frozenset({"bearer", "basic", "token", "digest", "apikey", "api-key", "bot", "ssws", "splunk", "negotiate"})
_LEAST_CARD = 13
_MOST_NUMBER = 10**20
_SHORTEST_SECRET = 6
_LONGEST_WORD = 16
# `{"name": ..., "value": ...}`: what names, what describes, and what holds the content.
_NAMING = frozenset({"name", "key", "header", "label"})
_DESCRIPTIONS = frozenset({"element", "selector", "field", "locator", "label", "placeholder"})
_CONTENTS = frozenset({"value", "text"})
_TELLS_PASSWORD = re.compile("(?i)passw|passcode|passphrase")
_LONGEST_DESCRIPTION = 200
_JWK_PRIVATE = frozenset({"d", "p", "q", "dp", "dq", "qi", "k"})  # RFC 7518, section 6
_NO_TEXT = frozenset({str, type(None), bool, int, float, bytes})


class Redaction:
    """A policy ready for use by one process. Thread-safe, and of use in a forked child.

    Raises SettingsError: a pattern, path or kind that is none, no identity key, a library that an extra brings.
    """

    def __init__(self, settings: RecorderSettings) -> None:
        policy = settings.redaction
        self.stamp = policy.stamp(rules_version())
        self.detector = None
        if policy.enabled:
            own = [(rule.kind, rule.pattern) for rule in policy.rules]
            self.detector = Detector(personal=policy.personal, skip=policy.skip, own=own, allow=policy.allow)
        self.fields = FieldRules(policy)
        self.keys = KeyRing(settings.key_directory)
        if self.fields.seals:
            require_cipher()
        self._settings = settings
        self._identity_key = identity_key_of(settings)

    def of_task(self, tenant: str, workflow: str) -> "Redactor":
        """For the events of one task.

        Raises SettingsError when the policy seals and the tenant has no key.
        """
        if self.detector is not None and self.fields.seals:
            self.keys.sealing_key(tenant)
        return Redactor(self, tenant, self.tokens_of(tenant), self._settings.prompts_of(workflow))

    def tokens_of(self, tenant: str) -> Tokens:
        """What makes a tenant's tokens."""
        return Tokens(self._identity_key, tenant)


class Redactor:
    """Redacts the events of one task. Thread-safe."""

    def __init__(self, redaction: Redaction, tenant: str, tokens: Tokens, prompts: StorePrompts) -> None:
        self.stamp = redaction.stamp
        self.tenant = tenant
        self.tokens = tokens
        self.keys = redaction.keys
        self.detector = redaction.detector
        self._fields = redaction.fields
        self._prompts = prompts

    @property
    def stores_messages(self) -> bool:
        """Whether messages of prompts are recorded, be it as digests."""
        return self._prompts != "none"

    def body(self, kind: str, body: Mapping[str, Any], *, ours: bool = False) -> Redacted:
        """The body as it may leave the process. With `ours`, what looks like a token is one of ours, and stays."""
        if self._prompts == "redacted" or kind not in _PROMPTS:
            return Redacted(self._cleaned(kind, body, ours=ours))
        own = {name: body[name] for name in _PROMPTS[kind]}
        if self._prompts == "full":
            others = {name: value for name, value in body.items() if name not in own}
            return Redacted({**self._cleaned(kind, others), **own})
        cleaned = self._cleaned(kind, body)
        return Redacted({**cleaned, **{name: self._withheld(cleaned[name]) for name in own}})

    def message(self, role: str, content: str) -> tuple[bytes, Redacted]:
        """One message of a prompt, `content` as JSON text, with its digest.

        The digest is SHA-256 over the role, a newline and the content, secrets taken out: it tells nobody of a secret.
        """
        body: dict[str, Any] = {"role": role, "content": content}
        if self._prompts != "full":
            body = dict(self._cleaned("message", body))
        digest = hashlib.sha256(f"{role}\n{body['content']}".encode()).digest()
        if self._prompts == "digest":
            body["content"] = self._withheld(body["content"])
        return digest, Redacted({**body, "digest": digest})

    def origin(self, origin: Origin) -> Origin:
        """The task's names without the secrets in them; its ids are as they were."""
        if self.detector is None:
            return origin
        changed: dict[str, Any] = {
            name: self.text(text) for name in _ORIGIN_TEXTS if (text := getattr(origin, name)) is not None
        }
        return replace(origin, **changed)

    def text(self, text: str) -> str:
        """One text without the secrets in it."""
        new: str = self.value(text)
        return new

    def value(self, value: Any, *, ours: bool = False) -> Any:
        """A JSON value without the secrets in it; lists and objects are changed in place.

        With `ours`, what looks like a token is one of ours, and stays.
        """
        if self.detector is None:
            return value
        suspects = self.detector.suspects(json.dumps(value, ensure_ascii=False).encode("utf-8", "surrogatepass"))
        if not suspects and not self.detector.has_own_rules:
            return value
        return _Pass(self, suspects, None, lookalikes=not ours).value(value)

    def secrets_in(self, text: str) -> list[str]:
        """What would be taken out of a text."""
        if self.detector is None:
            return []
        content = text.encode("utf-8", "surrogatepass")
        found = self.detector.findings(content, self.detector.suspects(content), lookalikes=False)
        return [content[one.start : one.end].decode("utf-8", "surrogatepass") for one in found]

    def _cleaned(self, kind: str, body: Mapping[str, Any], *, ours: bool = False) -> Mapping[str, Any]:
        """The body without the secrets in it: itself, if there are none."""
        if self.detector is None:
            return body
        plan = self._fields.plan(kind, body)
        suspects = self.detector.suspects(_texts(body))
        if not suspects and plan is None and not self.detector.has_own_rules:
            return body
        return _Pass(self, suspects, plan, lookalikes=not ours).body(kind, body)

    def _withheld(self, text: str | None) -> str | None:
        """What stands for a text that `store_prompts` keeps out."""
        if text is None:
            return None
        said: dict[str, Any] = {"$withheld": f"store_prompts = {self._prompts}"}
        if self._prompts == "digest":
            content = text.encode("utf-8", "surrogatepass")
            said |= {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        return json.dumps(said, separators=(",", ":"))


class _Pass:
    """One way through one event: every text in it is laid beside the others, and all are searched at once."""

    def __init__(
        self, redactor: Redactor, suspects: Sequence[int], plan: Plan | None, *, lookalikes: bool = True
    ) -> None:
        assert redactor.detector is not None  # noqa: S101  # else there is nothing to pass through
        self._redactor = redactor
        self._detector = redactor.detector
        self._suspects = suspects
        self._plan = plan
        self._lookalikes = lookalikes
        self._slots: list[tuple[Any, Any, str]] = []  # what holds a text, where in it, and the text
        self._names: list[tuple[dict[str, Any], str]] = []  # names of fields that may be secrets themselves
        self._is_changed = False

    def body(self, kind: str, body: Mapping[str, Any]) -> Mapping[str, Any]:
        """The body without the secrets in it: itself, if there are none."""
        parsed = json_fields(kind)
        document = dict(body)
        documents: list[str] = []  # names of fields that are parsed
        for name, value in body.items():
            if name in _NAMES:
                continue
            if isinstance(value, (list, tuple)):
                document[name] = [dict(item) if isinstance(item, Mapping) else item for item in value]
                self._records(document[name])
            elif isinstance(value, str):
                if name in parsed and (found := self._parsed(name, value)) is not None:
                    document[name] = found
                    documents.append(name)
                self._visit(document, name, document[name], (name,), None)
        self._replace()
        if not self._is_changed:
            return body
        for name in documents:
            if document[name].__class__ is not str or body[name][:1] == '"':
                document[name] = to_text(json.dumps(document[name], ensure_ascii=False, separators=(",", ":")))
        return document

    def value(self, value: Any) -> Any:
        """A JSON value without the secrets in it; what is given is changed in place."""
        holder = [value]
        self._visit(holder, 0, value, (), None)
        self._replace()
        return holder[0]

    def _parsed(self, name: str, text: str) -> Any:
        """What the JSON text says; None where it is none, or where writing it again would lose a field."""
        if self._plan is not None:
            return self._plan.document[name]
        try:
            value = json.loads(text)
        except (ValueError, RecursionError):
            return None
        return None if _has_repeated_names(value, text) else value

    def _records(self, items: list[Any]) -> None:
        """Items of a list of the body: texts, or records of texts, such as sources."""
        for index, item in enumerate(items):
            if isinstance(item, str):
                self._slots.append((items, index, item))
            elif isinstance(item, dict):
                self._slots += [(item, name, text) for name, text in item.items() if isinstance(text, str)]

    def _visit(self, holder: Any, key: Any, value: Any, place: Location, name: str | None) -> None:
        """Look at one value, which is `holder[key]`. `name` is that of the field that it, or its list, is in."""
        if self._plan is not None and self._is_decided(holder, key, value, place):
            return
        if isinstance(value, str):
            if name is None or not self._is_named(holder, key, value, name):
                self._slots.append((holder, key, value))
        elif isinstance(value, dict):
            if len(value) == 1 and isinstance(encoded := value.get("$bytes"), str):
                self._visit_bytes(value, encoded)
                return
            for field in value:
                if len(field) >= _SHORTEST_SECRET and not (len(field) < _LONGEST_WORD and field.isidentifier()):
                    self._names.append((value, field))
            own_name = _name_beside(value)
            is_key = "kty" in value
            for field, item in value.items():
                said = own_name if own_name is not None and field.lower() in _CONTENTS else field
                said = "private_key" if is_key and field in _JWK_PRIVATE else said
                self._visit(value, field, item, (*place, field) if self._plan else place, said)
        elif isinstance(value, list):
            before: Any = None
            for index, item in enumerate(value):
                said = before.lstrip("-") if isinstance(before, str) and before.startswith("-") else name
                self._visit(value, index, item, (*place, index) if self._plan else place, said)
                before = item
        elif isinstance(value, int) and not isinstance(value, bool):
            self._visit_number(holder, key, value, name)

    def _is_decided(self, holder: Any, key: Any, value: Any, place: Location) -> bool:
        """Whether the policy says by itself what becomes of this place."""
        assert self._plan is not None  # noqa: S101  # asked before
        decision = self._plan.decision(place)
        if decision is None:
            if isinstance(value, (dict, list)) or value is None or self._plan.is_left(place):
                return False
            decision = Decision("redact", "field")
        if decision.do != "keep" and value is not None:
            self._put(holder, key, self._decided(value, decision))
        return True

    def _decided(self, value: Any, decision: Decision) -> Any:
        if decision.do == "seal":
            return self._redactor.keys.seal(self._redactor.tenant, value, self._redactor.tokens)
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

    def _visit_number(self, holder: Any, key: Any, value: int, name: str | None) -> None:
        """Of whole numbers, those of cards are secret, and those in a field with a secret's name."""
        if abs(value) >= _MOST_NUMBER:
            return
        text = str(value)
        kind = None if name is None else self._detector.secret_kind(name, text)
        if kind is not None:
            self._put(holder, key, self._shown(kind, text))
        elif len(text) >= _LEAST_CARD:
            self._slots.append((holder, key, text))

    def _visit_bytes(self, holder: dict[str, Any], encoded: str) -> None:
        """Bytes may be a text with secrets in it."""
        try:
            content = base64.b64decode(encoded, validate=True)
            content.decode()
        except (binascii.Error, ValueError):
            return
        found = self._detector.findings(content, self._detector.suspects(content), lookalikes=self._lookalikes)
        if found:
            self._put(holder, "$bytes", base64.b64encode(self._without(content, 0, found)).decode())

    def _replace(self) -> None:
        """Search all texts at once, and put tokens where something was found."""
        texts = [text for _, _, text in self._slots] + [name for _, name in self._names]
        contents = [text.encode("utf-8", "surrogatepass") for text in texts]
        found = self._detector.findings(BETWEEN.join(contents), self._suspects, lookalikes=self._lookalikes)
        at, number = 0, 0
        for place, content in enumerate(contents):
            end = at + len(content)
            own: list[Finding] = []
            while number < len(found) and found[number].start < end:
                own.append(found[number])
                number += 1
            if own:
                self._put_text(place, self._without(content, at, own).decode("utf-8", "surrogatepass"))
            at = end + len(BETWEEN)
            if number == len(found):
                return

    def _put_text(self, place: int, text: str) -> None:
        if place < len(self._slots):
            holder, key, _ = self._slots[place]
            self._put(holder, key, text)
            return
        holder, name = self._names[place - len(self._slots)]
        renamed = {text if field == name else field: item for field, item in holder.items()}
        holder.clear()
        holder.update(renamed)
        self._is_changed = True

    def _put(self, holder: Any, key: Any, value: Any) -> None:
        holder[key] = value
        self._is_changed = True

    def _without(self, content: bytes, offset: int, found: Sequence[Finding]) -> bytes:
        """A text whose findings, counted from `offset`, are replaced."""
        pieces, at = [], 0
        for one in found:
            start, end = one.start - offset, min(one.end - offset, len(content))
            pieces += [content[at:start], self._redactor.tokens.shown(one.kind, content[start:end]).encode()]
            at = end
        return b"".join([*pieces, content[at:]])

    def _shown(self, kind: str, secret: str) -> str:
        return self._redactor.tokens.shown(kind, secret.encode("utf-8", "surrogatepass"))


def _name_beside(value: Mapping[str, Any]) -> str | None:
    """The name in `{"name": "DB_PASSWORD", "value": ...}`, or in `{"element": "Password field", "text": ...}`."""
    if not any(field.lower() in _CONTENTS for field in value):
        return None
    for field, item in value.items():
        if isinstance(item, str) and len(item) < _LONGEST_DESCRIPTION:
            if field.lower() in _DESCRIPTIONS and _TELLS_PASSWORD.search(item):
                return "password"
            if field.lower() in _NAMING:
                return item
    return None


def _texts(body: Mapping[str, Any]) -> bytes:
    """Every text of a body, for the gates."""
    values = body.values()
    texts = [value for value in values if value.__class__ is str]
    for value in values:
        if value.__class__ in _NO_TEXT:
            continue
        if isinstance(value, (list, tuple)):
            for item in value:
                texts += [item] if isinstance(item, str) else _record_texts(item)
        elif isinstance(value, str):
            texts.append(str(value))
    return "\n".join(texts).encode("utf-8", "surrogatepass")


def _record_texts(item: Any) -> list[str]:
    return [value for value in item.values() if isinstance(value, str)] if isinstance(item, Mapping) else []


def _has_repeated_names(value: Any, text: str) -> bool:
    """Whether reading and writing again would lose a field."""
    if json.dumps(value, ensure_ascii=False, separators=(",", ":")) == text:
        return False
    found: list[bool] = []

    def look(pairs: list[tuple[str, Any]]) -> None:
        found.append(len({name for name, _ in pairs}) < len(pairs))

    json.loads(text, object_pairs_hook=look)
    return any(found)
