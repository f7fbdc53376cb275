"""Takes secrets out of events before they leave the process: the spool, the blob folder and the brokers get the rest.

One pass over an event says whether anything in it can be a secret; most events end there. What is found is replaced by
`[kind:token]`, or sealed where the policy says so. The bodies that come out are `Redacted`, and no others are recorded.
"""

import hashlib
import json
import logging
from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any, NewType

from counterfoil.detection import Detector, rules_version
from counterfoil.documents import Document, document_of, json_text
from counterfoil.errors import SettingsError
from counterfoil.field_rules import FieldRules, PathFailed
from counterfoil.origin import MAX_NAME_CHARACTERS, Origin
from counterfoil.redaction_pass import Means, Pass
from counterfoil.redaction_policy import StorePrompts
from counterfoil.sealing import KeyRing, SealedIn, require_cipher, text_of
from counterfoil.settings import RecorderSettings, identity_key_of
from counterfoil.tokens import Tokens, key_id, stamped
from counterfoil_schemas import json_fields

logger = logging.getLogger("counterfoil")

Redacted = NewType("Redacted", Mapping[str, Any])

# What a model read and wrote, by kind: these follow `store_prompts`.
_PROMPTS = {
    "task_started": ("input",),
    "message": ("content",),
    "completion": ("text", "rationale"),
    "retrieval": ("query",),
}
_ORIGIN_TEXTS = ("task_ref", "conversation_id", "subject_ref", "principal", "on_behalf_of")
_NO_TEXT = frozenset({str, type(None), bool, int, float, bytes})


class Redaction:
    """A policy ready for use by one process. Thread-safe, and of use in a forked child.

    Raises SettingsError: a pattern, path or kind that is none, no identity key, a library that an extra brings.
    """

    def __init__(self, settings: RecorderSettings) -> None:
        policy = settings.redaction
        self._identity_key = identity_key_of(settings)
        self.stamp = stamped(policy.label(rules_version()), self._identity_key)
        self.key_id = key_id(self._identity_key)
        self.detector = None
        if policy.enabled:
            own = [(rule.kind, rule.pattern) for rule in policy.rules]
            self.detector = Detector(personal=policy.personal, skip=policy.skip, own=own, allow=policy.allow)
        self.fields = FieldRules(policy)
        self.keys = KeyRing(settings.key_directory)
        if self.fields.seals:
            require_cipher()
        self._settings = settings

    def of_task(self, tenant: str, workflow: str) -> "Redactor":
        """For the events of one task."""
        return Redactor(self, tenant, self.tokens_of(tenant), self._settings.prompts_of(workflow))

    def require_key(self, tenant: str) -> None:
        """Raise SettingsError when the policy seals and the tenant has no key."""
        if self.detector is not None and self.fields.seals:
            self.keys.sealing_key(tenant)

    def tokens_of(self, tenant: str) -> Tokens:
        """What makes a tenant's tokens."""
        return Tokens(self._identity_key, tenant)


class Redactor:
    """Redacts the events of one task. Thread-safe."""

    def __init__(self, redaction: Redaction, tenant: str, tokens: Tokens, prompts: StorePrompts) -> None:
        self.stamp = redaction.stamp
        self.key_id = redaction.key_id
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
        own = _PROMPTS.get(kind, ())
        cleaned = self._cleaned(kind, body, kept=own if self._prompts == "full" else (), ours=ours)
        if own and self._prompts in ("none", "digest"):
            cleaned = {**cleaned, **{name: self._withheld(cleaned[name]) for name in own}}
        return Redacted(cleaned)

    def message(self, role: str, content: str) -> tuple[bytes, Redacted]:
        """One message of a prompt, `content` as JSON text, with its digest.

        The digest is SHA-256 over the role, a newline and the content, secrets taken out: it tells nobody of a secret.
        """
        kept = ("content",) if self._prompts == "full" else ()
        body = dict(self._cleaned("message", {"role": role, "content": content}, kept=kept))
        digest = hashlib.sha256(f"{role}\n{body['content']}".encode()).digest()
        if self._prompts == "digest":
            body["content"] = self._withheld(body["content"])
        return digest, Redacted({**body, "digest": digest})

    def origin(self, origin: Origin) -> Origin:
        """The task's names without the secrets in them; its ids are as they were."""
        if self.detector is None:
            return origin
        changed: dict[str, Any] = {
            name: self.text(text)[:MAX_NAME_CHARACTERS]
            for name in _ORIGIN_TEXTS
            if (text := getattr(origin, name)) is not None
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
        suspects = self.detector.suspects(json_text(value).encode("utf-8", "surrogatepass"))
        if not suspects and not self.detector.has_own_rules:
            return value
        return Pass(self._means(self.detector), suspects, lookalikes=not ours).value(value)

    def secrets_in(self, text: str) -> list[str]:
        """What would be taken out of a text."""
        if self.detector is None:
            return []
        content = text.encode("utf-8", "surrogatepass")
        found = self.detector.findings([text], self.detector.suspects(content))
        return [content[one.start : one.end].decode("utf-8", "surrogatepass") for one in found.get(0, ())]

    def _cleaned(
        self, kind: str, body: Mapping[str, Any], *, kept: Collection[str] = (), ours: bool = False
    ) -> Mapping[str, Any]:
        """The body without the secrets in it: itself, if there are none."""
        if self.detector is None:
            return body
        tool = body.get("tool")
        has_rules = self._fields.speak_of(tool)
        suspects = self.detector.suspects(_texts(body, kept))
        if not suspects and not has_rules and not self.detector.has_own_rules:
            return body
        means = self._means(self.detector, kind, tool)
        try:
            document = document_of(kind, body)
            plan = self._fields.plan(document, tool) if has_rules else None
            return Pass(means, suspects, plan, lookalikes=not ours).body(body, document, kept)
        except (RecursionError, PathFailed) as error:
            logger.info("a %s can't be walked through, so its JSON is redacted as text: %r", kind, error)
        return self._cleaned_as_text(kind, body, means, has_rules=has_rules, kept=kept)

    def _cleaned_as_text(
        self, kind: str, body: Mapping[str, Any], means: Means, *, has_rules: bool, kept: Collection[str]
    ) -> Mapping[str, Any]:
        """The body, its JSON taken for text; where single fields of it may have rules, nothing of it stays."""
        jsons = {name: text for name in json_fields(kind) if isinstance(text := body.get(name), str)}
        texts = {name: value for name, value in body.items() if not has_rules or name not in jsons}
        suspects = means.detector.suspects(_texts(texts, kept))
        cleaned = Pass(means, suspects).body(texts, Document(dict(texts), frozenset()), kept)
        if has_rules:
            jsons = {name: self.tokens.shown("field", text.encode()) for name, text in jsons.items()}
        else:
            jsons = {name: cleaned[name] for name in jsons}
        return {**cleaned, **{name: json_text(text) for name, text in jsons.items()}}

    def _means(self, detector: Detector, kind: str = "", tool: str | None = None) -> Means:
        def seal(value: Any, field: str) -> Any:
            try:
                return self.keys.seal(value, self.tokens, SealedIn(self.tenant, kind, tool or "", field))
            except SettingsError:  # a task can't begin without its tenant's key; whoever speaks of it may have none
                return self.tokens.shown("sealed", text_of(value).encode("utf-8", "surrogatepass"))

        return Means(detector, self.tokens, seal)

    def _withheld(self, text: str | None) -> str | None:
        """What stands for a text that `store_prompts` keeps out."""
        if text is None:
            return None
        said: dict[str, Any] = {"$withheld": f"store_prompts = {self._prompts}"}
        if self._prompts == "digest":
            content = text.encode("utf-8", "surrogatepass")
            said |= {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        return json.dumps(said, separators=(",", ":"))


def _texts(body: Mapping[str, Any], kept: Collection[str] = ()) -> bytes:
    """Every text of a body but of the fields in `kept`, for the gates."""
    values = body.values() if not kept else [value for name, value in body.items() if name not in kept]
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
