"""Disputes: the bank of a buyer keeps captured money, and the order neither refunds it twice nor sends what has not left (slot D105)."""

from typing import Any

import pytest
from domain_fulfillment import ship
from domain_harness import NOW, Log, Seeded, World
from domain_orders import answer
from domain_payments import CURRENCY, PREPAID, Bank, asked, authorized, net, place, priced, said
from hypothesis import example, given, settings
from hypothesis import strategies as st

from orderflow.streams.domain import sagas
from orderflow.streams.domain.contract import Refused
from orderflow.streams.domain.order_records import CancelOrder, OrderHoldPlaced, OrderStatus, PostFulfillmentStatus, RecordDelivery
from orderflow.streams.domain.parts import Money
from orderflow.streams.domain.payment_records import (
    CapturePayment,
    DisputeClosed,
    DisputeOpened,
    PaymentRequested,
    RecordWebhook,
    RefundPayment,
    WebhookRecorded,
)
from orderflow.streams.domain.reasons import Reason

S = OrderStatus


def says(outcome: str, amount: int | None = 1000, name: str = "dp_1", currency: str = CURRENCY, **more: Any) -> RecordWebhook:
    """What the provider says of a dispute."""
    money = None if amount is None else Money(amount, currency)
    return RecordWebhook(
        "local", f"evt {name} {outcome}", f"dispute.{outcome}", operation="dispute", outcome=outcome, amount=money, provider_ref="ref-1",
        dispute_ref=name, **more,
    )  # fmt: skip


def shipped(*lines: Any) -> Log:
    """An order of 1000 that has left and is paid."""
    log = authorized(*lines)
    ship(log)
    log.when(said(asked(log)))
    assert log.rows.order.status is S.SHIPPED
    return log


def counters(log: Log) -> tuple[int, int, int, int]:
    ledger = log.rows.payment.ledger
    return ledger.captured, ledger.refunded, ledger.disputed, ledger.disputed_pending


def test_an_open_dispute_is_shown_and_freezes_refunds() -> None:
    log = shipped()
    log.when(says("opened", code="fraudulent"), command_id="w1")
    assert counters(log) == (1000, 0, 0, 1000)
    shown = log.snapshot("payment")
    assert shown.label == "disputed" and log.snapshot("order").financial_status == "disputed"
    assert [(each.dispute_ref, each.outcome, each.amount.amount_minor, each.code) for each in shown.disputes] == [
        ("dp_1", "opened", 1000, "fraudulent")
    ]
    refused = log.when(RefundPayment(), command_id="refund").refused
    assert (refused.reason, refused.detail) == (Reason.DISPUTE_OPEN, {"disputed": "1000"})


def test_one_that_is_won_gives_the_money_back_to_us() -> None:
    log = shipped()
    log.when(says("opened"), command_id="w1")
    log.when(says("won"), command_id="w2")
    assert counters(log) == (1000, 0, 0, 0) and log.snapshot("payment").label == "captured"
    log.when(RefundPayment(Money(300, CURRENCY)), command_id="refund")
    assert asked(log).operation == "refund"


def test_one_that_is_lost_is_money_that_went_back() -> None:
    log = shipped()
    log.when(says("opened"), command_id="w1")
    log.when(says("lost", 400), command_id="w2")
    assert counters(log) == (1000, 0, 400, 0) and log.snapshot("payment").label == "partially_refunded"
    refused = log.when(RefundPayment(Money(601, CURRENCY)), command_id="refund").refused
    assert (refused.reason, refused.detail) == (Reason.REFUND_EXCEEDS_CAPTURED, {"asked": "601", "possible": "600"})


def test_a_dispute_that_was_refunded_before_costs_twice_and_is_said_so() -> None:
    log = shipped()
    log.when(RefundPayment(), command_id="refund")
    log.when(said(asked(log)))
    log.when(says("opened"), command_id="w1")
    log.when(says("lost"), command_id="w2")
    assert counters(log) == (1000, 1000, 1000, 0) and log.snapshot("payment").label == "refunded" and net(log) == 0


def test_a_decision_that_is_heard_first_opens_and_closes_it_and_what_comes_after_is_recorded_only() -> None:
    log = shipped()
    log.when(says("lost"), command_id="w2")
    assert [type(event) for event in log.named(DisputeOpened, DisputeClosed)] == [DisputeOpened, DisputeClosed]
    before = log.rows
    for command_id, outcome in (("w1", "opened"), ("w3", "won"), ("w4", "")):
        log.when(says(outcome), command_id=command_id)
    assert log.rows == before and len(log.named(WebhookRecorded)) == 4


def test_two_disputes_are_counted_each() -> None:
    log = shipped(priced(quantity=2, price=500))
    log.when(says("opened", 500, "dp_1"), command_id="w1")
    log.when(says("opened", 500, "dp_2"), command_id="w2")
    log.when(says("won", 500, "dp_1"), command_id="w3")
    assert counters(log) == (1000, 0, 0, 500) and log.snapshot("payment").label == "disputed"
    log.when(says("lost", 500, "dp_2"), command_id="w4")
    assert counters(log) == (1000, 0, 500, 0)


def test_goods_that_have_not_left_stay_until_people_have_looked() -> None:
    log = authorized()
    log.when(CapturePayment(), command_id="capture")
    log.when(said(asked(log)))
    log.when(says("opened", code="fraudulent"), command_id="w1")
    assert log.named(OrderHoldPlaced) == [OrderHoldPlaced("PAYMENT", "fraudulent")]
    for status in ("picking", "picked", "packed"):
        log.when(PostFulfillmentStatus("o1", status), command_id=status)
    assert log.when(PostFulfillmentStatus("o1", "shipped"), command_id="ship").refused.reason == Reason.HOLD_ACTIVE


@pytest.mark.parametrize(("outcome", "refunded"), [("won", 1000), ("lost", 0)])
def test_an_order_that_is_canceled_meanwhile_gives_back_what_is_ours_once_it_is_decided(outcome: str, refunded: int) -> None:
    log = authorized()
    log.when(CapturePayment(), command_id="capture")
    log.when(said(asked(log)))
    log.when(says("opened"), command_id="w1")
    log.when(CancelOrder("staff"), command_id="cancel")
    requests = len(log.named(PaymentRequested))
    for row in list(log.rows.stock_answer.values()):
        log.when(answer("released", row.sku, row.quantity))
    assert log.rows.order.status is S.CANCELED and len(log.named(PaymentRequested)) == requests, "nothing is refunded meanwhile"
    log.when(says(outcome), command_id="w2")
    if refunded:
        assert asked(log).operation == "refund" and asked(log).amount.amount_minor == refunded
        log.when(said(asked(log)))
    assert log.rows.payment.ledger.refunded == refunded and net(log) == 0


def test_a_refund_that_waited_for_the_dispute_and_is_declined_is_for_people() -> None:
    log = authorized()
    log.when(CapturePayment(), command_id="capture")
    log.when(said(asked(log)))
    log.when(says("opened"), command_id="w1")
    log.when(CancelOrder("staff"), command_id="cancel")
    for row in list(log.rows.stock_answer.values()):
        log.when(answer("released", row.sku, row.quantity))
    log.when(says("won"), command_id="w2")
    log.when(said(asked(log), "declined"))
    (saga,) = sagas.sagas(log.rows)
    assert (saga.waits_for, saga.compensating) == (("people",), True) and log.rows.order.status is S.CANCELED
    log.when(RefundPayment(), command_id="again")
    log.when(said(asked(log)))
    assert sagas.sagas(log.rows) == () and net(log) == 0


def test_a_delivered_order_completes_when_its_dispute_is_decided_and_not_before() -> None:
    log = shipped()
    log.when(RecordDelivery("", "", NOW), command_id="delivery")
    assert [timer.kind for timer in log.timers()] == ["auto_complete"]
    (timer,) = log.timers()
    log.when(says("opened"), command_id="w1")
    assert list(log.timers()) == []
    assert log.when(timer).events == [], "it was outdated"
    log.when(says("won"), command_id="w2")
    (timer,) = log.timers()
    log.when(timer)
    assert log.rows.order.status is S.COMPLETED


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"currency": "USD"}, Reason.CURRENCY_MISMATCH),
        ({"amount": None}, Reason.AMOUNT_MISMATCH),
        ({"amount": 0}, Reason.AMOUNT_MISMATCH),
    ],
)
def test_one_about_other_money_is_recorded_refused_and_holds_the_order(change: dict[str, Any], reason: Reason) -> None:
    log = authorized()
    log.when(says("opened", **change), command_id="w1")
    assert [event.reason for event in log.named(Refused)] == [reason] and log.rows.payment.disputes == ()
    assert log.rows.order.held_by == "PAYMENT"


def test_a_word_that_this_version_does_not_know_is_parked() -> None:
    with pytest.raises(ValueError, match="escalated"):
        shipped().when(says("escalated"), command_id="w1")


@given(st.integers(0, 2**32))
@example(711)
@settings(max_examples=80, deadline=None)
def test_whatever_interleaves_nobody_is_given_money_twice_by_us(seed: int) -> None:
    """Captures, cancels, refunds and disputes of one order in any order: what we refund never exceeds what we still have then."""
    random = Seeded(seed)
    world = World(random, channel=PREPAID)
    world.repeat = 0.2
    world.stock("A", 3)
    bank = Bank(world, random, 0.1)
    world.send("orders", "o1", place(priced("1", "A", 3, 700)), "place")
    world.drain()
    order = world.log("orders", "o1")
    total = 0
    for number in range(12):
        bank.listen()
        total = bank.moved("o1", "capture")
        step = random.choice(("capture", "ship", "cancel", "refund", "open", "close", "arrive"))
        name = f"{step} {number}"
        if step == "capture":
            world.send("orders", "o1", CapturePayment(Money(random.choice((700, 2100)), CURRENCY)), name)
        elif step == "ship":
            for status in ("picking", "picked", "packed", "shipped"):
                world.send("orders", "o1", PostFulfillmentStatus("o1", status), f"{name} {status}", "warehouse")
        elif step == "cancel" and random.random() < 0.4:
            world.send("orders", "o1", CancelOrder("staff"), name)
        elif step == "refund":
            world.send("orders", "o1", RefundPayment(Money(700, CURRENCY)), name)
        elif step in ("open", "close") and total:
            word = "opened" if step == "open" else random.choice(("won", "lost"))
            world.send("orders", "o1", says(word, random.choice((700, total)), f"dp_{random.randrange(2)}"), name)
        if random.random() < 0.6:
            world.drain()
    for number in (0, 1):
        world.send("orders", "o1", says(random.choice(("won", "lost")), 700, f"dp_{number}"), f"end {number}")
    for _ in range(20):
        bank.listen()
        world.drain()
    ledger = order.rows.payment.ledger
    assert ledger.disputed_pending == 0
    assert ledger.captured == bank.moved("o1", "capture") and ledger.refunded == bank.moved("o1", "refund")
    for at, (event, _) in enumerate(order.events):
        if isinstance(event, PaymentRequested) and event.operation == "refund":
            before = [each.totals for each, _ in order.events[:at] if hasattr(each, "totals") and hasattr(each, "payment_id")][-1]
            assert before.disputed_pending == 0 and event.amount.amount_minor <= before.captured - before.refunded - before.disputed
