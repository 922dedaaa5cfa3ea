"""The proxy does what it says, on a real broker: clients stay behind it, and each trouble happens to the request it was meant for."""

import time
import uuid
from collections.abc import Iterator

import proxy
import pytest
from committed import visible
from confluent_kafka import KafkaException, Producer
from confluent_kafka.admin import AdminClient, NewTopic
from integration_harness import until
from proxy import Proxy, Trouble

from orderflow.connectors.box.box import Servers

pytestmark = [pytest.mark.box, pytest.mark.chaos]


@pytest.fixture(scope="module")
def topic(box: Servers) -> str:
    name = f"proxy-{uuid.uuid4().hex[:8]}"
    admin = AdminClient({"bootstrap.servers": box.bootstrap, "log_level": 0})
    admin.create_topics([NewTopic(name, 1)])[name].result(20)
    return name


@pytest.fixture
def between(box: Servers) -> Iterator[Proxy]:
    host, _, port = box.bootstrap.rpartition(":")
    with Proxy(host, int(port)) as running:
        yield running


def producer(between: Proxy, **more: object) -> Producer:
    mine = {"bootstrap.servers": between.address, "transactional.id": f"proxy-{uuid.uuid4().hex[:8]}", "log_level": 0}
    made = Producer({**mine, "transaction.timeout.ms": 10_000, **more})
    made.init_transactions(20)
    return made


def test_a_client_that_begins_at_the_proxy_stays_there(box: Servers, between: Proxy, topic: str) -> None:
    mine = producer(between)
    known = mine.list_topics(timeout=10).brokers
    assert [f"{broker.host}:{broker.port}" for broker in known.values()] == [between.address]
    mine.begin_transaction()
    mine.produce(topic, b"stays")
    mine.commit_transaction(20)
    went = {seen.api for seen in between.seen}
    assert {proxy.PRODUCE, proxy.INIT_PRODUCER_ID, proxy.ADD_PARTITIONS_TO_TXN, proxy.END_TXN} <= went
    assert visible(box, topic)[-1] == b"stays"


def test_the_same_request_is_lost_and_the_next_one_is_not(box: Servers, between: Proxy, topic: str) -> None:
    mine = producer(between, **{"socket.timeout.ms": 1000})
    between.arm(Trouble(proxy.END_TXN, "lose the request", skip=1))
    for value in (b"first", b"second"):
        mine.begin_transaction()
        mine.produce(topic, value)
        mine.commit_transaction(30)
    assert [seen.happened for seen in between.seen if seen.api == proxy.END_TXN][:2] == ["", "lose the request"]
    assert visible(box, topic)[-2:] == [b"first", b"second"]


@pytest.mark.parametrize("kind", ["lose the answer", "forward and cut"])
def test_an_answer_is_lost_after_the_broker_did_what_was_asked(box: Servers, between: Proxy, topic: str, kind: proxy.Kind) -> None:
    mine = producer(between)
    value = kind.encode()
    mine.begin_transaction()
    mine.produce(topic, value)
    assert mine.flush(20) == 0
    between.arm(Trouble(proxy.END_TXN, kind))
    commit(mine, 2.0)
    until(lambda: visible(box, topic)[-1:] == [value], "the broker did what was asked")
    assert len(between.happened()) == 1


def test_a_held_request_reaches_the_broker_after_its_client_has_gone(box: Servers, between: Proxy, topic: str) -> None:
    mine = producer(between, **{"transaction.timeout.ms": 60_000})
    mine.begin_transaction()
    mine.produce(topic, b"held")
    assert mine.flush(20) == 0
    between.arm(Trouble(proxy.END_TXN, "hold and cut", seconds=60.0, until=(proxy.INIT_PRODUCER_ID, 1)))
    for _ in range(50):  # what librdkafka sends in its place is lost, so that only the held one can commit
        between.arm(Trouble(proxy.END_TXN, "lose and cut"))
    commit(mine, 0.5)
    assert visible(box, topic)[-1:] != [b"held"]
    del mine
    producer(between)  # its first request is what the held one waits for
    until(lambda: visible(box, topic)[-1:] == [b"held"], "the held request has arrived")
    assert [api for _, api in between.arrived] == [proxy.END_TXN]


def test_a_request_is_held_while_its_client_waits(box: Servers, between: Proxy, topic: str) -> None:
    mine = producer(between)
    between.arm(Trouble(proxy.PRODUCE, "hold", seconds=1.0))
    mine.begin_transaction()
    began = time.monotonic()
    mine.produce(topic, b"late")
    mine.commit_transaction(20)
    assert between.arrived[0][0] - began > 0.5
    assert visible(box, topic)[-1] == b"late"


def commit(mine: Producer, seconds: float) -> None:
    """Whatever comes of it."""
    try:
        mine.commit_transaction(seconds)
    except KafkaException:
        pass
