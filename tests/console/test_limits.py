"""A token's budget: so many at once, so many a second, and nobody's but its own."""

from counterfoil_console.http import limits
from counterfoil_console.http.limits import Buckets


def test_a_bucket_empties_and_fills() -> None:
    buckets = Buckets(2, depth_seconds=3)
    assert [buckets.take("a", 0.0) for _ in range(7)] == [None] * 6 + [1]
    assert buckets.take("b", 0.0) is None
    assert buckets.take("a", 0.5) is None
    assert buckets.take("a", 0.5) == 1
    assert [buckets.take("a", 1000.0) for _ in range(7)].count(None) == 6  # no fuller than full


def test_a_slow_one_says_how_long_to_wait_and_asking_costs_nothing() -> None:
    buckets = Buckets(0.1, depth_seconds=1)
    assert buckets.take("a", 0.0) is None
    assert [buckets.take("a", at) for at in (0.0, 1.0, 9.5)] == [10, 9, 1]
    assert buckets.take("a", 10.0) is None


def test_the_longest_unused_are_forgotten() -> None:
    buckets = Buckets(0.001, depth_seconds=1)
    for number in range(limits._MOST_KEYS + 1):
        assert buckets.take(str(number), 0.0) is None
    assert buckets.take("0", 0.0) is None  # forgotten, and so full again
    assert buckets.take(str(limits._MOST_KEYS), 0.0) is not None
