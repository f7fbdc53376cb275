"""What stood where a recorder put tokens, found again at the target; and tokens again in all that is said.

A token can't be read, but compared: the token of what the target holds is the token of what the agent sent, or it is
not. So every value that is read at the target is tried. What is found, and what was sealed and could be opened, is used
in this pass alone. What is not found is `Hidden`: surely no text that was read, and nothing else is known of it.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

from counterfoil.errors import CounterfoilError, SealedAway
from counterfoil.redaction import Redactor
from counterfoil.sealing import KeyRing, sealed_in, text_of
from counterfoil.tokens import tokens_in
from counterfoil_reconcilers.rows import Effect, Row, result_of
from counterfoil_reconcilers.values import Hidden, Json, Path, Unreadable, shown

_LONGEST_TRIED = 10_000
_MOST_PLACES = 8
_LEAST_INSIDE = 6  # characters: shorter texts are found by chance in longer ones


class NotRecoverable(CounterfoilError):
    """What the agent sent is not known any more: it was redacted, and not sealed."""


class Disclosure:
    """The redacted values of one tenant's effects, in one pass. A Veil."""

    def __init__(self, redactor: Redactor) -> None:
        self._redactor = redactor
        self._tokens = redactor.tokens
        self._wanted: set[str] = set()  # tokens not found yet
        self._known: dict[str, Json] = {}  # by token
        self._kinds: dict[str, str] = {}  # the kind beside each token
        self._texts: dict[str, str] = {}  # what is known, as text, and what is said instead
        self._inside: set[tuple[str, str, str]] = set()  # a token with the texts before and behind it
        self._tried: set[str] = set()

    @property
    def tenant(self) -> str:
        """Whose effects they are."""
        return self._redactor.tenant

    def noted(self, effect: Effect) -> Effect:
        """The effect with its seals opened where their key is at hand; what is redacted in it is now looked for."""
        reply = None if effect.reply is None else self._read(_result(effect.reply))
        return replace(effect, args=self._read(effect.args), reply=reply)

    def learn(self, rows: Iterable[Row | None]) -> None:
        """Try every value of these rows."""
        for row in rows:
            if not self._wanted:
                return
            if row is not None:
                for value in _scalars(row.doc):
                    self._try(value)

    def opened(self, effect: Effect) -> Effect:
        """The effect with what is known by now in the place of its tokens; where one is left, the text is Hidden."""
        if not self._known and not self._wanted:
            return effect
        reply = None if effect.reply is None else self._open(effect.reply)
        return replace(effect, args=self._open(effect.args), reply=reply)

    def over(self, value: Any, path: Path = ()) -> Any:
        """See Veil."""
        name = next((step for step in reversed(path) if isinstance(step, str)), None)
        covered = self._covered(shown(value))
        if name is None:
            return self._redactor.value(covered, ours=True)
        return self._redactor.value({name: covered}, ours=True)[name]

    def beside(self, expected: Any, value: Any, path: Path = ()) -> Any:
        """See Veil."""
        kind = next(_kinds_in(self.over(expected, path)), None)
        return self.over(value, path) if kind is None else self._all_over(shown(value), kind)

    def whole(self, value: Any, path: Path = ()) -> Any:
        """See Veil."""
        name = next((step for step in reversed(path) if isinstance(step, str)), "")
        kind = "".join(filter(str.isalnum, name.lower())) if name.isascii() else ""
        return self._all_over(shown(value), kind if kind[:1].isalpha() else "field")

    def _read(self, value: Any) -> Any:
        if isinstance(value, Mapping):
            sealed = sealed_in(value)
            if sealed is None:
                return {name: self._read(item) for name, item in value.items()}
            try:
                opened = self._redactor.keys.open(self._redactor.tenant, sealed)
            except SealedAway:
                return self._read(f"[sealed:{sealed.token}]")
            for scalar in _scalars(opened):
                self._note(scalar, "sealed")
            return opened
        if isinstance(value, list):
            return [self._read(item) for item in value]
        if isinstance(value, str) and "[" in value:
            self._want(value)
        return value

    def _want(self, text: str) -> None:
        at = 0
        found = list(tokens_in(text))
        for number, (start, end, token) in enumerate(found):
            behind = text[end : found[number + 1][0] if number + 1 < len(found) else len(text)]
            self._kinds[token] = text[start + 1 : end - 18]
            if token not in self._known:
                self._wanted.add(token)
                self._inside.add((token, text[at:start], behind))
            at = end

    def _try(self, value: Json) -> None:
        text = text_of(shown(value))
        if text in self._tried or len(text) > _LONGEST_TRIED:
            return
        self._tried.add(text)
        for form in _forms(value, text):
            self._found(self._tokens.of(form.encode("utf-8", "surrogatepass")), value)
        if not isinstance(value, str):
            return
        for secret in self._redactor.secrets_in(value):
            self._found(self._tokens.of(secret.encode("utf-8", "surrogatepass")), secret)
        for token, before, behind in [inside for inside in self._inside if inside[1] or inside[2]]:
            if token in self._wanted:
                for part in _between(value, before, behind):
                    if self._tokens.of(part.encode("utf-8", "surrogatepass")) == token:
                        self._found(token, part)

    def _found(self, token: str, value: Json) -> None:
        if token in self._wanted:
            self._wanted.discard(token)
            self._known[token] = value
            self._note(value, self._kinds[token])

    def _note(self, value: Json, kind: str) -> None:
        if value is not None and not isinstance(value, bool):
            text = text_of(shown(value))
            self._texts[text] = self._tokens.shown(kind, text.encode("utf-8", "surrogatepass"))

    def _open(self, value: Any) -> Any:
        if isinstance(value, Mapping):
            return {self._name(name): self._open(item) for name, item in value.items()}
        if isinstance(value, list):
            return [self._open(item) for item in value]
        if not isinstance(value, str) or "[" not in value:
            return value
        return self._opened_text(value)

    def _name(self, name: str) -> str:
        opened = self._opened_text(name) if "[" in name else name
        return opened if isinstance(opened, str) else name

    def _opened_text(self, text: str) -> Any:
        found = [one for one in tokens_in(text) if one[2] in self._known or one[2] in self._wanted]
        if len(found) == 1 and found[0][:2] == (0, len(text)) and found[0][2] in self._known:
            return self._known[found[0][2]]
        pieces: list[str] = []
        at = 0
        for start, end, token in found:
            known = self._known.get(token)
            pieces += [text[at:start], text[start:end] if known is None else text_of(shown(known))]
            at = end
        opened = "".join([*pieces, text[at:]])
        return Hidden(opened) if any(token in self._wanted for _, _, token in found) else opened

    def _covered(self, value: Any) -> Any:
        """A copy of the value with tokens over all that is known here."""
        if isinstance(value, dict):
            return {self._covered(name): self._covered(item) for name, item in value.items()}
        if isinstance(value, list):
            return [self._covered(item) for item in value]
        if value is None or isinstance(value, bool) or not self._texts:
            return str(value) if isinstance(value, Hidden) else value
        text = text_of(value)
        if text in self._texts:
            return self._texts[text]
        if not isinstance(value, str):
            return value
        for known, said in self._texts.items():
            if len(known) >= _LEAST_INSIDE and known in text:
                text = text.replace(known, said)
        return text

    def _all_over(self, value: Any, kind: str) -> Any:
        if isinstance(value, dict):
            return {name: self._all_over(item, kind) for name, item in value.items()}
        if isinstance(value, list):
            return [self._all_over(item, kind) for item in value]
        if value is None or isinstance(value, bool) or next(_kinds_in(value), None) is not None:
            return value
        text = text_of(value)
        return self._texts.get(text) or self._tokens.shown(kind, text.encode("utf-8", "surrogatepass"))


def original_args(args: Any, keys: KeyRing, tenant: str, place: str = "args") -> Any:
    """Arguments as the agent passed them, for doing it again.

    Raises NotRecoverable where something was redacted, and SealedAway where a seal can't be opened.
    """
    if isinstance(args, Mapping):
        sealed = sealed_in(args)
        if sealed is not None:
            return keys.open(tenant, sealed)
        return {name: original_args(item, keys, tenant, f"{place}.{name}") for name, item in args.items()}
    if isinstance(args, list):
        return [original_args(item, keys, tenant, f"{place}[{index}]") for index, item in enumerate(args)]
    if isinstance(args, str) and next(_kinds_in(args), None) is not None:
        raise NotRecoverable(f"{place} was redacted, not sealed: what the agent sent there is not known any more")
    return args


def _result(reply: Any) -> Any:
    try:
        return result_of(reply)
    except Unreadable:
        return reply


def _scalars(value: Any) -> Iterator[Json]:
    if isinstance(value, Mapping):
        for item in value.values():
            yield from _scalars(item)
    elif isinstance(value, list):
        for item in value:
            yield from _scalars(item)
    elif value is not None and not isinstance(value, bool):
        yield value


def _forms(value: Json, text: str) -> Iterable[str]:
    """The texts that a value may have had where it was redacted: 12.5 may have been the text 12.50."""
    return {text, f"{value:.2f}"} if isinstance(value, float) else {text}


def _between(text: str, before: str, behind: str) -> Iterator[str]:
    """The parts of a text that stand between two others."""
    for start in _places(text, before, 0) if before else (0,):
        begin = start + len(before)
        for end in _places(text, behind, begin) if behind else (len(text),):
            yield text[begin:end]


def _places(text: str, part: str, begin: int) -> Iterator[int]:
    at = text.find(part, begin)
    for _ in range(_MOST_PLACES):
        if at < 0:
            return
        yield at
        at = text.find(part, at + 1)


def _kinds_in(value: Any) -> Iterator[str]:
    if isinstance(value, (dict, list)):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _kinds_in(item)
    elif isinstance(value, str):
        for start, end, _ in tokens_in(value):
            yield value[start + 1 : end - 18]
