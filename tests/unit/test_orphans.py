"""What a member makes of the group's description: which partitions nobody owns, and whose turn it is to join anew."""

from types import SimpleNamespace as Thing
from typing import Any

import pytest
from confluent_kafka import ConsumerGroupState, KafkaError, KafkaException, TopicPartition

from orderflow.streams.orphans import OrphanWatch

EVERYTHING = [("orders", 0), ("orders", 1), ("stock", 0), ("stock", 1)]


class Admin:
    """Knows one group: client id -> (topic, partition) of each member, and its state."""

    def __init__(self, owners: dict[str, list[tuple[str, int]]], state: ConsumerGroupState = ConsumerGroupState.STABLE) -> None:
        members = [
            Thing(client_id=name, assignment=Thing(topic_partitions=[TopicPartition(*each) for each in owned]))
            for name, owned in owners.items()
        ]
        self._described = Thing(state=state, members=members)

    def describe_consumer_groups(self, names: list[str], request_timeout: float) -> dict[str, Any]:
        return {name: self for name in names}

    def result(self) -> Any:
        return self._described


def look(admin: Any, instance: str = "b") -> tuple[frozenset[tuple[str, int]] | None, int]:
    return OrphanWatch("group", instance, EVERYTHING, lambda: admin).look(admin)


def test_each_partition_has_an_owner() -> None:
    assert look(Admin({"a": EVERYTHING[:2], "b": EVERYTHING[2:]})) == (frozenset(), 1)


def test_what_no_member_has_is_an_orphan() -> None:
    assert look(Admin({"b": EVERYTHING[:1], "c": [("stock", 0)]})) == ({("orders", 1), ("stock", 1)}, 0)


@pytest.mark.parametrize("state", [state for state in ConsumerGroupState if state is not ConsumerGroupState.STABLE])
def test_while_the_group_moves_partitions_nothing_is_said(state: ConsumerGroupState) -> None:
    assert look(Admin({"b": []}, state)) == (None, 0)


def test_who_is_no_member_itself_says_nothing() -> None:
    assert look(Admin({"a": []})) == (None, 0)


def test_a_broker_that_does_not_answer_says_nothing() -> None:
    class Away:
        def describe_consumer_groups(self, names: list[str], request_timeout: float) -> dict[str, Any]:
            raise KafkaException(KafkaError(KafkaError._TIMED_OUT))

    assert look(Away()) == (None, 0)
