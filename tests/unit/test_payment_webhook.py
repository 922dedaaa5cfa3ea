"""What a provider's webhook does to an order's money: nothing twice, nothing of another operation, nothing that was not asked."""

from typing import Any

import pytest
from domain_harness import Log
from domain_payments import CURRENCY, PREPAID, asked, authorized, priced, reserved, said, told

from orderflow.streams.domain.contract import Refused
from orderflow.streams.domain.order_records import CancelOrder, OrderStatus, PostFulfillmentStatus
from orderflow.streams.domain.parts import Money
from orderflow.streams.domain.payment_records import (
    CapturePayment,
    PaymentAuthorized,
    PaymentCaptured,
    PaymentFailed,
    PaymentVoided,
    RecordWebhook,
    WebhookRecorded,
)
from orderflow.streams.domain.reasons import Reason


def moved(log: Log) -> list[bool]:
    return [event.moved for event in log.named(WebhookRecorded)]


def test_a_webhook_before_the_providers_own_answer_confirms_the_order_and_the_answer_changes_nothing() -> None:
    log = reserved()
    request = asked(log)
    log.when(told(request, valid_until=9))
    assert log.rows.order.status is OrderStatus.PROCESSING and moved(log) == [True]
    (event,) = log.named(PaymentAuthorized)
    assert (event.valid_until, event.provider_ref, event.totals.authorized) == (9, "ref-1", request.amount.amount_minor)
    before = log.rows
    log.when(said(request))
    assert log.rows == before


def test_a_webhook_after_the_answer_is_recorded_and_changes_no_row() -> None:
    log = reserved()
    request = asked(log)
    log.when(said(request))
    before = log.rows
    log.when(told(request))
    assert moved(log) == [False] and log.rows == before and len(log.named(PaymentAuthorized)) == 1


def test_a_decline_by_webhook_ends_the_order() -> None:
    log = reserved()
    log.when(told(asked(log), "declined", code="lost_card"))
    assert log.named(PaymentFailed)[0].code == "lost_card" and log.rows.order.reason == Reason.PAYMENT_DECLINED


def test_a_decline_after_a_yes_is_recorded_only() -> None:
    log = authorized()
    request = asked(log)
    log.when(told(request, "declined"))
    assert moved(log) == [False] and log.named(PaymentFailed) == []


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"amount": Money(1, CURRENCY)}, Reason.AMOUNT_MISMATCH),
        ({"amount": Money(1000, "USD")}, Reason.CURRENCY_MISMATCH),
        ({"amount": None}, Reason.AMOUNT_MISMATCH),
    ],
)
def test_money_that_was_not_asked_is_recorded_refused_and_moves_nothing(change: dict[str, Any], reason: Reason) -> None:
    log = reserved()
    log.when(told(asked(log), **change))
    assert (
        [event.reason for event in log.named(Refused)] == [reason]
        and moved(log) == [False]
        and log.rows.order.status is OrderStatus.PENDING
    )


@pytest.mark.parametrize(
    "change",
    [
        {"idempotency_key": "o1~A1:authorize:2"},
        {"idempotency_key": "o2~A1:authorize:1"},
        {"idempotency_key": ""},
        {"outcome": ""},
        {"operation": "", "outcome": ""},
        {"provider": "stripe"},
    ],
)
def test_what_does_not_name_the_operation_under_way_is_recorded_only(change: dict[str, Any]) -> None:
    log = reserved()
    request = asked(log)
    values = {name: getattr(told(request), name) for name in RecordWebhook.__struct_fields__}
    log.when(RecordWebhook(**{**values, **change}))
    assert moved(log) == [False] and log.rows.order.status is OrderStatus.PENDING


def test_the_webhook_of_a_capture_does_not_confirm_the_next_equal_one() -> None:
    log = authorized(priced(quantity=2))
    log.when(CapturePayment(Money(500, CURRENCY)), command_id="one")
    first = asked(log)
    log.when(said(first))
    log.when(CapturePayment(Money(500, CURRENCY)), command_id="two")
    log.when(told(first))
    assert moved(log) == [False] and log.rows.payment.ledger.captured_pending == 500
    log.when(told(asked(log)))
    assert log.rows.payment.ledger.captured == 1000 and len(log.named(PaymentCaptured)) == 2


def test_a_void_without_a_key_is_known_by_its_payment() -> None:
    log = authorized()
    log.when(CancelOrder("staff"), command_id="cancel")
    request = asked(log)
    assert request.operation == "void"
    log.when(told(request, idempotency_key="", provider_ref="ref-2"))
    assert log.named(PaymentVoided) == []
    log.when(told(request, idempotency_key=""))
    assert len(log.named(PaymentVoided)) == 1 and moved(log) == [False, True]


def test_a_capture_that_is_declined_by_webhook_refuses_the_post_that_waits() -> None:
    log = authorized()
    for status in ("picking", "picked", "packed"):
        log.when(PostFulfillmentStatus("o1", status), command_id=status)
    assert log.when(PostFulfillmentStatus("o1", "shipped"), command_id="ship").waits
    outcome = log.when(told(asked(log), "declined"))
    assert [(settle.command_id, settle.reason) for settle in outcome.settles] == [("ship", Reason.PAYMENT_DECLINED)]


def test_a_webhook_of_no_payment_is_refused_with_what_it_said() -> None:
    log = Log("orders", "stripe-pi_1", channel=PREPAID)
    event = log.when(RecordWebhook("stripe", "evt_1", "charge.dispute.created", provider_ref="pi_1")).refused
    assert event.reason == Reason.UNKNOWN_REFERENCE
    assert event.detail == {"provider": "stripe", "event": "evt_1", "kind": "charge.dispute.created", "reference": "pi_1"}


def test_a_word_that_this_version_does_not_know_is_parked() -> None:
    log = reserved()
    with pytest.raises(ValueError, match="chargeback"):
        log.when(told(asked(log), operation="chargeback"))
