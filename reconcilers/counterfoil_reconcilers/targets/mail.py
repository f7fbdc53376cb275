"""E-mail as a target: the messages of a mailbox, such as the one that keeps what was sent.

Few commands for many messages: one search tells which may be meant, one look at a few header lines which are, and only
these are read whole. A message never changes under its number, so what was read once is kept.
"""

from collections import OrderedDict, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import Final

from counterfoil_reconcilers.compare import agree
from counterfoil_reconcilers.contract_files import did_you_mean
from counterfoil_reconcilers.contract_kinds import Capabilities
from counterfoil_reconcilers.contracts import ContractError, Contracts, Resource
from counterfoil_reconcilers.rows import Row, RowKey
from counterfoil_reconcilers.targets.mail_options import MailConnection, MailResource
from counterfoil_reconcilers.targets.mail_rows import fields_of, fields_of_head
from counterfoil_reconcilers.targets.mail_session import Mailbox, MailboxMissing, Session, words_of
from counterfoil_reconcilers.targets.port import Address, Closing, Kind, TargetRow, TargetUnavailable, by_resource
from counterfoil_reconcilers.touched import Search
from counterfoil_reconcilers.values import Json, Unreadable, at, key_text

_UID: Final = "uid"
_KEPT_BYTES: Final = 64_000_000
_AT_ONCE: Final = 200
_Terms = list[tuple[str, str]]  # a header and a word that must be in it


@dataclass(frozen=True)
class Message:
    """A message of which some header lines are known. `fields` None: they can't be read."""

    number: int
    uid: str
    size_bytes: int
    lines: bytes
    fields: Mapping[str, Json] | None

    def texts(self, names: Iterable[str]) -> tuple[str, ...] | None:
        """The texts of fields; None where one is not there, or is none."""
        try:
            return tuple(key_text((self.fields or {})[name]) for name in names)
        except (KeyError, Unreadable):
            return None

    def may_hold(self, terms: _Terms) -> bool:
        """Whether lines that can't be read have these words."""
        return self.fields is None and all(word.encode() in self.lines for _, word in terms)


class _KeptRows:
    """Rows that were read, by resource and number, the latest used last; as many as there is room for."""

    def __init__(self) -> None:
        self._rows: OrderedDict[tuple[str, str], tuple[Row, int]] = OrderedDict()
        self._bytes = 0

    def get(self, resource: str, uid: str) -> Row | None:
        kept = self._rows.get((resource, uid))
        if kept is None:
            return None
        self._rows.move_to_end((resource, uid))
        return kept[0]

    def put(self, resource: str, uid: str, row: Row) -> None:
        size = len(str(row))
        self._rows[resource, uid] = row, size
        self._bytes += size
        while self._bytes > _KEPT_BYTES:
            _, (_, freed) = self._rows.popitem(last=False)
            self._bytes -= freed


def options_of(resource: Resource) -> MailResource:
    """Where the rows of a resource of this kind are."""
    assert isinstance(resource.options, MailResource)  # noqa: S101  # the kind of the resource's target says so
    return resource.options


class MailTarget(Closing):
    """Mailboxes of one account behind the port `Target`. Not for use by several threads at once."""

    def __init__(self, contracts: Contracts, name: str, session: Session) -> None:
        self._contracts = contracts
        self._target = contracts.targets[name]
        self._name = name
        self._session = session
        self._kept = _KeptRows()

    def close(self) -> None:
        """Let go of the connection; the next call opens another."""
        self._session.close()

    def check(self) -> Sequence[ContractError]:
        """Mailboxes that the contract names and the account lacks, and fields that no message is found by."""
        errors: list[ContractError] = []
        for resource in self._target.resources.values():
            at_ = ("targets", self._name, "resources", resource.name)
            mailbox = options_of(resource).mailbox
            try:
                with self._session.examine(mailbox):
                    pass
            except MailboxMissing:
                sentence = f"mailbox {mailbox} does not exist in target {self._name}"
                hint = did_you_mean(mailbox, self._session.names())
                errors.append(self._contracts.error_at((*at_, "mailbox"), sentence + hint))
            errors += [self._contracts.error_at((*at_, what), mistake) for what, mistake in _mistakes(resource)]
        return errors + list(self._check_writes())

    def read(self, addresses: Iterable[Address]) -> Sequence[TargetRow]:
        """Every address once; where several messages have one key, the row says so."""
        wanted = list(dict.fromkeys(addresses))
        found: dict[Address, Row | None] = {}
        for name, asked in by_resource(wanted).items():
            resource = self._target.resources[name]
            with self._examined(resource) as box:
                look = self._by_uid if resource.key == (_UID,) else self._by_key
                found.update(look(box, resource, asked))
        return [TargetRow(address, found.get(address)) for address in wanted]

    def find(self, tenant: str | None, searches: Sequence[Search], limit: int = 50) -> Sequence[TargetRow]:
        """Messages that hold every field of a search, as the judge compares, in the order of their numbers."""
        found: dict[Address, TargetRow] = {}
        for search in searches:
            resource = self._target.resources[search.resource]
            with self._examined(resource) as box:
                rows = islice(self._search(box, resource, tenant, search), limit)
                found.update({row.address: row for row in _named(resource, rows)})
        return list(found.values())

    def scan(self, resource: str, tenant: str | None = None) -> Iterator[TargetRow]:
        """Every message of a mailbox."""
        declared = self._target.resources[resource]
        with self._examined(declared) as box:
            yield from _named(declared, self._all(box, declared, tenant))

    @contextmanager
    def _examined(self, resource: Resource) -> Iterator[Mailbox]:
        mistake = next((mistake for _, mistake in _mistakes(resource)), None)
        if mistake is not None:
            raise TargetUnavailable(self._name, f"{mistake}; run the contract check", trouble="unreadable")
        try:
            with self._session.examine(options_of(resource).mailbox) as box:
                yield box
        except MailboxMissing:
            reason = (
                f"there is no mailbox {options_of(resource).mailbox}, or it may not be seen; run the contract check"
            )
            raise TargetUnavailable(self._name, reason, trouble="unreadable") from None

    def _by_uid(self, box: Mailbox, resource: Resource, asked: Sequence[Address]) -> Mapping[Address, Row | None]:
        numbers: dict[Address, int] = {}
        found: dict[Address, Row | None] = {}
        for address in asked:
            validity, number = _validity_and_number(address.row.key[0])
            if number and validity == box.validity:
                numbers[address] = number
            elif number:
                reason = f"the server has numbered the mailbox anew since, under UIDVALIDITY {box.validity}"
                found[address] = Row(None, problem=reason)
        messages = {one.number: one for one in self._messages(box, resource, sorted(set(numbers.values())))}
        rows = self._whole(box, resource, messages.values())
        for address, number in numbers.items():
            message = messages.get(number)
            is_theirs = message is not None and _is_of(resource, message, address.tenant)
            found[address] = rows.get(number) if is_theirs else None
        return found

    def _by_key(self, box: Mailbox, resource: Resource, asked: Sequence[Address]) -> Mapping[Address, Row | None]:
        terms = {one: _terms(resource, zip(resource.key, one.row.key, strict=True)) for one in asked}
        numbers = box.search([wanted for wanted in terms.values() if wanted])
        messages = self._messages(box, resource, numbers)
        by_key: dict[tuple[str, ...] | None, list[Message]] = defaultdict(list)
        for message in messages:
            by_key[message.texts(resource.key)].append(message)
        meant = {
            one: [m for m in by_key.get(one.row.key, ()) if _is_of(resource, m, one.tenant)]
            for one, wanted in terms.items()
            if wanted
        }
        rows = self._whole(box, resource, [several[0] for several in meant.values() if len(several) == 1])
        unread = [message for message in messages if message.fields is None]
        return {
            one: rows.get(several[0].number) if len(several) == 1 else _unclear(several, unread, terms[one] or [])
            for one, several in meant.items()
        }

    def _search(
        self, box: Mailbox, resource: Resource, tenant: str | None, search: Search
    ) -> Iterator[tuple[Message, Row]]:
        searchable = options_of(resource).searchable
        if not any(name in searchable for name, _ in search.fields):
            reason = f"mail is found by {', '.join(searchable)}, and {search.resource} is looked for by none of these"
            raise TargetUnavailable(self._name, f"{reason}; add one to find in the contract", trouble="unreadable")
        terms = _terms(resource, search.fields)
        if not terms:
            return
        messages = [
            message
            for message in self._messages(box, resource, box.search([terms]))
            if message.may_hold(terms) or (_is_of(resource, message, tenant) and _holds(resource, message, search))
        ]
        for message, row in self._whole_in_order(box, resource, messages):
            if row.problem is not None or _row_holds(resource, row, search):
                yield message, row

    def _all(self, box: Mailbox, resource: Resource, tenant: str | None) -> Iterator[tuple[Message, Row]]:
        numbers = box.all()
        for start in range(0, len(numbers), _AT_ONCE):
            messages = self._messages(box, resource, numbers[start : start + _AT_ONCE])
            theirs = [message for message in messages if _is_of(resource, message, tenant)]
            yield from self._whole_in_order(box, resource, theirs)

    def _messages(self, box: Mailbox, resource: Resource, numbers: Sequence[int]) -> list[Message]:
        """What is known of messages by their header lines, in order."""
        options = options_of(resource)
        heads = box.heads(numbers, sorted({*options.searchable.values(), "Date"}))
        found = []
        for number, head in sorted(heads.items()):
            uid = f"{box.validity}.{number}"
            try:
                fields = {_UID: uid, **fields_of_head(head.lines, options)}
            except Unreadable:
                found.append(Message(number, uid, head.size_bytes, head.lines, None))
            else:
                found.append(Message(number, uid, head.size_bytes, head.lines, fields))
        return found

    def _whole_in_order(
        self, box: Mailbox, resource: Resource, messages: Sequence[Message]
    ) -> Iterator[tuple[Message, Row]]:
        for start in range(0, len(messages), _AT_ONCE):
            part = messages[start : start + _AT_ONCE]
            rows = self._whole(box, resource, part)
            yield from ((message, rows[message.number]) for message in part if message.number in rows)

    def _whole(self, box: Mailbox, resource: Resource, messages: Iterable[Message]) -> dict[int, Row]:
        """The rows of messages, by number; those that were there are read from the server once."""
        options, rows = options_of(resource), dict[int, Row]()
        most = options.most_megabytes * 10**6
        sizes: dict[int, int] = {}
        for message in messages:
            kept = self._kept.get(resource.name, message.uid)
            if kept is not None:
                rows[message.number] = kept
            elif message.size_bytes > most:
                problem = f"it has {message.size_bytes} bytes, more than {most}"
                rows[message.number] = Row(None, message.uid, problem=problem)
            else:
                sizes[message.number] = message.size_bytes
        for number, data in box.messages(sizes):
            uid = f"{box.validity}.{number}"
            rows[number] = _row(data, options, uid)
            self._kept.put(resource.name, uid, rows[number])
        return rows

    def _check_writes(self) -> Iterator[ContractError]:
        """Writes that look for a message by nothing that it is found by."""
        for tool in self._contracts.tools.values():
            for write in tool.writes if tool.target == self._name else ():
                searchable = options_of(write.resource).searchable
                names = [name for name, _ in write.find]
                if names and not any(name in searchable for name in names):
                    hint = did_you_mean(names[0], searchable)
                    at_ = ("tools", tool.name, "writes", write.index, "find", names[0])
                    yield self._contracts.error_at(at_, f"mail is not found by {', '.join(names)}{hint}")


def _mistakes(resource: Resource) -> Iterator[tuple[str, str]]:
    """Keys and tenants that no message is told by, each with where it stands."""
    options = options_of(resource)
    known = (_UID, "message_id", *options.headers)
    for what, names in (("key", resource.key), ("tenant", (resource.tenant,) if resource.tenant else ())):
        for name in names:
            if name not in known:
                hint = did_you_mean(name, known)
                yield what, f"the {what} {name} of {resource.name} is neither uid, message_id nor one of headers{hint}"


def _terms(resource: Resource, fields: Iterable[tuple[str, Json]]) -> _Terms | None:
    """What to search for, for fields with these values; None where no message can hold one of them."""
    searchable = options_of(resource).searchable
    terms: _Terms = []
    for name, value in fields:
        for text in value if isinstance(value, list) else [value]:
            if name not in searchable or text is None:
                continue
            words = words_of(text) if isinstance(text, str) else None
            if words is None:
                return None  # a header holds text
            terms += [(searchable[name], word) for word in words]
    return terms or None


def _is_of(resource: Resource, message: Message, tenant: str | None) -> bool:
    if tenant is None or resource.tenant is None:
        return True
    return message.texts((resource.tenant,)) == (tenant,)


def _holds(resource: Resource, message: Message, search: Search) -> bool:
    """Whether the header lines hold those fields of a search that stand in them, as the judge compares."""
    known = [(name, value) for name, value in search.fields if name in (message.fields or {})]
    return bool(known) and all(agree(resource, value, at(message.fields, (name,)), (name,)) for name, value in known)


def _row_holds(resource: Resource, row: Row, search: Search) -> bool:
    return all(agree(resource, value, at(row.doc, (name,)), (name,)) for name, value in search.fields)


def _row(data: bytes, options: MailResource, uid: str) -> Row:
    try:
        return Row(fields_of(data, options, uid), uid)
    except Unreadable as error:
        return Row(None, uid, problem=str(error))


def _unclear(several: Sequence[Message], unread: Sequence[Message], terms: _Terms) -> Row | None:
    """What to say where not one message has a key: several have, or one that can't be read may."""
    if several:
        uids = ", ".join(message.uid for message in several[:5])
        problem = f'{len(several)} messages have this key, {uids}; key = ["uid"] and find tell them apart'
        return Row(None, problem=problem)
    doubtful = next((message for message in unread if message.may_hold(terms)), None)
    return (
        None
        if doubtful is None
        else Row(None, doubtful.uid, problem=f"the header of message {doubtful.uid} can't be read")
    )


def _named(resource: Resource, rows: Iterable[tuple[Message, Row]]) -> Iterator[TargetRow]:
    """Rows with their addresses. A second message with the key of one before is another row, told by its uid."""
    seen: set[Address] = set()
    for message, row in rows:
        tenant = message.texts((resource.tenant,)) if resource.tenant else None
        key = message.texts(resource.key) or ("",) * (len(resource.key) - 1) + (message.uid,)
        address = Address(tenant[0] if tenant else None, RowKey(resource.name, key))
        if address in seen:
            key = (*key[:-1], f"{key[-1]} ({message.uid})")
            address = Address(address.tenant, RowKey(resource.name, key))
        seen.add(address)
        yield TargetRow(address, row)


def _validity_and_number(uid: str) -> tuple[int, int]:
    """`1700000000.17`; (0, 0) for what is no uid (RFC 3501, section 2.3.1.1: two numbers of 32 bits)."""
    validity, _, number = uid.partition(".")
    if not all(part.isascii() and part.isdigit() and len(part) <= 10 for part in (validity, number)):
        return 0, 0
    found = int(validity), int(number)
    return found if f"{found[0]}.{found[1]}" == uid and found[1] < 2**32 else (0, 0)


def _open(contracts: Contracts, name: str, connection: MailConnection) -> MailTarget:
    return MailTarget(contracts, name, Session(name, connection))


KIND = Kind(
    name="email",
    capabilities=Capabilities(finds=True, lists=True),
    resource_options=MailResource,
    connection=MailConnection,
    open=_open,
)
