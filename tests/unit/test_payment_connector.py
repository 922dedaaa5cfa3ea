"""The connector's own choices that need no Kafka: when a record is sent again, what of a partition is done."""

import asyncio

import pytest
from confluent_kafka import KafkaError, KafkaException

from orderflow.connectors.payments.breaker import CLOSED
from orderflow.connectors.payments.connector import Connector, Request, Share, _passes
from orderflow.connectors.payments.port import ActionRequired, Operation, Outcome
from orderflow.connectors.payments.settings import PaymentSettings
from orderflow.schemas.catalog import Catalog
from orderflow.streams.domain.contract import EventMeta
from orderflow.streams.domain.parts import Money
from orderflow.streams.domain.payment_records import Ledger, PaymentActionRequired, PaymentCanceled, PaymentRequested, RecordProviderResult
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


# -- buyers who have to act -----------------------------------------------------------------------------------------------------------
class Asks:
    """A provider whose buyer acts after it was asked so often; it keeps what it was asked."""

    def __init__(self, times: int) -> None:
        self.times = times
        self.asked: list[Operation] = []

    async def start(self) -> None: ...
    async def close(self) -> None: ...

    async def perform(self, operation: Operation) -> Outcome:
        self.asked.append(operation)
        if len(self.asked) <= self.times:
            raise ActionRequired("https://bank.example/17", "pay_17")
        return Outcome(True, "pay_17", 1, "EUR")


class Telling(Connector):
    """A connector that keeps what it would send."""

    def __init__(self, provider: Asks) -> None:
        super().__init__(PaymentSettings(provider_look_s=0.001), RECORDS, provider, "local")
        self.told: list[RecordProviderResult] = []

    async def _produce(self, key: str, value: bytes, headers: tuple[tuple[str, bytes], ...]) -> None:
        _, _, command = self.orders.decode_command(value)
        self.told.append(command)


async def test_a_buyer_who_has_to_act_is_told_of_once_and_the_provider_is_asked_until_they_did() -> None:
    provider = Asks(3)
    connector, share = Telling(provider), Share(0, 0)
    share.open["k"] = request(1)
    await connector._serve(share, "k", request(1))
    assert [(said.outcome, said.action_url, said.provider_ref) for said in connector.told] == [
        ("requires_action", "https://bank.example/17", "pay_17"),
        ("succeeded", "", "pay_17"),
    ]
    assert [asked.provider_ref for asked in provider.asked] == ["", "pay_17", "pay_17", "pay_17"], "Stripe is not asked to make another"
    assert len({asked.key for asked in provider.asked}) == 1 and connector.breaker.state == CLOSED and not share.open


class Message:
    """A record of the orders' log as a consumer hands it out."""

    def __init__(self, offset: int, event: object) -> None:
        self._offset, meta = offset, EventMeta(f"orders:o1:{offset}", offset, 1, "cause")
        self._value = RECORDS.of("orders").encode_event(meta, "o1", event)
        self._headers = [("ce_type", RECORDS.of("orders").ce_type(type(event).__name__))]

    def partition(self) -> int:
        return 0

    def offset(self) -> int:
        return self._offset

    def error(self) -> None:
        return None

    def value(self) -> bytes:
        return self._value

    def headers(self) -> list[tuple[str, bytes]]:
        return self._headers


async def test_a_cancel_ends_the_request_for_its_authorization_and_the_log_alone_tells_a_new_connector() -> None:
    connector = Telling(Asks(99))
    share = connector.shares[0] = Share(10, 0)
    said = ("o1", "o1~A1", "authorize", 1, Money(1, "EUR"), Ledger(authorized_pending=1, currency="EUR"), "card", "", "pay_17", None, "")
    connector._hear(Message(1, EVENT))
    connector._hear(Message(2, PaymentActionRequired(*said, "https://bank.example/17")))
    assert share.open["o1~A1:authorize:1"].event.provider_ref == "pay_17", "it looks there, and does not begin anew"
    connector._ask(share)
    task = share.tasks["o1~A1:authorize:1"]
    cancel = PaymentRequested("o1~A1", "cancel", 2, "o1~A1:cancel:2", "local", "card", Money(1, "EUR"), "pay_17")
    connector._hear(Message(3, cancel))
    assert set(share.open) == {"o1~A1:cancel:2"} and share.done == 3
    await asyncio.wait([task])
    assert task.cancelled()
    connector._hear(Message(4, PaymentCanceled("o1", "o1~A1", "cancel", 2, Money(1, "EUR"), Ledger(currency="EUR"))))
    assert not share.open and share.done == 5
