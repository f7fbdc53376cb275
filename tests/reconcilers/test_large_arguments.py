"""Writes whose arguments were too large for their event: judged by the text itself, and never cried wolf over."""

import datetime as dt

import pytest

from counterfoil import RecorderSettings
from counterfoil.blobs import BlobReader, Claim
from counterfoil.errors import BlobsAway
from counterfoil_reconcilers import observing
from tests.fix_shop import Shop

NOTE = "x" * 100_000
LANDED = "UPDATE shop.orders SET status = 'refunded' WHERE id = 'A-1'"
CREATED = "INSERT INTO shop.refunds (reference, amount) SELECT %s, 5"


class Away(BlobReader):
    """A blob store that does not answer, until it does."""

    inner: BlobReader | None = None

    def open(self, tenant: str, claim: Claim) -> bytes:
        if self.inner is None:
            raise BlobsAway(f"the blob store does not give out {claim.sha256}")
        return self.inner.open(tenant, claim)


@pytest.fixture
def reader(recorder_settings: RecorderSettings) -> BlobReader:
    return BlobReader.from_settings(recorder_settings)


def refund(shop: Shop, *, lands: bool) -> None:
    effect = shop.begin("refund", order="A-1", amount="5", note=NOTE)
    if lands:
        shop.sql(LANDED)
        shop.target.execute(CREATED, (effect.key,))
    effect.ok({"note": NOTE})


def test_what_landed_and_what_did_not(shop: Shop, reader: BlobReader) -> None:
    reconciler = shop.reconciler(blobs=reader)
    shop.step(reconciler)
    refund(shop, lands=True)
    shop.settle(reconciler)
    assert shop.drift() == []
    assert [event.body["verdict"] for event in shop.said() if event.body] == ["applied"]


def test_what_did_not_land_is_drift(shop: Shop, reader: BlobReader) -> None:
    reconciler = shop.reconciler(blobs=reader)
    shop.step(reconciler)
    refund(shop, lands=False)
    shop.settle(reconciler)
    assert [verdict for _, verdict, _ in shop.drift()] == ["not_applied"]


def test_while_the_blob_store_is_away_nothing_is_said(shop: Shop, reader: BlobReader) -> None:
    away = Away()
    reconciler = shop.reconciler(blobs=away)
    shop.step(reconciler)
    refund(shop, lands=True)
    for _ in range(4):
        skipped = shop.step(reconciler).skipped
        assert "does not give out" in str(skipped)
    assert shop.said() == []
    away.inner = reader
    shop.settle(reconciler)
    assert [event.body["verdict"] for event in shop.said() if event.body] == ["applied"]


def test_a_text_that_is_nowhere_is_waited_for_and_then_unknowable(
    shop: Shop, reader: BlobReader, monkeypatch: pytest.MonkeyPatch
) -> None:
    contracts = shop.contracts()
    reconciler = shop.reconciler(contracts, blobs=BlobReader())
    shop.step(reconciler)
    refund(shop, lands=True)
    for _ in range(4):
        assert shop.step(reconciler).open > 0  # it may be on its way from the agent's disk
    assert shop.said() == []
    monkeypatch.setattr(observing, "_TEXT_ON_ITS_WAY", dt.timedelta(0))
    shop.settle(reconciler)
    assert shop.drift() == []
    bodies = [event.body for event in shop.said() if event.body]
    assert [one["verdict"] for one in bodies] == ["unknowable"]
    assert "not at hand" in bodies[0]["reason"]
