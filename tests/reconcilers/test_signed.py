"""What the reconciler says of a tenant that signs: believed with the operators' key, and without it foreign."""

from collections.abc import Iterator

import pytest

from counterfoil import Recorder, RecorderSettings
from counterfoil.ids import OPERATORS
from counterfoil.signing import HEADER, NO_KEYS, SigningKey, SigningKeys
from tests.consumers.made import put_key, signature
from tests.fix_log import RecordsOf
from tests.fix_shop import Shop

AGENT = SigningKey("acme", "agent1", b"a" * 32)
DESK = SigningKey(OPERATORS, "desk1", b"d" * 32)


@pytest.fixture
def signing_shop(shop: Shop, recorder_settings: RecorderSettings, database: str) -> Iterator[Shop]:
    """The shop, whose agents sign, and must."""
    put_key(database, AGENT)
    put_key(database, DESK)
    shop.recorder = Recorder(RecorderSettings(**recorder_settings.model_dump() | {"signing_keys": AGENT.text()}))
    yield shop
    shop.recorder.close()


def test_verdicts_and_letters_are_signed_with_the_operators_key(signing_shop: Shop, records_of: RecordsOf) -> None:
    shop = signing_shop
    reconciler = shop.reconciler(signing=SigningKeys([DESK]))
    reconciler.once()
    effect = shop.act("set_status", "ok", order="A-1", status="paid")
    shop.settle(reconciler)
    state = shop.state(effect)
    assert (state["verdict"], state["given_up"]) == ("not_applied", 1)
    letters = shop.operator.execute("SELECT letter_kind, letter_class FROM counterfoil.dead_letter").fetchall()
    assert [tuple(row.values()) for row in letters] == [("effect", "not_applied")]
    ours = [*records_of("events"), *records_of("dead_letters")]
    by_desk = [record for record in ours if signature(DESK, record.value or b"") in record.headers]
    assert {dict(record.headers).get("counterfoil-kind") for record in by_desk} == {
        b"observation", b"verdict", b"dead_lettered", None,  # the last is of the topic of dead letters
    }  # fmt: skip
    assert all(sum(name == HEADER for name, _ in record.headers) == 1 for record in ours)


def test_without_the_key_they_are_foreign(signing_shop: Shop) -> None:
    shop = signing_shop
    reconciler = shop.reconciler(signing=NO_KEYS)
    reconciler.once()
    effect = shop.act("set_status", "ok", order="A-1", status="paid")
    while not shop.verdicts(effect):
        shop.step(reconciler)
    shop.relay()
    shop.ingest()
    assert shop.state(effect)["verdict"] is None
    letters = shop.operator.execute(
        "SELECT tenant, letter_class FROM counterfoil.dead_letter WHERE letter_kind = 'record'"
    )
    assert {tuple(row.values()) for row in letters} == {(None, "foreign")}
