"""Before a restore: who had the partition last, and who of them is fenced. Against a small fake of Kafka; the real one is in tests/chaos."""

from collections.abc import Mapping
from typing import Any

import pytest
from confluent_kafka import KafkaError, KafkaException, TopicPartition
from msgspec import Struct

from orderflow.streams.engine import Engine
from orderflow.streams.membership import FENCE_DEADLINE_S, FENCE_PAUSE_S
from orderflow.streams.partitions import EngineSettings
from orderflow.tables.catchup import Meta, RestoreError, Wanted
from orderflow.tables.takeover import TAIL_RECORDS, last_metas, unfinished
from orderflow.tables.world import World

ME, DEAD, LIVE = "shop-me", "shop-dead", "shop-live"
LATER = KafkaError(KafkaError.COORDINATOR_LOAD_IN_PROGRESS, "not now")


class Told(Struct):
    """A done future, a member, an offset: what an answer of the admin client needs to have."""

    client_id: str = ""
    offset: int = 0
    members: list[Any] = []

    def result(self) -> Any:
        return self


class Record(Struct):
    of: TopicPartition
    data: bytes | None = None
    failure: KafkaError | None = None

    def topic(self) -> str:
        return str(self.of.topic)

    def partition(self) -> int:
        return int(self.of.partition)

    def value(self) -> bytes | None:
        return self.data

    def error(self) -> KafkaError | None:
        return self.failure


class Kafka:
    """Meta topics (None is a control record), one group, the ids that were fenced; `refusals` answers fail first."""

    def __init__(self, *members: str, refusals: int = 0, **metas: list[bytes | None]) -> None:
        self.members, self.refusals, self.metas = members, refusals, metas
        self.fenced: list[str] = []
        self.assigned: list[dict[str, int]] = []
        self.clock = 0.0
        self._told: list[Record] = []

    # admin
    def list_offsets(self, wanted: Mapping[TopicPartition, Any], **options: Any) -> dict[TopicPartition, Told]:
        return {tp: Told(offset=len(self.metas[tp.topic])) for tp in wanted}

    def describe_consumer_groups(self, names: list[str], **options: Any) -> dict[str, Told]:
        if self.refusals:
            self.refusals -= 1
            raise KafkaException(LATER)
        return {name: Told(members=[Told(client_id=member) for member in self.members]) for name in names}

    # consumer
    def assign(self, partitions: list[TopicPartition]) -> None:
        self.assigned.append({tp.topic: tp.offset for tp in partitions})
        self._told = [Record(tp, value) for tp in partitions for value in self.metas[tp.topic][tp.offset :] if value is not None]
        self._told += [Record(tp, failure=KafkaError(KafkaError._PARTITION_EOF)) for tp in partitions]

    def consume(self, most: int, timeout: float) -> list[Record]:
        told, self._told = self._told, []
        self.clock += timeout
        return told

    def producer(self, config: Mapping[str, Any]) -> "Producer":
        return Producer(self, config["transactional.id"])

    def pass_time(self, seconds: float) -> None:
        self.clock += seconds

    @property
    def world(self) -> World:
        return World(
            consumer=lambda config: self,
            producer=self.producer,
            admin=lambda config: self,
            monotonic=lambda: self.clock,
            sleep=self.pass_time,
            thread=lambda name, function: None,
        )


class Producer:
    def __init__(self, kafka: Kafka, transactional_id: str) -> None:
        self._kafka, self._id = kafka, transactional_id

    def init_transactions(self, timeout: float) -> None:
        self._kafka.fenced.append(self._id)


def wanted(*topics: str) -> list[Wanted]:
    return [Wanted("stock", number, 1, "commands", (), topic, read_meta) for number, topic in enumerate(topics)]


def read_meta(data: bytes) -> Meta:
    owner, digest = data.decode().split()
    return Meta(1, 1, owner, int(digest))


def metas(kafka: Kafka, *topics: str) -> list[Meta]:
    return last_metas(kafka.world, kafka, kafka, wanted(*topics))


def fence(kafka: Kafka, *owners: str) -> list[str]:
    engine = Engine(EngineSettings("", "shop", "me"), [], None, kafka.world)  # type: ignore[arg-type]
    engine._fence_dead(set(owners))
    return kafka.fenced


# -- who had it last ----------------------------------------------------------------------------------------------------------------
def test_the_last_record_of_each_meta_topic_says_who_had_the_partition() -> None:
    kafka = Kafka(a=[b"one 0", None, b"two 0", None], b=[b"two 0", None], empty=[])
    assert {meta.owner for meta in metas(kafka, "a", "b")} == {"two"}
    assert metas(kafka, "empty") == []


def test_only_the_tail_is_read_unless_there_is_nothing_in_it() -> None:
    kafka = Kafka(a=[b"one 0"] * 900, b=[b"two 0", *[None] * 500], nothing=[None] * 300)
    assert {meta.owner for meta in metas(kafka, "a", "b", "nothing")} == {"one", "two"}
    assert kafka.assigned == [{"a": 900 - TAIL_RECORDS, "b": 501 - TAIL_RECORDS, "nothing": 300 - TAIL_RECORDS}, {"b": 0, "nothing": 0}]


def test_an_owner_that_let_go_in_order_left_nothing_open() -> None:
    kafka = Kafka(a=[b"one 0", b"one 77"], b=[b"one 77", b"two 0"])
    assert unfinished(metas(kafka, "a", "b")) == {"two"}


def test_a_restore_does_not_go_on_without_knowing_who_had_the_partition() -> None:
    kafka = Kafka(a=[b"one 0"])
    kafka.consume = lambda most, timeout: kafka.pass_time(1.0) or []  # type: ignore[method-assign,func-returns-value]
    with pytest.raises(RestoreError, match="who had the partitions before"):
        metas(kafka, "a")


# -- who is fenced ------------------------------------------------------------------------------------------------------------------
def test_an_owner_that_is_no_member_is_fenced_once_however_many_partitions_it_had() -> None:
    kafka = Kafka("me", "live", a=[b"shop-dead 0"], b=[b"shop-dead 0"])
    assert fence(kafka, *unfinished(metas(kafka, "a", "b"))) == [DEAD]


def test_a_member_and_oneself_are_never_fenced() -> None:
    assert fence(Kafka("me", "live"), LIVE, ME) == []
    assert fence(Kafka("live"), ME) == [], "its own predecessor was fenced at the start"


def test_another_worker_whose_name_only_begins_like_a_member_s_is_fenced() -> None:
    assert fence(Kafka("live-2"), LIVE) == [LIVE]


def test_an_answer_that_fails_is_asked_for_again() -> None:
    kafka = Kafka("me", refusals=3)
    assert fence(kafka, DEAD) == [DEAD]
    assert kafka.clock == 3 * FENCE_PAUSE_S


def test_a_restore_does_not_go_on_while_a_former_owner_may_still_write() -> None:
    kafka = Kafka("me", refusals=1000)
    with pytest.raises(RestoreError, match="shop-dead could not be fenced: not now; .*transactional id"):
        fence(kafka, DEAD)
    assert FENCE_DEADLINE_S < kafka.clock < FENCE_DEADLINE_S + 3 * FENCE_PAUSE_S
    assert kafka.fenced == []
