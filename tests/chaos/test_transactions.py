"""F10 to F16 on a real broker: a transaction whose requests are lost or late is whole or absent, and the control shows that it is no luck."""

import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import network_faults
import proxy
import pytest
from committed import visible
from confluent_kafka import Consumer, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic
from integration_harness import until
from proxy import Proxy, Trouble

from orderflow.connectors.box.box import Servers
from orderflow.streams.transaction import COMMIT_TIMEOUT_S, Aborted, Fatal, Transaction

pytestmark = [pytest.mark.box, pytest.mark.chaos]

Rounds = Callable[[int], int]
LATE = Trouble(proxy.END_TXN, "hold and cut", seconds=20.0, until=(proxy.PRODUCE, 1))
"""The commit reaches the broker when the first half of the next transaction is there."""


@pytest.fixture
def topic(box: Servers) -> str:
    name = f"torn-{uuid.uuid4().hex[:8]}"
    admin = AdminClient({"bootstrap.servers": box.bootstrap, "log_level": 0})
    admin.create_topics([NewTopic(name, 1)])[name].result(20)
    return name


@pytest.fixture
def between(box: Servers) -> Iterator[Proxy]:
    host, _, port = box.bootstrap.rpartition(":")
    with Proxy(host, int(port)) as running:
        yield running


@pytest.fixture
def reader(box: Servers) -> Iterator[Consumer]:
    """A consumer whose group's metadata goes with the offsets."""
    consumer = Consumer({"bootstrap.servers": box.bootstrap, "group.id": f"torn-{uuid.uuid4().hex[:8]}", "log_level": 0})
    yield consumer
    consumer.close()


def test_the_client_library_alone_lets_a_late_commit_tear_the_next_transaction(box: Servers, between: Proxy, topic: str) -> None:
    """Why the fence is there. When this fails, librdkafka has learnt KIP-890, and the fence may go."""
    mine = Producer({"bootstrap.servers": between.address, "transactional.id": topic, "log_level": 0})
    mine.init_transactions(20)
    mine.begin_transaction()
    mine.produce(topic, b"first")
    between.arm(LATE)
    mine.commit_transaction(20)  # no error: the library has sent it again by itself
    mine.begin_transaction()
    mine.produce(topic, b"second, one half")
    mine.flush(20)
    until(lambda: visible(box, topic) == [b"first", b"second, one half"], "the late commit has shown half of a transaction")
    mine.produce(topic, b"second, other half")
    with pytest.raises(KafkaException):
        mine.commit_transaction(20)
    assert visible(box, topic) == [b"first", b"second, one half"], "a torn transaction"


def test_a_worker_ends_before_a_late_commit_can_meet_its_next_transaction(
    box: Servers, between: Proxy, topic: str, reader: Consumer
) -> None:
    mine = Transaction({"bootstrap.servers": between.address}, topic, 10_000)
    mine.start()
    mine.begin()
    mine.send(topic, b"first", b"key")
    between.arm(LATE)
    with pytest.raises(Fatal, match="may still be under way"):
        mine.commit([TopicPartition(topic, 0, 1)], reader.consumer_group_metadata())

    successor = Transaction({"bootstrap.servers": between.address}, topic, 10_000)
    successor.start()
    successor.begin()
    successor.send(topic, b"second, one half", b"key")
    successor._producer.flush(20)
    until(lambda: bool(between.arrived), "the late commit has arrived")
    successor.send(topic, b"second, other half", b"key")
    assert visible(box, topic) == [b"first"], "the new epoch is not moved by the old commit"
    successor.commit([TopicPartition(topic, 0, 1)], reader.consumer_group_metadata())
    assert visible(box, topic) == [b"first", b"second, one half", b"second, other half"]


def test_a_worker_ends_before_a_late_abort_can_meet_its_next_transaction(box: Servers, between: Proxy, topic: str) -> None:
    mine = Transaction({"bootstrap.servers": between.address}, topic, 10_000)
    mine.start()
    mine.begin()
    mine.send(topic, b"first", b"key")
    mine._producer.flush(20)
    between.arm(LATE)
    with pytest.raises(Fatal, match="may still be under way"):
        mine.abort()


def test_a_worker_ends_when_its_commit_was_given_up_and_sent_again(box: Servers, between: Proxy, topic: str, reader: Consumer) -> None:
    """librdkafka gives a request up after `transaction.timeout.ms` and sends another, on the connection it has."""
    mine = Transaction({"bootstrap.servers": between.address}, topic, 5_000)
    mine.start()
    mine.begin()
    mine.send(topic, b"first", b"key")
    between.arm(Trouble(proxy.END_TXN, "hold", seconds=8.0))
    with pytest.raises(Fatal):
        mine.commit([TopicPartition(topic, 0, 1)], reader.consumer_group_metadata())


def test_a_commit_that_nothing_happens_to_is_no_reason_to_end(box: Servers, between: Proxy, topic: str, reader: Consumer) -> None:
    mine = Transaction({"bootstrap.servers": between.address}, topic, 10_000)
    mine.start()
    for number in range(20):
        mine.begin()
        mine.send(topic, str(number).encode(), b"key")
        mine.commit([TopicPartition(topic, 0, number)], reader.consumer_group_metadata())
    assert len(visible(box, topic)) == 20


def test_after_refused_offsets_the_next_transaction_is_committed(box: Servers, topic: str, reader: Consumer) -> None:
    """As in a rebalance, in which the group moves on between a poll and a commit."""
    gone = Consumer({"bootstrap.servers": box.bootstrap, "group.id": f"gone-{topic}", "log_level": 0})
    gone.subscribe([topic])
    until(lambda: gone.poll(0.1) is None and bool(gone.assignment()), "the group has given the partition to its only member")
    refused = gone.consumer_group_metadata()
    gone.close()
    wide, admin = f"wide-{topic}", AdminClient({"bootstrap.servers": box.bootstrap, "log_level": 0})
    admin.create_topics([NewTopic(wide, 12)])[wide].result(20)
    mine = Transaction({"bootstrap.servers": box.bootstrap}, wide, 10_000)
    mine.start()
    for number in range(100):
        mine.begin()
        for record in range(60):
            mine.send(wide, b"refused", b"key", record % 12)
        time.sleep(number % 12 / 2000)  # the requests are sent after 5 ms, beside the offsets
        with pytest.raises(Aborted, match="UNKNOWN_MEMBER_ID"):
            mine.commit([TopicPartition(topic, 0, number)], refused)
        mine.abort()
        mine.begin()
        for partition in range(12):
            mine.send(wide, str(number).encode(), b"key", partition)
        mine.commit([TopicPartition(topic, 0, number)], reader.consumer_group_metadata())
    assert visible(box, wide) == [str(number).encode() for number in range(100)]


def test_a_commit_ends_in_its_time_when_the_records_connection_broke(box: Servers, between: Proxy, topic: str, reader: Consumer) -> None:
    """librdkafka 2.16 with `metadata.recovery.strategy=rebootstrap`, its default, never comes back from send_offsets here."""
    mine = Transaction({"bootstrap.servers": between.address}, topic, 60_000)
    mine.start()

    def commit() -> None:
        for number in range(2):
            mine.begin()
            between.arm(Trouble(proxy.PRODUCE, "forward and cut"))
            mine.send(topic, str(number).encode(), b"key")
            mine.poll()
            mine.commit([TopicPartition(topic, 0, number)], reader.consumer_group_metadata())

    thread = threading.Thread(target=commit, daemon=True)
    thread.start()
    thread.join(2 * COMMIT_TIMEOUT_S)  # two commits, each of which has its bound
    assert not thread.is_alive(), "the worker would hang"
    assert visible(box, topic) == [b"0", b"1"]


@pytest.mark.slow
@pytest.mark.timeout(0)
def test_workers_behind_a_bad_network_tear_and_show_nothing(box: Servers, tmp_path: Path, rounds: Rounds, seed: int) -> None:
    """Every kind of fault F10 to F16 once; --chaos-rounds gives each so many."""
    names = list(network_faults.KINDS)
    done = network_faults.behind_proxy(box, tmp_path, names=names, rounds=rounds(1) * len(names), seed=seed)
    assert done.verdict.problems == []
    assert done.exits, "no fault ended a worker: the proxy is not in the way"


@pytest.mark.slow
@pytest.mark.timeout(0)
def test_without_the_fence_the_same_judge_fails_within_five_rounds(box: Servers, tmp_path: Path, seed: int) -> None:
    names = ["F11 late commit in the middle of the next"]
    done = network_faults.behind_proxy(box, tmp_path, names=names, rounds=5, seed=seed, build="unfenced", patience_s=60.0, settle_s=5.0)
    assert [problem for problem in done.verdict.problems if problem.startswith(("I1 ", "I2 ", "I3 ", "I4 ", "I9 ", "I11 ", "I12 ", "I14 "))]
