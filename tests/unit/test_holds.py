"""Holds: reasons why an order may not go on, each placed and released by itself (domain.md 2.2; slots D74, D76)."""

import pytest
from domain_harness import NOW, Log, seconds
from domain_orders import answer, confirmed, in_status, item, placed
from domain_payments import CURRENCY, asked, authorized, priced, reserved, said, told

from orderflow.schemas import catalog
from orderflow.streams.domain import holds, sourcing
from orderflow.streams.domain.contract import Settle
from orderflow.streams.domain.order_records import (
    CancelOrder,
    FulfillmentCreated,
    LineQuantity,
    OrderHoldPlaced,
    OrderHoldReleased,
    OrderStatusChanged,
    PlaceHold,
    PostFulfillmentStatus,
    ReleaseHold,
)
from orderflow.streams.domain.parts import Money, Qty
from orderflow.streams.domain.payment_records import CapturePayment, PaymentCaptured, PaymentRequested, WebhookRecorded
from orderflow.streams.domain.reasons import Reason

HOLD, RELEASE = PlaceHold("MANUAL", "call the customer"), ReleaseHold("MANUAL")


def label(log: Log) -> tuple[str, str]:
    """The precise status and the word for people."""
    shown = log.snapshot("order")
    return str(shown.status), shown.label


def pack(log: Log) -> Log:
    for word in ("picking", "picked", "packed"):
        log.when(PostFulfillmentStatus("o1", word), command_id=word)
    return log


def ship(log: Log, command_id: str = "ship") -> object:
    return log.when(PostFulfillmentStatus("o1", "shipped"), command_id=command_id)


# -- placing and releasing ------------------------------------------------------------------------------------------------------------
def test_the_list_of_holds_is_the_catalogues() -> None:
    assert catalog.VALUES["orderflow.orders.PlaceHold.hold"] == holds.HOLDS


def test_a_hold_shows_and_is_gone_when_it_is_released() -> None:
    log = confirmed()
    version = log.snapshot("order").version
    outcome = log.when(HOLD)
    assert outcome.events == [OrderHoldPlaced("MANUAL", "call the customer")] and outcome.sends == []
    assert label(log) == ("PROCESSING", "on_hold") and log.snapshot("order").holds == ("MANUAL",)
    assert log.snapshot("order").version == version + 1
    assert log.when(RELEASE).events == [OrderHoldReleased("MANUAL", "")]
    assert label(log) == ("PROCESSING", "processing") and log.snapshot("order").holds == ()


def test_holds_are_a_set_and_repeats_are_nothing() -> None:
    log = confirmed()
    for command in (HOLD, PlaceHold("FRAUD_REVIEW"), HOLD):
        log.when(command)
    assert log.snapshot("order").holds == ("MANUAL", "FRAUD_REVIEW") and len(log.named(OrderHoldPlaced)) == 2
    log.when(RELEASE)
    assert label(log)[1] == "on_hold", "one reason is left"
    assert log.when(RELEASE).events == [] and log.snapshot("order").holds == ("FRAUD_REVIEW",)


@pytest.mark.parametrize(
    ("status", "reason"),
    [
        ("PENDING", None),
        ("CONFIRMED", None),
        ("PROCESSING", None),
        ("CANCEL_PENDING", Reason.ALREADY_FINAL),
        ("REJECTED", Reason.ALREADY_FINAL),
        ("EXPIRED", Reason.ALREADY_FINAL),
        ("CANCELED", Reason.ALREADY_FINAL),
        ("SHIPPED", Reason.ALREADY_SHIPPED),
        ("DELIVERED", Reason.ALREADY_SHIPPED),
        ("COMPLETED", Reason.ALREADY_SHIPPED),
    ],
)
def test_an_order_that_goes_may_be_held(status: str, reason: Reason | None) -> None:
    outcome = in_status(status).when(PlaceHold("CAPACITY"))
    assert (outcome.refused.reason if outcome.refused else None) == reason
    assert reason is None or catalog.http_code(reason) == 409


@pytest.mark.parametrize("command", [PlaceHold("LUNCH"), ReleaseHold("LUNCH")])
def test_what_is_no_hold_is_refused_with_those_there_are(command: PlaceHold | ReleaseHold) -> None:
    refused = confirmed().when(command).refused
    assert refused.reason == Reason.SCHEMA_INVALID and refused.detail["possible"] == ", ".join(holds.HOLDS)
    assert Log("orders", "o1").when(command).refused.reason == Reason.NOT_FOUND
    assert confirmed().when(command, expected_version=99).refused.reason == Reason.VERSION_CONFLICT


# -- what a hold stops ----------------------------------------------------------------------------------------------------------------
def test_an_order_that_is_held_before_it_is_confirmed_goes_to_the_warehouse_when_it_is_released() -> None:
    log = placed()
    log.when(HOLD)
    assert label(log) == ("PENDING", "on_hold")
    outcome = log.when(answer("reserved"))
    assert outcome.settles == [Settle("place")] and label(log) == ("CONFIRMED", "on_hold"), "the buyer has their answer"
    log.when(answer("committed"))
    assert log.named(FulfillmentCreated) == []
    assert ship(log).refused.reason == Reason.HOLD_ACTIVE
    log.when(RELEASE)
    assert label(log) == ("PROCESSING", "processing") and len(log.named(FulfillmentCreated)) == 1
    pack(log)
    ship(log)
    assert label(log)[0] == "SHIPPED"


def test_a_hold_that_is_released_before_the_commit_is_answered_waits_for_it() -> None:
    log = placed()
    for command in (HOLD, answer("reserved"), RELEASE):
        log.when(command)
    assert label(log) == ("CONFIRMED", "confirmed")
    log.when(answer("committed"))
    assert label(log) == ("PROCESSING", "processing")


def test_units_that_a_held_order_loses_cancel_it_and_nothing_is_promised_without_them() -> None:
    log = placed(item(quantity=2))
    for command in (HOLD, answer("reserved", quantity=2), answer("committed", quantity=2)):
        log.when(command)
    log.when(answer("lost", quantity=1, allocations=(Qty("main", "", 1),)))
    assert label(log)[0] == "CANCEL_PENDING"
    log.when(answer("released", quantity=1))
    assert label(log) == ("CANCELED", "canceled")
    assert log.when(RELEASE).events == [OrderHoldReleased("MANUAL", "")] and log.named(FulfillmentCreated) == []


def test_a_held_order_is_picked_and_packed_and_not_handed_over() -> None:
    log = confirmed()
    log.when(HOLD)
    pack(log)
    refused = ship(log).refused
    assert refused.reason == Reason.HOLD_ACTIVE and refused.detail == {"holds": "MANUAL"} and catalog.http_code(refused.reason) == 409
    log.when(RELEASE)
    ship(log, "again")
    assert label(log)[0] == "SHIPPED"


def test_posts_that_wait_to_be_handed_over_hear_of_the_hold() -> None:
    """For their commit, for their capture, or for a post before them."""
    uncommitted = pack(confirmed(committed=False))
    assert ship(uncommitted).waits
    assert uncommitted.when(HOLD).settles == [Settle("ship", Reason.HOLD_ACTIVE)]
    uncommitted.when(answer("committed"))
    assert label(uncommitted) == ("PROCESSING", "on_hold")

    uncaptured = pack(authorized())
    assert ship(uncaptured).waits
    assert uncaptured.when(HOLD).settles == [Settle("ship", Reason.HOLD_ACTIVE)]
    uncaptured.when(said(asked(uncaptured)))
    assert label(uncaptured) == ("PROCESSING", "on_hold") and len(uncaptured.named(PaymentCaptured)) == 1
    uncaptured.when(RELEASE)
    ship(uncaptured, "again")
    assert label(uncaptured)[0] == "SHIPPED" and len(uncaptured.named(PaymentRequested)) == 2, (
        "the money is there, it is not asked for again"
    )

    early = confirmed()
    early.when(PostFulfillmentStatus("o1", "picking"), command_id="picking")
    assert ship(early).waits
    assert early.when(HOLD).settles == []
    early.when(PostFulfillmentStatus("o1", "picked"), command_id="picked")
    outcome = early.when(PostFulfillmentStatus("o1", "packed"), command_id="packed")
    assert Settle("ship", Reason.HOLD_ACTIVE) in outcome.settles and label(early) == ("PROCESSING", "on_hold")


def test_nothing_is_captured_while_an_order_is_held() -> None:
    log = authorized()
    log.when(HOLD)
    refused = log.when(CapturePayment()).refused
    assert refused.reason == Reason.HOLD_ACTIVE and refused.detail == {"holds": "MANUAL"}
    log.when(RELEASE)
    assert log.when(CapturePayment(), command_id="again").refused is None and asked(log).operation == "capture"


def test_a_held_order_is_canceled_and_its_money_goes_back() -> None:
    log = authorized()
    log.when(HOLD)
    log.when(CancelOrder("staff"), command_id="cancel")
    for command in (said(asked(log)), answer("released")):
        log.when(command)
    assert label(log) == ("CANCELED", "canceled") and log.rows.payment.ledger.voided == 1000


def test_the_payment_window_runs_on_under_a_hold() -> None:
    log = reserved()
    log.when(HOLD)
    (timer,) = log.timers()
    log.when(timer)
    assert label(log) == ("EXPIRED", "expired")


# -- holds that the rules place -------------------------------------------------------------------------------------------------------
def test_a_declined_capture_holds_the_order_for_people() -> None:
    log = pack(authorized())
    ship(log)
    outcome = log.when(said(asked(log), "declined", code="expired_card"))
    assert outcome.settles == [Settle("ship", Reason.PAYMENT_DECLINED)]
    assert log.named(OrderHoldPlaced) == [OrderHoldPlaced(holds.PAYMENT, "expired_card")]
    assert ship(log, "again").refused.reason == Reason.HOLD_ACTIVE
    log.when(ReleaseHold(holds.PAYMENT, "another card"))
    assert ship(log, "once more").waits and asked(log).operation_no == 3


@pytest.mark.parametrize("says", [said, told])
@pytest.mark.parametrize(
    ("amount", "reason"), [(Money(999, CURRENCY), Reason.AMOUNT_MISMATCH), (Money(1000, "USD"), Reason.CURRENCY_MISMATCH)]
)
def test_an_answer_about_other_money_is_not_believed_and_holds_the_order(says: object, amount: Money, reason: Reason) -> None:
    log = reserved()
    log.when(says(asked(log), amount=amount))  # type: ignore[operator]  # one of two makers of commands
    assert log.named(OrderHoldPlaced) == [OrderHoldPlaced(holds.PAYMENT, reason)] and label(log) == ("PENDING", "on_hold")
    log.when(says(asked(log), amount=amount), command_id="again")  # type: ignore[operator]
    assert len(log.named(OrderHoldPlaced)) == 1
    log.when(said(asked(log)))
    assert label(log) == ("CONFIRMED", "on_hold"), "the right answer confirms, people decide whether it goes"


def test_a_mismatch_of_an_order_that_has_ended_is_recorded_only() -> None:
    log = authorized()
    log.when(CancelOrder("staff"), command_id="cancel")
    log.when(told(asked(log), amount=Money(1, CURRENCY)))
    assert len(log.named(WebhookRecorded)) == 1 and log.named(OrderHoldPlaced) == []


def until(valid_until: int, quantity: int = 1) -> Log:
    """A paid order whose authorization ends then."""
    log = reserved(priced(quantity=quantity))
    log.when(said(asked(log), valid_until=valid_until))
    log.when(answer("committed", quantity=quantity))
    return log


@pytest.mark.parametrize(("valid_s", "after_s"), [(7 * 86_400, 6 * 86_400), (36 * 3600, 18 * 3600), (60, 30)])
def test_a_day_before_its_authorization_ends_an_order_is_held_once(valid_s: int, after_s: int) -> None:
    """Or after half of its time, where that is later."""
    log = until(NOW + seconds(valid_s))
    (timer,) = log.timers()
    assert (timer.kind, timer.due_at) == (sourcing.AUTHORIZATION_EXPIRING, NOW + seconds(after_s))
    assert log.when(timer).events == [OrderHoldPlaced(holds.PAYMENT_EXPIRING, "")]
    assert label(log) == ("PROCESSING", "on_hold") and list(log.timers()) == []
    log.when(ReleaseHold(holds.PAYMENT_EXPIRING, "it ships today"))
    assert list(log.timers()) == [], "people know"
    pack(log)
    assert ship(log).waits
    log.when(said(asked(log)))
    assert label(log)[0] == "SHIPPED"


def test_what_is_captured_or_gone_is_about_to_end_no_more() -> None:
    captured = until(NOW + seconds(90_000), quantity=2)
    captured.when(CapturePayment(Money(500, CURRENCY)), command_id="part")
    captured.when(said(asked(captured)))
    assert [timer.kind for timer in captured.timers()] == [sourcing.AUTHORIZATION_EXPIRING], "1500 are still to be captured"
    captured.when(CapturePayment(), command_id="rest")
    captured.when(said(asked(captured), "declined"))
    assert [timer.kind for timer in captured.timers()] == [sourcing.AUTHORIZATION_EXPIRING]
    captured.when(ReleaseHold(holds.PAYMENT))
    captured.when(CapturePayment(), command_id="rest again")
    captured.when(said(asked(captured)))
    assert list(captured.timers()) == []

    canceled = until(NOW + seconds(90_000))
    canceled.when(CancelOrder("staff"), command_id="cancel")
    assert list(canceled.timers()) == []


def test_a_part_that_has_left_does_not_free_the_rest() -> None:
    log = placed(item(quantity=2), item("2", "B"))
    for outcome in ("reserved", "committed"):
        log.when(answer(outcome, quantity=2))
        log.when(answer(outcome, "B", location_id="north"))
    for word in ("picking", "picked", "packed", "shipped"):
        log.when(PostFulfillmentStatus("o1~F1", word), command_id=word)
    log.when(HOLD)
    assert label(log) == ("PROCESSING", "on_hold")
    for word in ("picking", "picked", "packed"):
        log.when(PostFulfillmentStatus("o1~F2", word), command_id=f"2 {word}")
    refused = log.when(PostFulfillmentStatus("o1~F2", "shipped", None, (LineQuantity("2", 1),)), command_id="2 shipped").refused
    assert refused.reason == Reason.HOLD_ACTIVE
    assert [event.new_status for event in log.named(OrderStatusChanged)][-1] == "PROCESSING"
