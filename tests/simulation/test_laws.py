"""One suite of laws for the log, held by a real Kafka and by the simulated one. Where they differ: docs/proof.md."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from confluent_kafka import IsolationLevel, KafkaError, KafkaException, TopicPartition
from confluent_kafka.admin import OffsetSpec

from orderflow.streams.transaction import outcome
from simulation.ports import RealPort, SimPort

Port = Any
COMMITTED = {"isolation_level": "read_committed", "enable_partition_eof": True, "auto_offset_reset": "error", "group_id": "law-reader"}


@pytest.fixture(params=["simulated", pytest.param("real", marks=pytest.mark.box)])
def port(request: pytest.FixtureRequest) -> Iterator[Port]:
    made = SimPort() if request.param == "simulated" else RealPort(request.getfixturevalue("box").bootstrap)
    yield made
    made.close()


def transactional(port: Port, name: str, **config: Any) -> Any:
    producer = port.producer(transactional_id=name, **config)
    producer.init_transactions(30)
    return producer


def write(producer: Any, topic: str, *values: bytes, key: bytes = b"k") -> None:
    """Written to the log, not only to the producer's queue."""
    for value in values:
        producer.produce(topic, value, key, 0)
    producer.flush(10)


def read(port: Port, topic: str, **config: Any) -> tuple[list[Any], int]:
    """What a read_committed reader sees now, and the offset of the end it is told of."""
    consumer = port.consumer(**{**COMMITTED, **config})
    consumer.assign([TopicPartition(topic, 0, 0)])
    found: list[Any] = []
    end: list[int] = []

    def done() -> bool:
        for message in consumer.consume(100, 0.1):
            error = message.error()
            if error is None:
                found.append(message)
            elif error.code() == KafkaError._PARTITION_EOF:
                end.append(message.offset())
            else:
                raise KafkaException(error)
        return bool(end)

    assert port.wait(done, 10), "no end of the partition"
    consumer.close()
    return found, end[-1]


def ends(port: Port, topic: str) -> tuple[int, int]:
    """(last stable offset, high watermark)."""
    tp = TopicPartition(topic, 0)
    found = []
    for level in (IsolationLevel.READ_COMMITTED, IsolationLevel.READ_UNCOMMITTED):
        future = port.admin().list_offsets({tp: OffsetSpec.latest()}, isolation_level=level)[tp]
        found.append(future.result().offset)
    return found[0], found[1]


def values(messages: list[Any]) -> list[bytes]:
    return [message.value() for message in messages]


def test_a_reader_sees_a_transaction_whole_and_only_after_its_commit(port: Port) -> None:
    topic = port.topic()
    producer = transactional(port, f"{topic}-t")
    producer.begin_transaction()
    write(producer, topic, b"a", b"b")
    assert values(read(port, topic)[0]) == []
    producer.commit_transaction(10)
    port.wait(lambda: len(read(port, topic)[0]) == 2, 5)
    messages, _ = read(port, topic)
    assert values(messages) == [b"a", b"b"]
    assert [message.offset() for message in messages] == [0, 1]


def test_nobody_sees_what_was_aborted_and_its_offsets_are_gone(port: Port) -> None:
    topic = port.topic()
    producer = transactional(port, f"{topic}-t")
    producer.begin_transaction()
    write(producer, topic, b"never")
    producer.abort_transaction(10)
    producer.begin_transaction()
    write(producer, topic, b"seen")
    producer.commit_transaction(10)
    port.wait(lambda: len(read(port, topic)[0]) == 1, 5)
    messages, end = read(port, topic)
    assert [(message.value(), message.offset()) for message in messages] == [(b"seen", 2)]
    assert end == 4, "two records and two markers"


def test_the_end_a_reader_is_told_of_is_past_the_markers(port: Port) -> None:
    topic = port.topic()
    producer = transactional(port, f"{topic}-t")
    producer.begin_transaction()
    write(producer, topic, b"a")
    producer.commit_transaction(10)
    port.wait(lambda: ends(port, topic) == (2, 2), 5)
    assert read(port, topic)[1] == 2


def test_a_reader_that_is_assigned_a_partition_again_is_told_its_end_again(port: Port) -> None:
    topic = port.topic()
    write(port.producer(), topic, b"a")
    consumer = port.consumer(**COMMITTED)
    told: list[Any] = []
    for offset in (0, 1, 0):
        consumer.assign([TopicPartition(topic, 0, offset)])
        told.clear()
        assert port.wait(lambda: bool(told.extend(consumer.consume(100, 0.1)) or told and told[-1].error()), 10)
        assert [message.offset() for message in told] == [*range(offset, 1), 1]


def test_an_open_transaction_holds_back_everything_behind_it(port: Port) -> None:
    topic = port.topic()
    producer, plain = transactional(port, f"{topic}-t"), port.producer()
    write(plain, topic, b"before")
    producer.begin_transaction()
    write(producer, topic, b"open")
    write(plain, topic, b"behind")
    assert values(read(port, topic)[0]) == [b"before"]
    assert read(port, topic)[1] == 1
    assert ends(port, topic) == (1, 3)
    producer.abort_transaction(10)
    port.wait(lambda: len(read(port, topic)[0]) == 2, 5)
    assert values(read(port, topic)[0]) == [b"before", b"behind"]


def test_a_new_instance_ends_what_the_old_one_left_open_and_fences_it(port: Port) -> None:
    topic = port.topic()
    old = transactional(port, f"{topic}-t")
    old.begin_transaction()
    write(old, topic, b"left open")
    new = transactional(port, f"{topic}-t")
    port.wait(lambda: ends(port, topic)[0] == 2, 5)
    assert ends(port, topic) == (2, 2)
    with pytest.raises(KafkaException) as raised:
        old.commit_transaction(10)
    assert raised.value.args[0].fatal()
    assert outcome("commit", raised.value.args[0]) == "exit"
    new.begin_transaction()
    write(new, topic, b"new")
    new.commit_transaction(10)
    port.wait(lambda: len(read(port, topic)[0]) == 1, 5)
    assert values(read(port, topic)[0]) == [b"new"]


def test_a_transaction_past_its_timeout_is_aborted_and_cannot_be_committed(port: Port) -> None:
    topic = port.topic()
    producer = transactional(port, f"{topic}-t", transaction_timeout_ms=1500)
    producer.begin_transaction()
    write(producer, topic, b"slow")
    assert port.wait(lambda: ends(port, topic)[0] == 2, 30)
    with pytest.raises(KafkaException) as raised:
        producer.commit_transaction(10)
    assert outcome("commit", raised.value.args[0]) in ("exit", "abort")
    assert values(read(port, topic)[0]) == []


def member(
    port: Port, group: str, topic: str, name: str, told: Callable[[int, Callable[[], None]], None] = lambda count, subscribe: None
) -> tuple[Any, list[TopicPartition]]:
    """A consumer in a group and what it owns. `told` is called with the number of partitions that come, and how to subscribe again."""
    consumer = port.consumer(
        group_id=group,
        client_id=name,
        session_timeout_ms=30_000,
        isolation_level="read_committed",
        auto_offset_reset="earliest",
        partition_assignment_strategy="cooperative-sticky",
    )
    owned: list[TopicPartition] = []

    def assigned(_: Any, partitions: list[TopicPartition]) -> None:
        told(len(partitions), subscribe)
        consumer.incremental_assign(partitions)
        owned.extend(partitions)

    def revoked(_: Any, partitions: list[TopicPartition]) -> None:
        consumer.incremental_unassign(partitions)
        for partition in partitions:
            owned.remove(next(each for each in owned if each.partition == partition.partition))

    def subscribe() -> None:
        consumer.subscribe([topic], on_assign=assigned, on_revoke=revoked, on_lost=revoked)

    subscribe()
    return consumer, owned


def test_offsets_of_a_past_generation_are_refused_and_abort_the_transaction(port: Port) -> None:
    topic, group = port.topic(partitions=2), port.group()
    first, mine = member(port, group, topic, "one")
    assert port.wait(lambda: first.poll(0.1) is None and len(mine) == 2, 20)
    before = first.consumer_group_metadata()
    second, yours = member(port, group, topic, "two")
    assert port.wait(lambda: (first.poll(0.1), second.poll(0.1)) and len(mine) == len(yours) == 1, 30)
    producer = transactional(port, f"{topic}-t")
    producer.begin_transaction()
    write(producer, topic, b"zombie")
    with pytest.raises(KafkaException) as raised:
        producer.send_offsets_to_transaction([TopicPartition(topic, 0, 1)], before, 10)
    assert raised.value.args[0].name() == "ILLEGAL_GENERATION"
    assert outcome("send_offsets", raised.value.args[0]) == "abort"
    producer.abort_transaction(10)
    producer.begin_transaction()
    write(producer, topic, b"member")
    producer.send_offsets_to_transaction([TopicPartition(topic, 0, 1)], first.consumer_group_metadata(), 10)
    producer.commit_transaction(10)
    port.wait(lambda: len(read(port, topic)[0]) == 1, 5)
    assert values(read(port, topic)[0]) == [b"member"]


def test_a_member_is_told_of_every_generation_also_when_nothing_comes(port: Port) -> None:
    topic, group = port.topic(), port.group()
    came: dict[str, list[int]] = {"one": [], "two": []}
    first, mine = member(port, group, topic, "one", lambda count, _: came["one"].append(count))
    assert port.wait(lambda: first.poll(0.1) is None and len(mine) == 1, 20)
    second, yours = member(port, group, topic, "two", lambda count, _: came["two"].append(count))
    assert port.wait(lambda: (first.poll(0.1), second.poll(0.1)) and len(came["one"]) > 1 and bool(came["two"]), 30)
    assert (came["one"][:2], came["two"][:1], yours) == ([1, 0], [0], [])


def test_a_member_that_subscribes_again_while_it_is_told_that_nothing_comes_makes_another_generation(port: Port) -> None:
    topic, group = port.topic(), port.group()
    names: list[str] = []

    def again(count: int, subscribe: Callable[[], None]) -> None:
        names.append(second.memberid())
        if len(names) == 1:
            subscribe()

    first, mine = member(port, group, topic, "one")
    assert port.wait(lambda: first.poll(0.1) is None and len(mine) == 1, 20)
    second, _ = member(port, group, topic, "two", again)
    assert port.wait(lambda: (first.poll(0.1), second.poll(0.1)) and len(names) > 1, 30)
    assert names[0] and len(set(names)) == 1, "it stays the member that it was"


def test_offsets_of_a_consumer_that_is_joining_are_refused(port: Port) -> None:
    topic, group = port.topic(), port.group()
    joined, mine = member(port, group, topic, "one")
    assert port.wait(lambda: joined.poll(0.1) is None and len(mine) == 1, 20)
    stranger, _ = member(port, group, topic, "two")
    assert port.wait(lambda: bool(stranger.memberid()), 10)
    producer = transactional(port, f"{topic}-t")
    producer.begin_transaction()
    write(producer, topic, b"early")
    with pytest.raises(KafkaException) as raised:
        producer.send_offsets_to_transaction([TopicPartition(topic, 0, 1)], stranger.consumer_group_metadata(), 10)
    assert outcome("send_offsets", raised.value.args[0]) == "abort"


def test_offsets_of_nobody_are_let_in(port: Port) -> None:
    """Why a worker must commit with the metadata of a member: without one no generation fences it."""
    topic, group = port.topic(), port.group()
    joined, mine = member(port, group, topic, "one")
    assert port.wait(lambda: joined.poll(0.1) is None and len(mine) == 1, 20)
    nobody = port.consumer(group_id=group)
    producer = transactional(port, f"{topic}-t")
    producer.begin_transaction()
    write(producer, topic, b"let in")
    producer.send_offsets_to_transaction([TopicPartition(topic, 0, 1)], nobody.consumer_group_metadata(), 10)
    producer.commit_transaction(10)
    port.wait(lambda: len(read(port, topic)[0]) == 1, 5)
    assert values(read(port, topic)[0]) == [b"let in"]


def test_records_of_a_partition_keep_their_order_and_their_append_time(port: Port) -> None:
    topic = port.topic()
    producer = transactional(port, f"{topic}-t")
    sent = [b"%d" % number for number in range(200)]
    for start in range(0, 200, 50):
        producer.begin_transaction()
        write(producer, topic, *sent[start : start + 50])
        producer.commit_transaction(10)
    port.wait(lambda: len(read(port, topic)[0]) == 200, 5)
    messages, _ = read(port, topic)
    assert values(messages) == sent
    offsets, stamps = [message.offset() for message in messages], [message.timestamp() for message in messages]
    assert offsets == sorted(set(offsets))
    assert {kind for kind, _ in stamps} == {2}, "log append time"
    assert [at for _, at in stamps] == sorted(at for _, at in stamps)


def test_compaction_keeps_the_last_record_of_each_key_at_its_offset(port: Port) -> None:
    topic = port.topic(cleanup_policy="compact", segment_ms="100", min_cleanable_dirty_ratio="0.01")
    producer = transactional(port, f"{topic}-t")
    for number in range(6):
        producer.begin_transaction()
        write(producer, topic, b"a%d" % number, key=b"a")
        write(producer, topic, b"b%d" % number, key=b"b")
        producer.commit_transaction(10)
    port.wait(lambda: bool(read(port, topic)[0]) and values(read(port, topic)[0])[-1] == b"b5", 5)
    port.compact(topic)
    messages, end = read(port, topic)
    last = {message.key(): (message.value(), message.offset()) for message in messages}
    assert last == {b"a": (b"a5", 15), b"b": (b"b5", 16)}
    assert end == 18


def test_a_position_outside_the_log_is_an_error_not_a_guess(port: Port) -> None:
    topic = port.topic()
    write(port.producer(), topic, b"only")
    consumer = port.consumer(**COMMITTED)
    consumer.assign([TopicPartition(topic, 0, 7)])
    seen: list[int] = []
    assert port.wait(lambda: seen.extend(m.error().code() for m in consumer.consume(10, 0.1) if m.error()) or bool(seen), 15)
    consumer.close()
    assert seen[0] == KafkaError._AUTO_OFFSET_RESET
