"""Effects as the store has them, made ready to be judged; and the rows that are a `before` of them."""

import json
import logging
from collections.abc import Mapping, Sequence
from typing import Any

from counterfoil.blobs import BlobReader, Claim, claim_in
from counterfoil.errors import BlobMissing, BlobsAway
from counterfoil_reconcilers.baseline import Baseline
from counterfoil_reconcilers.contracts import Target
from counterfoil_reconcilers.disclosure import Disclosure
from counterfoil_reconcilers.rows import Effect, Rows, with_reduced_hidden
from counterfoil_reconcilers.targets.port import TargetUnavailable
from counterfoil_reconcilers.touched import Touched

logger = logging.getLogger("counterfoil.reconcile")


def opened(row: Mapping[str, Any], tenant: str, target: str, blobs: BlobReader) -> dict[str, Any]:
    """An effect's row with the texts that were too large for their event; where one is nowhere, its claim check stays.

    Raises TargetUnavailable when that can't be known now.
    """
    texts = {name: claim for name in ("args", "reply", "expect") if (claim := claim_of(row[name])) is not None}
    full = dict(row)
    for name, claim in texts.items():
        try:
            full[name] = json.loads(blobs.open(tenant, claim))
        except BlobsAway as error:
            raise TargetUnavailable(target, str(error)) from error
        except (BlobMissing, ValueError, RecursionError) as error:
            logger.warning("the %s of effect %s can't be compared: %s", name, row["effect_id"].hex, error)
            full["reply"] = None if name == "reply" else full["reply"]
    return full


def claim_of(value: Any) -> Claim | None:
    """The claim check that a recorder put in a field's place; a text that looks like one is an agent's."""
    return claim_in(value) if isinstance(value, Mapping) else None


def effect_of(row: Mapping[str, Any], tenant: str, disclosure: Disclosure) -> Effect:
    """An effect from its row; what is redacted in it is from now on looked for."""
    effect = Effect(
        effect_id=row["effect_id"].bytes,
        tool=row["tool"],
        args=with_reduced_hidden(row["args"]),
        outcome=row["outcome"],
        order=(row["intent_at"].isoformat(), row["intent_partition"], row["intent_offset"]),
        reply=with_reduced_hidden(row["reply"]),
        attempts=row["intents"],
        step=row["step"],
        tenant=tenant,
        expect=with_reduced_hidden(row["expect"]),
    )
    return disclosure.noted(effect, row["redaction"])


def before_of(
    baseline: Baseline, declared: Target, found: Sequence[Mapping[str, Any]], touched: Sequence[Touched]
) -> Rows:
    """The rows of the baseline that none of these effects can have changed already, given what each touches."""
    since = [(row["intent_partition"], _first_that_may_have_landed(row)) for row in found]
    needed = [(key, *place) for place, one in zip(since, touched, strict=True) for key in (*one.writes, *one.reads)]
    created = [(search, *place) for place, one in zip(since, touched, strict=True) for search in one.searches]
    return baseline.usable_for(declared.resources, needed, created)


def _first_that_may_have_landed(row: Mapping[str, Any]) -> int:
    """The offset before which no attempt landed: that of the first intent, or where it was found absent after that."""
    absent = row.get("absent_fence")
    first: int = row["intent_offset"]
    return first if absent is None else max(first, absent[row["intent_partition"]])
