"""How many effects, and how long things take: short in the suite, as in a production in `make soak`."""

import os
from dataclasses import dataclass

SHOPS = 5


@dataclass(frozen=True)
class Plan:
    """Effects at each shop, and seconds.

    `settle`: the targets' settle window; a late write lands in the first half of it. `accept`: by when a queue
    applies what it took. `trouble`: how long credentials are revoked, and then targets busy. `spool`: how long an agent
    has no brokers. `lost_after`: when a silent agent is waited for no more. `replica_lag`: of the replica that is read.
    """

    effects: int
    settle: float
    accept: float
    trouble: float
    spool: float
    lost_after: int
    sweep_every: float
    replica_lag: int

    @property
    def few(self) -> int:
        """How many each shop has of what is costly to cause."""
        return max(2, self.effects // 100)

    @property
    def patience(self) -> float:
        """Until everything must be closed."""
        return 300 + self.lost_after + self.accept + self.effects * 0.5


_ALL = int(os.environ.get("COUNTERFOIL_TEST_FAULT_EFFECTS", "0"))
IS_LONG = _ALL > 0
PLAN = (
    Plan(
        effects=_ALL // SHOPS, settle=30, accept=240, trouble=120, spool=600, lost_after=900, sweep_every=30,
        replica_lag=10,
    )
    if IS_LONG
    else Plan(effects=100, settle=20, accept=30, trouble=6, spool=20, lost_after=90, sweep_every=3, replica_lag=3)
)  # fmt: skip
