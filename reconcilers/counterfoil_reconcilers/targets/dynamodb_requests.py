"""Requests to DynamoDB, each held against what an answer must have: without its part, none is "there is nothing"."""

import random
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from botocore.exceptions import ClientError

from counterfoil_reconcilers.targets.aws import code_of, translated
from counterfoil_reconcilers.targets.dynamodb_keys import Item, Keys
from counterfoil_reconcilers.targets.dynamodb_values import Attribute
from counterfoil_reconcilers.targets.port import TargetUnavailable
from counterfoil_reconcilers.values import Unreadable

BATCH: Final = 100  # BatchGetItem takes no more
_FIRST_WAIT_SECONDS: Final = 0.05
_LONGEST_WAIT_SECONDS: Final = 2.0


@dataclass
class Condition:
    """A condition over attributes. Names and values are placeholders, so neither is ever part of the text."""

    text: str = ""
    names: dict[str, str] = field(default_factory=dict)
    values: dict[str, Attribute] = field(default_factory=dict)

    def holds_one_of(self, name: str, values: Sequence[Attribute]) -> None:
        """And: the attribute is one of these. Of none, nothing is asked."""
        if not values:
            return
        placeholder = f"#n{len(self.names)}"
        self.names[placeholder] = name
        equals = []
        for value in values:
            equals.append(f"{placeholder} = :v{len(self.values)}")
            self.values[f":v{len(self.values)}"] = value
        self.text += f"{' AND ' if self.text else ''}({' OR '.join(equals)})"


class Requests:
    """What is asked of one endpoint. `unprocessed_seconds`: how long keys that it left out are asked for again."""

    def __init__(self, target: str, client: Any, unprocessed_seconds: float) -> None:
        self._target = target
        self._client = client
        self._unprocessed_seconds = unprocessed_seconds

    def table(self, name: str) -> Mapping[str, Any] | None:
        """What DynamoDB says of a table; None if it is not there."""
        with translated(self._target):
            try:
                described = self._client.describe_table(TableName=name)
            except ClientError as error:
                if code_of(error) != "ResourceNotFoundException":
                    raise
                return None
        found: Mapping[str, Any] = self._part(described, "Table")
        defined = {one.get("AttributeName") for one in self._part(found, "AttributeDefinitions")}
        if not {one.get("AttributeName") for one in self._part(found, "KeySchema")} <= defined:
            raise TargetUnavailable(self._target, f"it told no type of a key of table {name}", trouble="unreadable")
        return found

    def items(self, table: str, keys: Keys, wanted: Sequence[Item]) -> Iterator[Item]:
        """The items with these keys, at most 100 of them, none twice; in any order.

        DynamoDB leaves keys out when it is throttled, or its answer would be longer than 16 MB.
        """
        deadline, attempt = time.monotonic() + self._unprocessed_seconds, 0
        while wanted:
            with translated(self._target):
                answer = self._client.batch_get_item(RequestItems={table: {"Keys": wanted, "ConsistentRead": True}})
            found = self._part(answer, "Responses").get(table, ())
            yield from self._whole(keys, found)
            wanted = (answer.get("UnprocessedKeys") or {}).get(table, {}).get("Keys", ())
            attempt = 0 if found else attempt + 1
            wait = random.uniform(0, min(_LONGEST_WAIT_SECONDS, _FIRST_WAIT_SECONDS * 2**attempt))  # noqa: S311  # no secret
            if wanted and time.monotonic() + wait > deadline:
                reason = f"table {table} left {len(wanted)} keys unread for {self._unprocessed_seconds:g} seconds"
                raise TargetUnavailable(self._target, reason, trouble="throttled")
            if wanted:
                time.sleep(wait)

    def all_items(
        self, table: str, keys: Keys, partition: tuple[str, Attribute] | None, condition: Condition
    ) -> Iterator[Item]:
        """Every item of a table, or of one partition, for which the condition holds; page by page of at most 1 MB."""
        asked: dict[str, Any] = {"TableName": table, "ConsistentRead": True}
        names, values = dict(condition.names), dict(condition.values)
        if partition is not None:
            asked["KeyConditionExpression"] = "#partition = :partition"
            names["#partition"], values[":partition"] = partition
        if condition.text:
            asked["FilterExpression"] = condition.text
        if names:
            asked |= {"ExpressionAttributeNames": names, "ExpressionAttributeValues": values}
        ask = self._client.scan if partition is None else self._client.query
        last = None
        while True:
            with translated(self._target):
                page = ask(**asked)
            yield from self._whole(keys, self._part(page, "Items"))
            following = page.get("LastEvaluatedKey")
            if not following:
                return
            if following == last:
                raise TargetUnavailable(self._target, f"a list of table {table} has no end", trouble="unreadable")
            asked["ExclusiveStartKey"] = last = following

    def _whole(self, keys: Keys, items: Iterable[Item]) -> Iterator[Item]:
        for item in items:
            try:
                keys.texts_of(item)
            except (KeyError, Unreadable) as error:
                reason = "it gave an item without a key that could be its own"
                raise TargetUnavailable(self._target, reason, trouble="unreadable") from error
            yield item

    def _part(self, answer: Mapping[str, Any], name: str) -> Any:
        """botocore takes any text for an answer that has no parts."""
        if name not in answer:
            raise TargetUnavailable(
                self._target, f"it answered without {name}, as no DynamoDB does", trouble="unreadable"
            )
        return answer[name]
