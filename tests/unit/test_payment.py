"""The money of an order: asked once, recorded as the provider says, never kept without goods (domain.md 2.3; bugs 7, 16, 18, 26, 48-50)."""

from collections.abc import Callable
from random import Random
from typing import Any

import pytest
from domain_harness import NOW, Log, Seeded, World, seconds
from domain_orders import answer
from domain_payments import CURRENCY, PREPAID, Bank, asked, authorized, net, place, priced, reserved, said
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from orderflow.schemas.catalog import http_code
from orderflow.streams.domain import payment, payment_ledger
from orderflow.streams.domain.channel import BOX
from orderflow.streams.domain.claims import ClaimValue
from orderflow.streams.domain.contract import Settle, TimerDue
from orderflow.streams.domain.order_records import (
    CancelOrder,
    EditOrder,
    FulfillmentStatusIgnored,
    LineQuantity,
    OrderRejected,
    OrderStatus,
    PlacedLine,
    PlaceHold,
    PlaceOrder,
    PostFulfillmentStatus,
    RecordDelivery,
    ReleaseHold,
)
from orderflow.streams.domain.parts import Money, Qty
from orderflow.streams.domain.payment_records import (
    CapturePayment,
    Ledger,
    PaymentActionRequired,
    PaymentAuthorized,
    PaymentCaptured,
    PaymentFailed,
    PaymentRefunded,
    PaymentRequested,
    PaymentUnknown,
    PaymentVoided,
    RefundPayment,
    VoidPayment,
)
from orderflow.streams.domain.reasons import Reason
from orderflow.streams.domain.refusals import UnknownValue
from orderflow.streams.domain.stock_records import CommitReservation, ReleaseReservation

RESULTS = (PaymentAuthorized, PaymentCaptured, PaymentVoided, PaymentRefunded, PaymentFailed, PaymentUnknown, PaymentActionRequired)


def status(log: Log) -> str:
    return str(log.rows.order.status)


def ledger(log: Log, **counters: int) -> bool:
    return bool(log.rows.payment.ledger == Ledger(**counters, currency=CURRENCY))


def ship(log: Log, target: str = "o1", command_id: str = "ship") -> Any:
    for word in ("picking", "picked", "packed"):
        log.when(PostFulfillmentStatus(target, word), command_id=f"{target} {word}")
    return log.when(PostFulfillmentStatus(target, "shipped"), command_id=command_id)


# -- authorizing ----------------------------------------------------------------------------------------------------------------------
def test_a_prepaid_order_is_confirmed_by_its_authorization_and_not_before() -> None:
    log = reserved(priced(quantity=2), PlacedLine("s", "", 1, "shipping", Money(300, CURRENCY)))
    request = asked(log)
    assert (status(log), log.rows.order.financial_status) == ("PENDING", "pending")
    assert (request.operation, request.amount, request.idempotency_key) == ("authorize", Money(2300, CURRENCY), "o1~A1:authorize:1")
    outcome = log.when(said(request))
    assert status(log) == "PROCESSING" and log.rows.order.financial_status == "authorized"
    assert [type(send.command) for send in outcome.sends] == [ClaimValue, CommitReservation]
    assert outcome.settles == [Settle("place")]
    assert ledger(log, authorized=2300)


def test_an_order_that_costs_nothing_asks_no_provider() -> None:
    log = reserved(priced(price=0))
    assert status(log) == "PROCESSING" and log.named(PaymentRequested) == [] and log.rows.payment is None


def test_invoice_terms_ask_no_provider() -> None:
    log = Log("orders", "o1", channel=BOX)
    log.when(place(), command_id="place")
    log.when(answer("reserved"))
    assert status(log) == "PROCESSING" and log.rows.payment is None and log.rows.order.financial_status == ""


def test_a_prepaid_order_needs_prices() -> None:
    outcome = Log("orders", "o1", channel=PREPAID).when(PlaceOrder("box", lines=(PlacedLine("1", "A", 1),)))
    assert outcome.refused.reason == Reason.PRICE_MISSING


def test_a_declined_payment_gives_the_units_back_and_rejects_the_order() -> None:
    log = reserved()
    outcome = log.when(said(asked(log), "declined", code="insufficient_funds"))
    assert status(log) == "REJECTED" and log.rows.order.financial_status == "failed"
    assert [type(send.command) for send in outcome.sends] == [ReleaseReservation]
    assert outcome.settles == [Settle("place", Reason.PAYMENT_DECLINED)] and http_code(Reason.PAYMENT_DECLINED) == 402
    assert log.named(OrderRejected)[0].reason == Reason.PAYMENT_DECLINED and log.named(PaymentFailed)[0].code == "insufficient_funds"
    assert ledger(log)


def test_the_window_ends_the_wait_and_a_late_yes_goes_back() -> None:
    log = reserved()
    request = asked(log)
    (timer,) = log.timers()
    assert (timer.kind, timer.due_at) == (payment.WINDOW, request.due_at) == (payment.WINDOW, NOW + seconds(1800))
    outcome = log.when(timer)
    assert status(log) == "EXPIRED" and outcome.settles == [Settle("place", Reason.METHOD_EXPIRED)]
    assert [type(send.command) for send in outcome.sends] == [ReleaseReservation]
    log.when(said(request))
    assert status(log) == "EXPIRED" and asked(log).operation == "void"
    log.when(said(asked(log)))
    assert ledger(log, authorized=1000, voided=1000) and net(log) == 0 and log.rows.order.financial_status == "voided"


@pytest.mark.parametrize("kept_s", [400, 2000, 5000])
def test_bug_7_the_window_ends_five_minutes_before_any_reservation(kept_s: int) -> None:
    log = Log("orders", "o1", channel=PREPAID)
    asking = log.when(place(priced(), priced("2", "B")), command_id="place")
    dues = {send.command.due_at for send in asking.sends}
    assert dues == {NOW + seconds(120 + 1800 + 300)}, "the longest wait for stock, then the window, then the margin"
    log.when(answer("reserved", "A", due_at=NOW + seconds(kept_s)))
    log.when(answer("reserved", "B", due_at=NOW + seconds(9000)), at=NOW + seconds(60))
    assert asked(log).due_at == min(NOW + seconds(60 + 1800), NOW + seconds(kept_s - 300))


@pytest.mark.parametrize(
    ("named", "allowed", "method", "window_s"),
    [
        ("", (), "card", 1800),
        ("card", (), "card", 1800),
        ("", ("wallet", "card"), "wallet", 900),
        ("card", ("wallet", "card"), "card", 1800),
        ("installment", ("card", "installment"), "installment", 7200),
        ("bank_transfer", ("bank_transfer",), "bank_transfer", 86_400),
    ],
)
def test_each_method_has_its_window_and_the_units_are_kept_five_minutes_longer(
    named: str, allowed: tuple[str, ...], method: str, window_s: int
) -> None:
    """domain.md 2.3: reservation due = latest open timer + 5 min, never below the give-up time."""
    log = Log("orders", "o1", channel=replace(PREPAID, payment_methods=allowed))
    (ask,) = log.when(replace(place(), payment_method=named), command_id="place").sends
    assert ask.command.due_at == NOW + seconds(120 + window_s + 300)
    log.when(answer("reserved", due_at=ask.command.due_at), at=NOW + seconds(100))
    assert (asked(log).method, asked(log).due_at) == (method, NOW + seconds(100 + window_s)) and log.snapshot("payment").method == method
    (timer,) = log.timers()
    log.when(timer)
    assert status(log) == "EXPIRED" and log.rows.order.reason == Reason.METHOD_EXPIRED


def test_units_lost_while_the_payment_is_under_way_end_the_order_and_its_money_goes_back() -> None:
    log = reserved()
    log.when(answer("lost"))
    assert status(log) == "REJECTED" and log.rows.order.reason == Reason.INSUFFICIENT_STOCK
    log.when(said(asked(log)))
    log.when(said(asked(log)))
    assert asked(log).operation == "void" and net(log) == 0


# -- what the provider says -----------------------------------------------------------------------------------------------------------
OUTCOMES = ("requested", "succeeded", "declined", "unknown", "requires_action")


@pytest.mark.parametrize("before", OUTCOMES)
@pytest.mark.parametrize("word", payment.ANSWERS)
def test_every_pair_of_outcomes_is_taken_or_nothing(before: str, word: str) -> None:
    """All pairs of the table: what it does not allow changes nothing, not even the sequence."""
    log = reserved()
    request = asked(log)
    if before != "requested":
        log.when(said(request, before))
    count = len(log.events)
    outcome = log.when(said(request, word))
    allowed = payment.TRANSITIONS.allows(before, word)
    assert bool(outcome.events) == allowed == (len(log.events) > count)
    if allowed:
        assert type(outcome.events[0]) in RESULTS and log.rows.payment.attempts[-1].outcome == word


def test_every_state_of_an_attempt_is_reached_and_left_as_the_table_says() -> None:
    assert payment.TRANSITIONS.states == OUTCOMES and not payment.TRANSITIONS.finals
    log = reserved()
    log.when(said(asked(log), "unknown"))
    assert log.rows.order.financial_status == "pending" and ledger(log, authorized_pending=1000)
    log.when(said(asked(log)))
    assert ledger(log, authorized=1000)


@pytest.mark.parametrize(
    ("amount", "reason"),
    [
        (Money(999, CURRENCY), Reason.AMOUNT_MISMATCH),
        (Money(1000, "USD"), Reason.CURRENCY_MISMATCH),
        (None, Reason.AMOUNT_MISMATCH),
    ],
)
def test_money_that_was_not_asked_for_moves_nothing(amount: Money | None, reason: Reason) -> None:
    log = reserved()
    outcome = log.when(said(asked(log), amount=amount))
    assert outcome.refused.reason == reason and http_code(reason) == 200
    assert status(log) == "PENDING" and ledger(log, authorized_pending=1000)


def test_a_word_nobody_knows_is_set_aside() -> None:
    log = reserved()
    for request in (said(asked(log), "maybe"), replace(said(asked(log)), operation="donate")):
        with pytest.raises(UnknownValue):
            log.when(request)


def test_an_answer_about_another_attempt_is_refused_and_one_about_another_operation_is_nothing() -> None:
    log = authorized()
    assert log.when(replace(said(asked(log)), attempt_id="o1~A7")).refused.reason == Reason.NOT_FOUND
    assert Log("orders", "o9").when(said(asked(log))).refused.reason == Reason.NOT_FOUND
    for stale in (replace(said(asked(log)), operation_no=2), replace(said(asked(log)), operation="capture")):
        assert log.when(stale).events == []


def test_every_event_carries_the_counters_after_it() -> None:
    log = authorized()
    ship(log)
    log.when(said(asked(log)))
    log.when(RefundPayment(Money(1, CURRENCY)), command_id="r")
    log.when(said(asked(log)))
    assert log.named(*RESULTS)[-1].totals == log.rows.payment.ledger
    assert log.snapshot("payment").ledger == log.rows.payment.ledger


# -- handing over ---------------------------------------------------------------------------------------------------------------------
def test_goods_leave_when_their_share_is_captured() -> None:
    log = authorized(priced(quantity=2))
    outcome = ship(log)
    assert outcome.waits and status(log) == "PROCESSING" and (asked(log).operation, asked(log).amount.amount_minor) == ("capture", 2000)
    outcome = log.when(said(asked(log)))
    assert status(log) == "SHIPPED" and outcome.settles == [Settle("ship")] and log.rows.order.financial_status == "captured"
    assert ledger(log, authorized=2000, captured=2000)


def test_a_capture_that_is_declined_hands_nothing_over_and_may_be_tried_again_once_people_say_so() -> None:
    log = authorized()
    ship(log)
    first = asked(log)
    outcome = log.when(said(first, "declined", code="expired_card"))
    assert outcome.settles == [Settle("ship", Reason.PAYMENT_DECLINED)] and log.named(FulfillmentStatusIgnored)
    assert status(log) == "PROCESSING" and asked(log) is first, "it is not asked again by itself"
    log.when(ReleaseHold("PAYMENT"))
    assert log.when(PostFulfillmentStatus("o1", "shipped"), command_id="again").waits
    assert asked(log).operation_no == first.operation_no + 1
    log.when(said(asked(log)))
    assert status(log) == "SHIPPED"


def test_an_authorization_that_is_over_is_not_captured() -> None:
    log = reserved()
    log.when(said(asked(log), valid_until=NOW + seconds(60)))
    log.when(answer("committed"))
    for word in ("picking", "picked", "packed"):
        log.when(PostFulfillmentStatus("o1", word), command_id=word)
    outcome = log.when(PostFulfillmentStatus("o1", "shipped"), at=NOW + seconds(61), command_id="late")
    assert outcome.refused.reason == Reason.AUTHORIZATION_EXPIRED and asked(log).operation == "authorize"


def two_locations(*lines: PlacedLine) -> Log:
    return authorized(*lines, location_ids=("main", "north"))


def test_captures_per_shipment_are_cumulative_and_sum_to_the_total() -> None:
    """Two thirds and one third of 100: 67, then 33, never 66 + 33 or 67 + 34."""
    log = two_locations(priced("1", "A", 2, price=0), priced("2", "B", 1, price=0), PlacedLine("f", "", 1, "fee", Money(100, CURRENCY)))
    ship(log, "o1~F1", "first")
    assert asked(log).amount.amount_minor == 67
    log.when(said(asked(log)))
    assert status(log) == "PROCESSING" and log.rows.order.financial_status == "partially_captured"
    ship(log, "o1~F2", "second")
    assert asked(log).amount.amount_minor == 33
    log.when(said(asked(log)))
    assert status(log) == "SHIPPED" and ledger(log, authorized=100, captured=100)


def test_a_second_shipment_waits_for_the_capture_of_the_first_and_has_its_own() -> None:
    log = two_locations(priced("1", "A", price=10), priced("2", "B", price=30))
    ship(log, "o1~F1", "first")
    assert ship(log, "o1~F2", "second").waits and [event.operation for event in log.named(PaymentRequested)] == ["authorize", "capture"]
    outcome = log.when(said(asked(log)))
    assert outcome.settles == [Settle("first")] and asked(log).amount.amount_minor == 30 and asked(log).operation_no == 3
    outcome = log.when(said(asked(log)))
    assert outcome.settles == [Settle("second")] and status(log) == "SHIPPED" and ledger(log, authorized=40, captured=40)


def test_what_was_never_shipped_is_not_captured_and_goes_back() -> None:
    log = authorized(priced(quantity=4, price=25))
    for word in ("picking", "picked", "packed"):
        log.when(PostFulfillmentStatus("o1", word), command_id=word)
    log.when(PostFulfillmentStatus("o1", "shipped", lines=(LineQuantity("1", 3),)), command_id="ship")
    assert asked(log).amount.amount_minor == 75
    log.when(said(asked(log)))
    assert status(log) == "SHIPPED" and (asked(log).operation, asked(log).amount.amount_minor) == ("void", 25)
    log.when(said(asked(log)))
    assert ledger(log, authorized=100, captured=75, voided=25)


# -- canceling ------------------------------------------------------------------------------------------------------------------------
def asking() -> Log:
    return reserved()


def unknown() -> Log:
    log = reserved()
    log.when(said(asked(log), "unknown"))
    return log


def capturing() -> Log:
    log = authorized()
    ship(log)
    return log


def captured() -> Log:
    log = authorized()
    log.when(CapturePayment(), command_id="capture")
    log.when(said(asked(log)))
    return log


def partly_refunded() -> Log:
    log = captured()
    log.when(RefundPayment(Money(400, CURRENCY)), command_id="refund")
    log.when(said(asked(log)))
    return log


def refunding() -> Log:
    log = captured()
    log.when(RefundPayment(Money(400, CURRENCY)), command_id="refund")
    return log


SCENES: tuple[Callable[[], Log], ...] = (asking, unknown, authorized, capturing, captured, partly_refunded, refunding)


def released(log: Log) -> None:
    for row in list(log.rows.stock_answer.values()):
        if row.outcome == "releasing":
            log.when(answer("released"))


def answered(log: Log, word: str = "succeeded") -> None:
    """The provider answers everything it is asked."""
    for _ in range(10):
        if not payment.is_open(log.rows.payment):
            return
        log.when(said(asked(log), word))
    raise AssertionError("the order asks for ever")


@pytest.mark.parametrize("scene", SCENES)
@pytest.mark.parametrize("stock_first", [True, False])
def test_bug_16_a_cancel_in_each_state_of_the_payment_keeps_no_money(scene: Callable[[], Log], stock_first: bool) -> None:
    """Bug 18 is `asking` and `unknown`: the yes that comes after the cancel goes back."""
    log = scene()
    outcome = log.when(CancelOrder("staff"), command_id="cancel")
    assert status(log) == "CANCEL_PENDING" and "cancel" not in {settle.command_id for settle in outcome.settles}
    (released, answered)[not stock_first](log)
    assert status(log) == "CANCEL_PENDING"
    (answered, released)[not stock_first](log)
    assert status(log) == "CANCELED" and net(log) == 0 and log.snapshot("payment").label in ("voided", "refunded")


@pytest.mark.parametrize("scene", [asking, unknown, capturing, refunding])
def test_a_cancel_while_the_provider_declines_what_is_under_way(scene: Callable[[], Log]) -> None:
    log = scene()
    log.when(CancelOrder("staff"), command_id="cancel")
    released(log)
    log.when(said(asked(log), "declined"))
    if scene is refunding:  # a refund the provider will not do: people decide, and say so by a command
        assert status(log) == "CANCEL_PENDING" and not payment.is_open(log.rows.payment)
        log.when(RefundPayment(), command_id="again")
    answered(log)
    assert status(log) == "CANCELED" and net(log) == 0


def test_a_compensation_that_is_declined_waits_for_people() -> None:
    log = authorized()
    log.when(CancelOrder("staff"), command_id="cancel")
    released(log)
    log.when(said(asked(log), "declined"))
    assert status(log) == "CANCEL_PENDING" and not payment.is_open(log.rows.payment)
    assert log.when(VoidPayment(), command_id="void").waits
    answered(log)
    assert status(log) == "CANCELED" and net(log) == 0


def test_a_cancel_of_what_has_not_left_keeps_the_share_of_what_has() -> None:
    log = two_locations(priced("1", "A", price=10), priced("2", "B", price=30))
    ship(log, "o1~F1")
    answered(log)
    log.when(CancelOrder("staff"), command_id="cancel")
    answered(log)
    log.when(answer("released", "B"))
    log.when(answer("shipped", "A"))
    assert status(log) == "SHIPPED" and ledger(log, authorized=40, captured=10, voided=30)


# -- what people ask ------------------------------------------------------------------------------------------------------------------
EUR = CURRENCY
ASKS: list[tuple[Reason, Callable[[], Log], Any, int]] = [
    (Reason.NOT_FOUND, lambda: Log("orders", "o1"), CapturePayment(), 404),
    (Reason.CURRENCY_UNSUPPORTED, authorized, CapturePayment(Money(1, "USD")), 422),
    (Reason.AMOUNT_OUT_OF_RANGE, authorized, CapturePayment(Money(0, EUR)), 422),
    (Reason.AMOUNT_OUT_OF_RANGE, captured, RefundPayment(Money(-1, EUR)), 422),
    (Reason.ILLEGAL_TRANSITION, asking, CapturePayment(), 409),
    (Reason.ILLEGAL_TRANSITION, capturing, CapturePayment(), 409),
    (Reason.ILLEGAL_TRANSITION, authorized, VoidPayment(), 409),
    (Reason.NOT_AUTHORIZED_STATE, captured, CapturePayment(), 409),
    (Reason.NOT_AUTHORIZED_STATE, authorized, RefundPayment(), 409),
    (Reason.CAPTURE_EXCEEDS_AUTHORIZED, authorized, CapturePayment(Money(1001, EUR)), 409),
    (Reason.REFUND_EXCEEDS_CAPTURED, authorized, RefundPayment(Money(1, EUR)), 409),
    (Reason.REFUND_EXCEEDS_CAPTURED, partly_refunded, RefundPayment(Money(601, EUR)), 409),
]


@pytest.mark.parametrize(("reason", "scene", "command", "code"), ASKS)
def test_people_are_refused_with_a_reason_and_nothing_moves(reason: Reason, scene: Callable[[], Log], command: Any, code: int) -> None:
    log = scene()
    before = log.rows
    outcome = log.when(command, command_id="ask")
    assert outcome.refused.reason == reason and http_code(reason) == code
    assert log.rows == before and not outcome.waits


def test_a_capture_after_the_authorization_is_over_is_refused() -> None:
    log = reserved()
    log.when(said(asked(log), valid_until=NOW + seconds(60)))
    outcome = log.when(CapturePayment(), at=NOW + seconds(61), command_id="late")
    assert outcome.refused.reason == Reason.AUTHORIZATION_EXPIRED and http_code(Reason.AUTHORIZATION_EXPIRED) == 409


def test_people_may_refund_for_180_days_after_the_latest_capture() -> None:
    days = seconds(180 * 86_400)
    log = captured()
    late = log.when(RefundPayment(), at=log.at + days + 1, command_id="late").refused
    assert (late.reason, late.detail) == (Reason.REFUND_WINDOW_CLOSED, {"window_s": str(180 * 86_400)})
    assert http_code(Reason.REFUND_WINDOW_CLOSED) == 409
    log = captured()
    assert log.when(RefundPayment(), at=log.at + days, command_id="in time").waits


def test_an_old_version_is_refused() -> None:
    assert authorized().when(CapturePayment(), command_id="c", expected_version=1).refused.reason == Reason.VERSION_CONFLICT


def test_bug_48_two_equal_captures_are_two_charges() -> None:
    log = authorized()
    for command_id in ("one", "two"):
        assert log.when(CapturePayment(Money(300, EUR)), command_id=command_id).waits
        assert log.when(said(asked(log))).settles == [Settle(command_id)]
    keys = [event.idempotency_key for event in log.named(PaymentRequested)]
    assert keys == ["o1~A1:authorize:1", "o1~A1:capture:2", "o1~A1:capture:3"]
    assert ledger(log, authorized=1000, captured=600)


def test_who_asked_hears_that_the_provider_declined() -> None:
    log = captured()
    assert log.when(RefundPayment(Money(1, EUR)), command_id="refund").waits
    assert log.when(said(asked(log), "unknown")).settles == []
    assert log.when(said(asked(log), "declined")).settles == [Settle("refund", Reason.PAYMENT_DECLINED)]


def test_what_people_captured_beforehand_is_not_captured_again() -> None:
    log = captured()
    assert not ship(log).waits and status(log) == "SHIPPED" and ledger(log, authorized=1000, captured=1000)


@pytest.mark.parametrize("after", ["SHIPPED", "DELIVERED"])
def test_bug_26_money_after_the_goods_left_moves_the_payment_and_not_the_status(after: str) -> None:
    log = captured()
    ship(log)
    if after == "DELIVERED":
        log.when(RecordDelivery("", "", NOW), command_id="delivered")
    log.when(RefundPayment(Money(250, EUR), "goodwill"), command_id="refund")
    log.when(said(asked(log)))
    assert status(log) == after and log.rows.order.financial_status == "partially_refunded"


# -- sums -----------------------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("counters", "label"),
    [
        ({}, "failed"),
        ({"authorized_pending": 5}, "pending"),
        ({"authorized": 5}, "authorized"),
        ({"authorized": 5, "captured_pending": 5}, "authorized"),
        ({"authorized": 5, "voided": 5}, "voided"),
        ({"authorized": 5, "captured": 2}, "partially_captured"),
        ({"authorized": 5, "captured": 2, "voided": 3}, "captured"),
        ({"authorized": 5, "captured": 5}, "captured"),
        ({"authorized": 5, "captured": 5, "refunded": 2}, "partially_refunded"),
        ({"authorized": 5, "captured": 5, "refunded": 5}, "refunded"),
    ],
)
def test_the_label_is_derived_from_the_counters(counters: dict[str, int], label: str) -> None:
    assert payment_ledger.label(Ledger(**counters)) == label


@pytest.mark.parametrize(
    "counters",
    [
        {"authorized": -1},
        {"captured": 1},
        {"authorized": 5, "captured": 3, "voided": 3},
        {"authorized": 5, "captured": 3, "captured_pending": 3},
        {"authorized": 5, "captured": 5, "refunded": 6},
        {"authorized": 5, "captured": 5, "refunded": 3, "refunded_pending": 3},
    ],
)
def test_money_from_nowhere_is_a_fault(counters: dict[str, int]) -> None:
    assert payment_ledger.faults(Ledger(**counters))


@settings(max_examples=300, deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 9), st.integers(0, 10_000)), min_size=1, max_size=5),
    st.integers(0, 5_000),
    st.randoms(use_true_random=False),
)
def test_shares_of_any_shipments_grow_and_end_at_the_total(items: list[tuple[int, int]], fee: int, random: Random) -> None:
    lines = tuple(priced(str(n), f"S{n}", quantity, price) for n, (quantity, price) in enumerate(items))
    log = Log("orders", "o1", channel=replace(BOX))
    log.when(place(*lines, PlacedLine("fee", "", 1, "fee", Money(fee, CURRENCY))), command_id="place")
    order = log.rows.order
    units = [line.line_id for line in lines for _ in range(line.quantity)]
    random.shuffle(units)
    left: dict[str, int] = {}
    shares = [payment_ledger.owed(order, left)]
    for line_id in units:
        left[line_id] = left.get(line_id, 0) + 1
        shares.append(payment_ledger.owed(order, left))
    assert shares[0] == 0 and shares == sorted(shares)
    assert shares[-1] == sum(quantity * price for quantity, price in items) + fee


# -- everything at once ---------------------------------------------------------------------------------------------------------------
WAREHOUSE = ("picking", "picked", "packed", "shipped")
PEOPLE = ("cancel", "ship", "ship", "shipped", "refund", "capture", "void", "hold", "release", "edit", "fewer", "wait")


@settings(max_examples=250, deadline=None)
@given(st.integers(0, 2**32 - 1).map(Seeded), st.lists(st.sampled_from(PEOPLE), max_size=10), st.sampled_from([0.0, 0.25]))
def test_whatever_happens_in_whatever_order_the_ledger_is_the_banks_book(random: Seeded, wishes: list[str], declines: float) -> None:
    """Placing, paying, shipping, canceling, refunding, lateness, repeats, in any order: every order ends or waits for people, no
    operation happens twice, our counters are what the bank did, and an order that ended has exactly the money of what has left.
    """
    world = World(random, channel=PREPAID).stock("A", 3).stock("B", 2)
    world.repeat = 0.15
    bank = Bank(world, random, declines, actions=random.choice((0.0, 0.5)))
    for number in range(2):
        lines = (priced("1", "A", random.randint(1, 2), 333), priced("2", "B", 1, 667))
        world.send("orders", f"o{number}", place(*lines), f"place-o{number}")
    left = list(wishes)
    while world.flying or left:
        if left and (not world.flying or random.random() < 0.3):
            people(world, random, left.pop(0), len(left))
        else:
            world.arrive(random.choice(list(world.flying)))
        bank.listen()
    while world.tick(until=NOW + seconds(20_000)):
        while world.flying:
            world.arrive(random.choice(list(world.flying)))
            bank.listen()
    for number in range(2):
        settle_check(world.log("orders", f"o{number}"), bank)


def people(world: World, random: Random, wish: str, number: int) -> None:
    order_id, command_id = f"o{random.randrange(2)}", f"{wish} {number}"
    commands: dict[str, Any] = {
        "cancel": CancelOrder("staff"),
        "refund": RefundPayment(Money(random.randint(1, 400), CURRENCY)),
        "capture": CapturePayment(Money(random.randint(1, 400), CURRENCY)),
        "void": VoidPayment(),
        "edit": EditOrder((LineQuantity("1", random.randint(1, 3)),)),
        "fewer": CancelOrder("staff", lines=(LineQuantity("1", 1),)),
        "hold": PlaceHold("MANUAL"),
        "release": ReleaseHold(random.choice(("MANUAL", "PAYMENT"))),
    }
    if wish == "wait":
        world.tick()
    elif wish in commands:
        world.send("orders", order_id, commands[wish], command_id)
    else:
        for status in WAREHOUSE if wish == "ship" else (wish,):
            world.send("orders", order_id, PostFulfillmentStatus(order_id, status), f"{command_id} {status}")


def settle_check(log: Log, bank: Bank) -> None:
    order, row = log.rows.order, log.rows.payment
    if row is None:
        assert order.status in (OrderStatus.REJECTED, OrderStatus.CANCELED)
        return
    assert not payment.is_open(row), "the bank answered everything"
    for counter in set(payment_ledger.COUNTERS.values()):
        operations = [operation for operation, moves in payment_ledger.COUNTERS.items() if moves == counter]
        assert getattr(row.ledger, counter) == sum(bank.moved(log.key, operation) for operation in operations), counter
        assert getattr(row.ledger, f"{counter}_pending") == 0
    assert payment_ledger.faults(row.ledger) == ()
    last = row.attempts[-1]
    stuck = last.outcome == "declined" and last.operation in ("void", "refund")
    if order.status in payment.ENDING and not stuck:
        assert payment_ledger.capturable(row.ledger) == 0
        assert payment_ledger.refundable(row.ledger) <= payment_ledger.owed(order, {}), "money for nothing"
    if order.status is OrderStatus.CANCEL_PENDING:
        assert stuck
    for line in order.lines:
        if line.shipped:
            assert row.ledger.captured >= payment_ledger.owed(order, {}), "goods left unpaid"


def test_a_timer_of_another_kind_is_not_the_windows() -> None:
    log = reserved()
    assert log.when(TimerDue("t", "give_up", asked(log).due_at or 0, "o1", 1)).events == []


def test_a_reservation_at_two_places_is_shared_out_by_what_each_sends() -> None:
    log = Log("orders", "o1", channel=PREPAID)
    log.when(place(priced(quantity=3, price=1)), command_id="place")
    log.when(answer("reserved", quantity=3, allocations=(Qty("main", "", 2), Qty("north", "", 1)), due_at=NOW + seconds(5000)))
    log.when(said(asked(log)))
    log.when(answer("committed", quantity=3, allocations=(Qty("main", "", 2), Qty("north", "", 1))))
    ship(log, "o1~F2")
    assert asked(log).amount.amount_minor == 1
