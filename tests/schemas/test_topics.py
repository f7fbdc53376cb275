"""topics.toml: what cannot be changed later is held here."""

import pytest

from counterfoil_schemas import topics


def test_the_topics_and_their_names() -> None:
    assert {short: topic.name for short, topic in topics("production").items()} == {
        "events": "counterfoil.events",
        "dead_letters": "counterfoil.dead-letters",
        "redrive": "counterfoil.redrive",
        "control": "counterfoil.control",
    }


def test_a_prefix_stands_before_every_name() -> None:
    assert all(topic.name.startswith("blue.counterfoil.") for topic in topics("local", "blue.").values())


@pytest.mark.parametrize("profile", ["local", "production"])
def test_order_hangs_on_24_partitions(profile: str) -> None:
    assert topics(profile)["events"].partitions == 24


@pytest.mark.parametrize(("profile", "replicas", "in_sync"), [("local", 1, "1"), ("production", 3, "2")])
def test_profiles_differ_in_replication_alone(profile: str, replicas: int, in_sync: str) -> None:
    for topic in topics(profile).values():
        assert topic.replication_factor == replicas
        assert topic.config["min.insync.replicas"] == in_sync
        rest = {name: value for name, value in topic.config.items() if name != "min.insync.replicas"}
        other = topics("local")[next(s for s, t in topics(profile).items() if t.name == topic.name)].config
        assert rest == {name: value for name, value in other.items() if name != "min.insync.replicas"}


def test_the_broker_s_clock_and_no_unclean_election_everywhere() -> None:
    for topic in topics("production").values():
        assert topic.config["message.timestamp.type"] == "LogAppendTime"
        assert topic.config["unclean.leader.election.enable"] == "false"


def test_policies() -> None:
    declared = topics("production")
    assert {short: topic.config["cleanup.policy"] for short, topic in declared.items()} == {
        "events": "delete",
        "dead_letters": "delete",
        "redrive": "delete",
        "control": "compact",
    }
    limits = {short: int(topic.config["max.message.bytes"]) for short, topic in declared.items()}
    assert limits["dead_letters"] > limits["events"]


def test_an_unknown_profile_is_refused() -> None:
    with pytest.raises(KeyError):
        topics("staging")
