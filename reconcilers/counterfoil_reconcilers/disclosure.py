"""What stood where a recorder put tokens, found again at the target; and tokens again in all that is said.

A token can't be read, but compared: the token of what the target holds is the token of what the agent sent, or it is
not. So every value that is read at the target is tried. What is found, and what was sealed and could be opened, is used
in this pass alone. What is not found is Hidden, and is still compared: text by text, where both were made with one key.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from itertools import islice
from typing import Any

from counterfoil.errors import CounterfoilError, SealedAway
from counterfoil.jsontext import as_given
from counterfoil.redaction import Redactor
from counterfoil.sealing import KeyRing, SealedIn, sealed_in, text_of
from counterfoil.tokens import key_id_of, tokens_in
from counterfoil_reconcilers.rows import Effect, Reply, Row, recorded_reply
from counterfoil_reconcilers.values import Hidden, Json, Path, shown

_LONGEST_SEARCHED = 65_536
_MOST_PLACES = 64  # at which the text between two tokens is tried
_MOST_TOKENS = 200  # in one text
_MOST_MIXED = 200  # texts in which a token stands beside other text, and that are tried on every value
# Characters: what is shorter stands everywhere; what is longer is found inside other words.
_LEAST_NOTED, _LEAST_INSIDE, _LEAST_ANYWHERE = 2, 3, 6
_LONGEST_REMEMBERED = 200
_MOST_NOTED = 5_000
_MOST_SAID = 10_000


class NotRecoverable(CounterfoilError):
    """What the agent sent is not known any more: it was redacted, and not sealed."""


class _Tokened(Hidden):
    """A text with tokens in it: `pieces` stand before, between and behind them."""

    __slots__ = ("_of", "pieces", "tokens")
    pieces: tuple[str, ...]
    tokens: tuple[str, ...]
    _of: Callable[[bytes], str] | None

    @classmethod
    def made(cls, text: str, of: Callable[[bytes], str] | None) -> "_Tokened | None":
        """None where there is no token. `of` makes tokens with the key of these; without it, none can be compared."""
        found = list(tokens_in(text))
        if not found:
            return None
        ends = [0, *(one.end for one in found)]
        starts = [*(one.start for one in found), len(text)]
        new = cls(text)
        new.pieces = tuple(text[end:start] for end, start in zip(ends, starts, strict=True))
        new.tokens = tuple(one.token for one in found)
        new._of = of
        return new

    def equals(self, text: str) -> bool | None:
        """See Hidden: token by token, each of which says whether what stands there is what it was made of."""
        begins_and_ends = text.startswith(self.pieces[0]) and text.endswith(self.pieces[-1])
        if not begins_and_ends or len(text) < sum(map(len, self.pieces)):
            return False
        if self._of is None or len(self.tokens) > _MOST_TOKENS:
            return None
        found, is_sure = self.aligned(text)
        return True if found is not None else (False if is_sure else None)

    def aligned(self, text: str) -> tuple[list[str] | None, bool]:
        """What the tokens stood for, if this text is the one; else None, and whether that is sure."""
        found: list[str] = []
        at, last = len(self.pieces[0]), len(text) - len(self.pieces[-1])
        for number, (token, piece) in enumerate(zip(self.tokens, self.pieces[1:], strict=True)):
            is_last = number == len(self.tokens) - 1
            ends = [last] if is_last else list(islice(_places(text, piece, at, last), _MOST_PLACES))
            end = next((end for end in ends if end >= at and self._is(text[at:end], token)), None)
            if end is None:
                return None, len(ends) < _MOST_PLACES
            found.append(text[at:end])
            at = end if is_last else end + len(piece)
        return found, True

    def _is(self, secret: str, token: str) -> bool:
        return self._of is not None and self._of(secret.encode("utf-8", "surrogatepass")) == token

    def opened(self, known: Mapping[str, Json]) -> Any:
        """With what is known in the place of its tokens."""
        if self._of is None or known.keys().isdisjoint(self.tokens):
            return self
        if len(self.tokens) == 1 and not any(self.pieces):
            return known[self.tokens[0]]
        marks = [self[one.start : one.end] for one in tokens_in(self)]
        rest: list[str] = [self.pieces[0]]
        left: list[str] = []
        text = self.pieces[0]
        for token, mark, piece in zip(self.tokens, marks, self.pieces[1:], strict=True):
            if token in known:
                rest[-1] += text_of(shown(known[token])) + piece
                text += text_of(shown(known[token])) + piece
            else:
                left.append(token)
                rest.append(piece)
                text += mark + piece
        if not left:
            return text
        new = _Tokened(text)
        new.pieces, new.tokens, new._of = tuple(rest), tuple(left), self._of
        return new


class Disclosure:
    """The redacted values of one tenant's effects, in one pass. A Veil."""

    def __init__(self, redactor: Redactor) -> None:
        self._redactor = redactor
        self._tokens = redactor.tokens
        self._wanted: set[str] = set()  # tokens not found yet
        self._known: dict[str, Json] = {}  # by token
        self._kinds: dict[str, str] = {}  # the kind beside each token
        self._mixed: list[_Tokened] = []
        self._texts: dict[str, str] = {}  # what is known, as text, and what is said instead
        self._inside: re.Pattern[str] | None = None  # these in longer texts; None until it is needed
        self._said: set[str] = set()  # tokens that were made here, or stand in effects
        self._over: dict[tuple[str | None, str], Any] = {}  # short texts as they are said, by the field's name
        self._tried: set[str] = set()

    @property
    def tenant(self) -> str:
        """Whose effects they are."""
        return self._redactor.tenant

    def noted(self, effect: Effect, stamp: str | None) -> Effect:
        """The effect with its seals opened where their key is at hand; what is redacted in it is now looked for.

        `stamp` is what its events bear; tokens of another identity key can't be compared with anything.
        """
        if stamp is None:
            return effect
        of = self._tokens.of if key_id_of(stamp) == self._redactor.key_id else None
        secret: set[Path] = set()

        def read(value: Any, kind: str, field: str) -> Any:
            return self._read(value, SealedIn(self.tenant, kind, effect.tool, field), (field,), of, secret)

        return replace(
            effect,
            args=read(effect.args, "tool_intent", "args"),
            reply=None if effect.reply is None else Reply(read(recorded_reply(effect.reply), "tool_result", "result")),
            step=None if effect.step is None else read(effect.step, "tool_intent", "step"),
            expect=None if effect.expect is None else read(effect.expect, "tool_intent", "expect"),
            secret=frozenset(secret),
        )

    def learn(self, rows: Iterable[Row | None]) -> None:
        """Try every value of these rows."""
        for row in rows:
            if not self._wanted:
                return
            if row is not None:
                for value in _values(row.doc):
                    self._try(value)

    def opened(self, effect: Effect) -> Effect:
        """The effect with what is known by now in the place of its tokens."""
        if not self._known or not effect.secret:
            return effect
        reply = Reply(self._open(effect.reply.value)) if isinstance(effect.reply, Reply) else effect.reply
        args, step, expect = (self._open(value) for value in (effect.args, effect.step, effect.expect))
        return replace(effect, args=args, reply=reply, step=step, expect=expect)

    def over(self, value: Any, path: Path = ()) -> Any:
        """See Veil."""
        name = next((step for step in reversed(path) if isinstance(step, str)), None)
        if type(value) is not str or len(value) > _LONGEST_REMEMBERED:
            return self._covered_and_redacted(name, value)
        if (name, value) not in self._over:
            if len(self._over) >= _MOST_SAID:
                self._over.clear()
            self._over[name, value] = self._covered_and_redacted(name, value)
        return self._over[name, value]

    def _covered_and_redacted(self, name: str | None, value: Any) -> Any:
        covered = self._covered(shown(value))
        if name is None:
            return self._redactor.value(covered, ours=True)
        [new] = self._redactor.value({str(name): covered}, ours=True).values()
        return new

    def beside(self, said: Any, value: Any, path: Path = ()) -> Any:
        """See Veil."""
        kind = next(_kinds_in(said), None)
        return self.over(value, path) if kind is None else self._all_over(shown(value), kind)

    def whole(self, value: Any, path: Path = ()) -> Any:
        """See Veil."""
        name = next((step for step in reversed(path) if isinstance(step, str)), "")
        kind = "".join(filter(str.isalnum, name.lower()))[:40] if name.isascii() and name not in self._texts else ""
        return self._all_over(shown(value), kind if kind[:1].isalpha() else "field")

    def hide(self, values: Iterable[Any]) -> None:
        """See Veil."""
        for value in values:
            self._note(value, "field")

    def _read(
        self, value: Any, where: SealedIn, place: Path, of: Callable[[bytes], str] | None, secret: set[Path]
    ) -> Any:
        if isinstance(value, Mapping):
            sealed = sealed_in(value)
            if sealed is not None:
                secret.add(place)
                try:
                    opened = self._redactor.keys.open(sealed, where)
                except SealedAway:
                    return self._tokened(f"[sealed:{sealed.token}]", of)
                for one in _values(opened):
                    self._note(one, "sealed")
                return opened
            names = {name: self._tokened(name, of) for name in value}
            if any(isinstance(name, Hidden) for name in names.values()):
                secret.add(place)
            return {names[name]: self._read(item, where, (*place, name), of, secret) for name, item in value.items()}
        if isinstance(value, list):
            return [self._read(item, where, (*place, index), of, secret) for index, item in enumerate(value)]
        if isinstance(value, str):
            value = self._tokened(value, of)
            if isinstance(value, Hidden):
                secret.add(place)
        return value

    def _tokened(self, text: str, of: Callable[[bytes], str] | None) -> str:
        """The text, Hidden if there are tokens in it, which are looked for from now on."""
        made = _Tokened.made(text, of) if "[" in text else None
        if made is None:
            return text
        for one in tokens_in(text):
            self._said.add(text[one.start : one.end])
            self._kinds[one.token] = one.kind
            if of is not None and one.token not in self._known:
                self._wanted.add(one.token)
        if of is not None and any(made.pieces) and len(self._mixed) < _MOST_MIXED:
            self._mixed.append(made)
        return made

    def _try(self, value: Json) -> None:
        text = text_of(shown(value))
        if text in self._tried:
            return
        if len(text) <= _LONGEST_REMEMBERED:
            self._tried.add(text)
        for form in _forms(value, text):
            self._found(self._tokens.of(form.encode("utf-8", "surrogatepass")), value)
        if not isinstance(value, str):
            return
        if len(value) <= _LONGEST_SEARCHED:
            for secret in self._redactor.secrets_in(value):
                self._found(self._tokens.of(secret.encode("utf-8", "surrogatepass")), secret)
        for one in self._mixed:
            if one.equals(value):
                for token, secret in zip(one.tokens, one.aligned(value)[0] or (), strict=True):
                    self._found(token, secret)

    def _found(self, token: str, value: Json) -> None:
        if token in self._wanted:
            self._wanted.discard(token)
            self._known[token] = value
            self._note(value, self._kinds[token])

    def _note(self, value: Json, kind: str) -> None:
        text = "" if value is None or isinstance(value, bool | Hidden) else text_of(shown(value))
        if len(text) >= _LEAST_NOTED and text not in self._texts and len(self._texts) < _MOST_NOTED:
            self._texts[text] = self._token(kind, text)
            self._inside = None
            self._over.clear()

    def _open(self, value: Any) -> Any:
        if isinstance(value, Mapping):
            return {self._name(name): self._open(item) for name, item in value.items()}
        if isinstance(value, list):
            return [self._open(item) for item in value]
        return value.opened(self._known) if isinstance(value, _Tokened) else value

    def _name(self, name: str) -> str:
        opened = self._open(name)
        return opened if isinstance(opened, str) else text_of(shown(opened))

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
        if self._inside is None:
            known = sorted((one for one in self._texts if len(one) >= _LEAST_INSIDE), key=len, reverse=True)
            self._inside = re.compile("|".join(map(_bounded, known)) or "(?!)", re.IGNORECASE)
        return self._inside.sub(lambda match: self._texts.get(match[0]) or self._token("field", match[0]), text)

    def _all_over(self, value: Any, kind: str) -> Any:
        """One token over the whole value, but for what is one already, and nothing."""
        if value is None or (isinstance(value, str) and str(value) in self._said):
            return value
        text = text_of(value)
        return self._texts.get(text) or self._token(kind, text)

    def _token(self, kind: str, text: str) -> str:
        token = self._tokens.shown(kind, text.encode("utf-8", "surrogatepass"))
        self._said.add(token)
        return token


def original_args(args: Any, keys: KeyRing, where: SealedIn, stamp: str | None) -> Any:
    """Arguments as the agent passed them, for doing it again. `stamp` is what their event bears.

    Raises NotRecoverable where something was redacted, and SealedAway where a seal can't be opened.
    """
    return as_given(args if stamp is None else _original(args, keys, where, where.field))


def _original(value: Any, keys: KeyRing, where: SealedIn, place: str) -> Any:
    if isinstance(value, Mapping):
        sealed = sealed_in(value)
        if sealed is not None:
            return keys.open(sealed, where)
        for name in value:
            _original(name, keys, where, f"a name in {place}")
        return {name: _original(item, keys, where, f"{place}.{name}") for name, item in value.items()}
    if isinstance(value, list):
        return [_original(item, keys, where, f"{place}[{index}]") for index, item in enumerate(value)]
    if isinstance(value, str) and next(_kinds_in(value), None) is not None:
        raise NotRecoverable(f"{place} was redacted, not sealed: what the agent sent there is not known any more")
    return value


def _values(value: Any) -> Iterator[Json]:
    """What may stand in a document under a token: texts and numbers, names, and lists and maps as a whole."""
    if isinstance(value, Mapping):
        yield dict(value)
        for name, item in value.items():
            yield name
            yield from _values(item)
    elif isinstance(value, list):
        yield value
        for item in value:
            yield from _values(item)
    elif value is not None and not isinstance(value, bool):
        yield value


def _forms(value: Json, text: str) -> Iterable[str]:
    """The texts that a value may have had where it was redacted: 12.5 may have been the text 12.50."""
    return {text, f"{value:.2f}"} if isinstance(value, float) else {text}


def _places(text: str, part: str, begin: int, last: int) -> Iterator[int]:
    """Where a part begins."""
    at = text.find(part, begin, last)
    while at >= 0:
        yield at
        at = text.find(part, at + 1, last)


def _bounded(text: str) -> str:
    """A pattern of a text inside others; a short one is found as a word only."""
    pattern = re.escape(text)
    if len(text) >= _LEAST_ANYWHERE:
        return pattern
    return ("\\b" if re.match(r"\w", text) else "") + pattern + ("\\b" if re.search(r"\w\Z", text) else "")


def _kinds_in(value: Any) -> Iterator[str]:
    if isinstance(value, (dict, list)):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _kinds_in(item)
    elif isinstance(value, str):
        for one in tokens_in(value):
            yield one.kind
