"""What the reconciler says of effects when it looks at a target now, without a store."""

from collections.abc import Iterable, Sequence

from counterfoil import RecorderSettings
from counterfoil.redaction import Redaction
from counterfoil_reconcilers.contracts import Contracts
from counterfoil_reconcilers.disclosure import Disclosure
from counterfoil_reconcilers.judge import judge
from counterfoil_reconcilers.looking import Looker
from counterfoil_reconcilers.rows import Effect, Row, RowKey, Rows
from counterfoil_reconcilers.sweeping import chunks
from counterfoil_reconcilers.targets.port import Target


class Before:
    """Rows as they were before, all of them at hand."""

    def __init__(self, rows: Rows) -> None:
        self.rows = rows

    def load(self, keys: Iterable[RowKey]) -> Sequence[Row | None]:
        """Nothing is to be loaded."""
        del keys
        return ()


def all_rows(contracts: Contracts, name: str, target: Target, tenant: str) -> Rows:
    """Every row of the tenant at the target."""
    declared = contracts.targets[name]
    rows = {
        key: row
        for one in declared.resources
        for some in chunks(target, declared, one, tenant)
        for key, row in some.items()
    }
    return Rows(rows, frozenset(declared.resources))


def verdicts(
    contracts: Contracts, name: str, target: Target, effects: Sequence[Effect], before: Rows | None = None
) -> list[str]:
    """The verdicts on effects of one tenant, as the target stands now."""
    known = before or Rows()
    disclosure = Disclosure(Redaction(RecorderSettings(identity_key="k" * 32)).of_task(effects[0].tenant, name))
    looker = Looker(target, contracts, contracts.targets[name], disclosure, Before(known), lambda: None)
    seen, touched = looker.look(effects)
    judged = judge(contracts, name, seen, known, looker.rows, disclosure, touched)
    return [verdict.verdict for verdict in judged.verdicts]
