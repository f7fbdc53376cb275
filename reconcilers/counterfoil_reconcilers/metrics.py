"""Every metric of the reconciler, declared once with its meaning and unit."""

from prometheus_client import Counter, Gauge, Histogram

EFFECTS = Gauge(
    "counterfoil_effects",
    "Live effects by the verdict in force (settling: none yet; uncovered: no target).",
    ["tenant", "target", "verdict"],
)
DRIFT = Gauge(
    "counterfoil_drift",
    "Effects and changes in drift now that nobody resolved; acknowledged (yes, no): whether somebody has seen them.",
    ["tenant", "target", "verdict", "acknowledged"],
)
OLDEST_UNRESOLVED = Gauge(
    "counterfoil_oldest_unresolved_effect_seconds", "Age of the oldest effect without a verdict.", ["target"]
)
PASSES = Counter("counterfoil_reconcile_passes_total", "Passes over one target, by result.", ["target", "result"])
PASS_SECONDS = Histogram("counterfoil_reconcile_pass_seconds", "Seconds that a pass over one target took.")
LAST_PASS = Gauge("counterfoil_reconcile_last_pass_timestamp_seconds", "When the last good pass ended.", ["target"])
UNAVAILABLE = Counter("counterfoil_target_unavailable_total", "Reads that a target did not answer.", ["target"])
GIVEN_UP = Counter("counterfoil_given_up_effects_total", "Effects given up because their drift persisted.", ["target"])
