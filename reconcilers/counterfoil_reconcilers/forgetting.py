"""What a target that forgets can't refute: an effect that may be older than all that it still knows."""

import datetime as dt
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from counterfoil_reconcilers.judge import Judgement, Verdict
from counterfoil_reconcilers.targets.port import Forgetful, Target
from counterfoil_reconcilers.touched import Touched

# How far the clock of a target may lie behind that of our own brokers.
_CLOCKS_APART: Final = dt.timedelta(minutes=1)


def unless_forgotten(
    judgement: Judgement, adapter: Target, found: Sequence[Mapping[str, Any]], touched: Sequence[Touched]
) -> Judgement:
    """The judgement, in which no effect is absent that the target may have forgotten: it is `unknowable`.

    `found` are the effects' rows in the store, `touched` what each touches, both in the order of the verdicts.
    """
    if not isinstance(adapter, Forgetful):
        return judgement
    verdicts = tuple(
        _doubted(adapter, verdict, row["intent_at"], one)
        for verdict, row, one in zip(judgement.verdicts, found, touched, strict=True)
    )
    return replace(judgement, verdicts=verdicts)


def _doubted(adapter: Forgetful, verdict: Verdict, intent_at: dt.datetime, touched: Touched) -> Verdict:
    if verdict.verdict not in ("not_applied", "partial"):
        return verdict
    resources = {search.resource for search in touched.searches} | {key.resource for key in touched.writes}
    for resource in sorted(resources):
        since = adapter.remembers_since(resource)
        if since is not None and since > intent_at - _CLOCKS_APART:
            reason = f"{resource} tells nothing from before {since:%Y-%m-%d %H:%M}Z, and the effect may be older"
            return replace(verdict, verdict="unknowable", reason=reason)
    return verdict
