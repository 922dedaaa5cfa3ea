"""The connector's own choices that need no Kafka: when a record is sent again, what of a partition is done."""

import asyncio

import pytest
from confluent_kafka import KafkaError, KafkaException

from orderflow.connectors.payments.breaker import CLOSED
from orderflow.connectors.payments.connector import Connector, Request, Share, _passes
from orderflow.connectors.payments.port import Operation, Outcome
from orderflow.connectors.payments.settings import PaymentSettings
from orderflow.schemas.catalog import Catalog
from orderflow.streams.domain.parts import Money
from orderflow.streams.domain.payment_records import PaymentRequested
from orderflow.streams.records import Records

RECORDS = Records(Catalog(), {subject.name: number for number, subject in enumerate(Catalog().subjects(), 1)})
EVENT = PaymentRequested("o1~A1", "authorize", 1, "o1~A1:authorize:1", "local", "card", Money(1, "EUR"))


def request(offset: int) -> Request:
    return Request(offset, "main", "", "o1", "", "orders:o1:3", (), EVENT)


def test_a_record_is_sent_again_unless_the_producer_failed_for_good() -> None:
    assert _passes(BufferError()) and _passes(KafkaException(KafkaError(KafkaError._MSG_TIMED_OUT)))
    assert not _passes(KafkaException(KafkaError(KafkaError._FATAL, "failed", True)))
    assert not _passes(ValueError())


def test_a_partition_is_done_up_to_its_oldest_open_request() -> None:
    share = Share(10, 4)
    assert share.done == 4
    share.position = 20
    share.open = {"a": request(12), "b": request(7)}
    assert share.done == 7
    share.open = {}
    assert share.done == 20


def test_connectors_of_two_providers_do_not_share_partitions() -> None:
    """In one group each would have half of the partitions, and pass over the other's requests there for ever."""
    groups = [Connector(PaymentSettings(), RECORDS, Hangs(), name).group for name in ("local", "stripe", "local")]
    assert groups == ["orderflow-payments-local", "orderflow-payments-stripe", "orderflow-payments-local"]


class Hangs:
    """A provider that takes every call and answers none."""

    def __init__(self) -> None:
        self.called = asyncio.Event()

    async def start(self) -> None: ...
    async def close(self) -> None: ...

    async def perform(self, operation: Operation) -> Outcome:
        self.called.set()
        await asyncio.Event().wait()
        raise AssertionError("never")


async def test_calls_that_a_webhook_overtakes_open_no_breaker() -> None:
    provider = Hangs()
    connector = Connector(PaymentSettings(), RECORDS, provider, "local")
    for _ in range(40):
        provider.called.clear()
        call = asyncio.create_task(connector._call(request(1)))
        await provider.called.wait()
        call.cancel()
        await asyncio.wait([call])
    assert connector.breaker.state == CLOSED
    assert (
        connector.meters.registry.get_sample_value("orderflow_provider_calls_total", {"operation": "authorize", "result": "withdrawn"})
        == 40
    )


async def test_a_task_that_failed_ends_the_process_and_no_request_is_given_up_in_silence() -> None:
    async def fails() -> None:
        raise LookupError("a bug")

    share = Share(0, 0)
    task = share.tasks["a"] = asyncio.create_task(fails())
    share.insist()
    await asyncio.wait([task])
    with pytest.raises(LookupError):
        share.insist()
