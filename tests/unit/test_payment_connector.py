"""The connector's own choices that need no Kafka: when a record is sent again, what of a partition is done."""

import asyncio

import pytest
from confluent_kafka import KafkaError, KafkaException

from orderflow.connectors.payments.connector import Request, Share, _passes
from orderflow.streams.domain.parts import Money
from orderflow.streams.domain.payment_records import PaymentRequested

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


async def test_a_task_that_failed_ends_the_process_and_no_request_is_given_up_in_silence() -> None:
    async def fails() -> None:
        raise LookupError("a bug")

    share = Share(0, 0)
    task = share.tasks["a"] = asyncio.create_task(fails())
    share.insist()
    await asyncio.wait([task])
    with pytest.raises(LookupError):
        share.insist()
