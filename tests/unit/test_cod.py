"""Cash on delivery: confirmed by people within a day, collected by couriers, and never asked of a provider (domain.md 2.3, slot D101)."""

from typing import Any

import pytest
from domain_fulfillment import ship
from domain_harness import Log, seconds
from domain_orders import answer, item
from domain_payments import CURRENCY, place, priced
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from orderflow.streams import money_checks
from orderflow.streams.domain.channel import BOX
from orderflow.streams.domain.order_records import (
    CancelOrder,
    LineQuantity,
    OrderHoldPlaced,
    OrderLineCanceled,
    OrderStatus,
    PostFulfillmentStatus,
    RecordDelivery,
    StockAsked,
)
from orderflow.streams.domain.parts import Money, Qty
from orderflow.streams.domain.payment_records import (
    CapturePayment,
    ConfirmCod,
    ConfirmCodCollection,
    PaymentFailed,
    PaymentRequested,
    PaymentVoided,
    RefundPayment,
    RetryPayment,
    VoidPayment,
)
from orderflow.streams.domain.reasons import Reason
from orderflow.streams.domain.stock_answers import demand

S = OrderStatus
COD = replace(BOX, payment_terms="cod", cod_maximum={CURRENCY: 5000})
DAY = seconds(86_400)


def brought(amount: int, reference: str = "round-9", currency: str = CURRENCY) -> ConfirmCodCollection:
    """What the courier brought."""
    return ConfirmCodCollection(Money(amount, currency), reference)


def waiting(*lines: Any) -> Log:
    """An order that people have to confirm."""
    log = Log("orders", "o1", channel=COD)
    log.when(place(*lines), command_id="place")
    until = log.named(StockAsked)[-1].reserved_until
    for sku, quantity in demand(log.rows.order.lines).items():
        log.when(answer("reserved", sku, quantity, due_at=until))
    return log


def confirmed(*lines: Any) -> Log:
    """One that they have confirmed, whose units are the order's for good."""
    log = waiting(*lines)
    log.when(ConfirmCod(), command_id="confirm")
    for row in list(log.rows.stock_answer.values()):
        log.when(answer("committed", row.sku, row.quantity, allocations=row.allocations))
    return log


def shipped(*lines: Any) -> Log:
    log = confirmed(*lines)
    ship(log)
    assert log.rows.order.status is S.SHIPPED
    return log


def counters(log: Log) -> tuple[int, int, int, int]:
    ledger = log.rows.payment.ledger
    return ledger.authorized, ledger.captured, ledger.voided, ledger.refunded


# -- confirming -----------------------------------------------------------------------------------------------------------------------
def test_an_order_waits_a_day_for_people_and_its_units_for_five_minutes_longer() -> None:
    log = waiting()
    order = log.rows.order
    assert (order.status, order.step, order.due_at) == (S.PENDING, "pay", log.at + DAY)
    asked = log.named(PaymentRequested)
    assert [(each.operation, each.provider, each.method, each.amount.amount_minor) for each in asked] == [("authorize", "cod", "cod", 1000)]
    assert log.named(StockAsked)[0].reserved_until >= order.due_at + seconds(300)


def test_a_yes_confirms_it_and_a_second_one_changes_nothing() -> None:
    log = waiting()
    said = log.when(ConfirmCod(), command_id="confirm")
    assert log.rows.order.status is S.PROCESSING and counters(log) == (1000, 0, 0, 0)
    assert not said.waits and "place" in [settle.command_id for settle in said.settles]
    assert log.when(ConfirmCod(), command_id="again").events == []


def test_without_a_yes_it_expires_and_a_late_one_is_refused() -> None:
    log = waiting()
    timer = next(log.timers())
    assert (timer.kind, timer.due_at) == ("payment_window", log.at + DAY)
    log.when(timer)
    assert log.rows.order.status is S.EXPIRED and log.named(StockAsked)[-1].ask == "release"
    assert [event.code for event in log.named(PaymentFailed)] == ["never_confirmed"] and log.rows.payment.ledger.authorized_pending == 0
    assert log.when(ConfirmCod(), command_id="late").refused.reason == Reason.ILLEGAL_TRANSITION


def test_a_yes_after_the_day_but_before_its_timer_is_too_late() -> None:
    log = waiting()
    assert log.when(ConfirmCod(), at=log.at + DAY).refused.reason == Reason.METHOD_EXPIRED


def test_a_cancel_before_the_yes_leaves_nothing_open() -> None:
    log = waiting()
    log.when(CancelOrder("staff", "not wanted"), command_id="cancel")
    log.when(answer("released", quantity=0))
    assert log.rows.order.status is S.CANCELED and counters(log) == (0, 0, 0, 0)


def test_a_cancel_after_the_yes_voids_it() -> None:
    log = confirmed()
    log.when(CancelOrder("staff", "not wanted"), command_id="cancel")
    log.when(answer("released", quantity=0))
    assert log.rows.order.status is S.CANCELED and counters(log) == (1000, 0, 1000, 0)


def test_the_total_has_a_ceiling_per_currency() -> None:
    log = Log("orders", "o1", channel=COD)
    refused = log.when(place(priced(quantity=5, price=1001)), command_id="place").refused
    assert (refused.reason, refused.detail) == (Reason.PAYMENT_METHOD_INELIGIBLE, {"payment_terms": "cod", "most": "5000"})
    other = Log("orders", "o2", channel=replace(COD, cod_maximum={"VND": 1}))
    assert other.when(place(priced(quantity=5, price=1001)), command_id="place").refused is None


def test_an_order_without_prices_is_refused() -> None:
    log = Log("orders", "o1", channel=COD)
    assert log.when(place(item()), command_id="place").refused.reason == Reason.PRICE_MISSING


def test_one_that_costs_nothing_needs_no_yes() -> None:
    log = waiting(priced(price=0))
    assert log.rows.order.status is S.PROCESSING and log.rows.payment is None


# -- collecting -----------------------------------------------------------------------------------------------------------------------
def test_goods_leave_before_the_money_is_there_and_it_completes_when_it_is() -> None:
    log = shipped()
    assert counters(log) == (1000, 0, 0, 0) and log.snapshot("payment").label == "authorized"
    log.when(RecordDelivery("", "", log.at))
    assert log.rows.order.status is S.DELIVERED and not list(log.timers())
    log.when(brought(1000), command_id="collect")
    assert counters(log) == (1000, 1000, 0, 0) and log.snapshot("payment").label == "captured"
    timer = next(log.timers())
    assert timer.kind == "auto_complete"
    log.when(timer)
    assert log.rows.order.status is S.COMPLETED


def test_nothing_is_collected_before_it_has_left() -> None:
    refused = confirmed().when(brought(1000), command_id="collect").refused
    assert (refused.reason, refused.detail) == (Reason.ILLEGAL_TRANSITION, {"status": "processing", "shipped": "nothing"})


def test_less_than_was_due_is_recorded_and_said_so_and_the_rest_may_follow() -> None:
    log = shipped()
    log.when(brought(900), command_id="first")
    assert counters(log) == (1000, 900, 0, 0) and log.snapshot("payment").attempts[-1].code == "cod_mismatch"
    log.when(RecordDelivery("", "", log.at))
    assert not list(log.timers()), "it waits for the rest"
    log.when(brought(100), command_id="second")
    assert counters(log) == (1000, 1000, 0, 0) and log.snapshot("payment").attempts[-1].code == ""


def test_what_will_never_be_collected_is_voided_by_people() -> None:
    log = shipped()
    log.when(brought(900), command_id="first")
    log.when(RecordDelivery("", "", log.at))
    log.when(VoidPayment(), command_id="write-off")
    assert counters(log) == (1000, 900, 100, 0) and next(log.timers()).kind == "auto_complete"


def test_more_than_the_order_costs_is_refused() -> None:
    refused = shipped().when(brought(1001), command_id="collect").refused
    assert (refused.reason, refused.detail) == (Reason.CAPTURE_EXCEEDS_AUTHORIZED, {"asked": "1001", "possible": "1000"})


@pytest.mark.parametrize(
    ("command", "reason"),
    [
        (brought(1000, currency="VND"), Reason.CURRENCY_UNSUPPORTED),
        (brought(0), Reason.AMOUNT_OUT_OF_RANGE),
        (CapturePayment(), Reason.ILLEGAL_TRANSITION),
        (RetryPayment(), Reason.ILLEGAL_TRANSITION),
    ],
)
def test_what_makes_no_sense_of_it_is_refused(command: Any, reason: Reason) -> None:
    assert shipped().when(command, command_id="wrong").refused.reason == reason


def test_other_orders_are_not_paid_on_delivery() -> None:
    log = Log("orders", "o1", channel=BOX)
    log.when(place(), command_id="place")
    for command in (ConfirmCod(), brought(1000)):
        refused = log.when(command, command_id=f"wrong {command}").refused
        assert (refused.reason, refused.detail["payment_terms"]) == (Reason.ILLEGAL_TRANSITION, "invoice")
    for command in (ConfirmCod(), brought(1000)):
        assert Log("orders", "o2").when(command, command_id="nobody").refused.reason == Reason.NOT_FOUND


def test_each_shipment_is_collected_by_its_share_and_what_was_canceled_is_voided() -> None:
    log = confirmed(priced("1", "A", 1, 600), priced("2", "B", 1, 400))
    log.when(PostFulfillmentStatus("o1", "picking"))
    for status in ("picked", "packed", "shipped"):
        log.when(PostFulfillmentStatus("o1", status, None, _units(1, 0)), command_id=status)
    assert log.rows.order.status is S.SHIPPED and counters(log) == (1000, 0, 400, 0)
    log.when(brought(600), command_id="collect")
    assert log.snapshot("payment").label == "captured" and log.named(OrderHoldPlaced, OrderLineCanceled) == []


def _units(*quantities: int) -> Any:
    return tuple(LineQuantity(str(number), quantity) for number, quantity in enumerate(quantities, 1))


def test_people_give_money_back_from_hand_to_hand() -> None:
    log = shipped()
    log.when(brought(1000), command_id="collect")
    said = log.when(RefundPayment(Money(300, CURRENCY), "damaged"), command_id="refund")
    assert not said.waits and counters(log) == (1000, 1000, 0, 300)


def test_a_mismatch_of_an_order_that_still_goes_holds_it() -> None:
    log = Log("orders", "o1", channel=COD)
    log.when(place(priced("1", "A", 2, 500)), command_id="place")
    until = log.named(StockAsked)[-1].reserved_until
    both = (Qty("main", "", 1), Qty("north", "", 1))
    log.when(answer("reserved", "A", 2, allocations=both, due_at=until))
    log.when(ConfirmCod(), command_id="confirm")
    log.when(answer("committed", "A", 2, allocations=both))
    for status in ("picking", "picked", "packed", "shipped"):
        log.when(PostFulfillmentStatus("o1~F1", status), command_id=f"F1 {status}")
    log.when(brought(1000), command_id="all at once")
    assert log.named(OrderHoldPlaced) == [OrderHoldPlaced("PAYMENT", "cod_mismatch")]


# -- any order of things ----------------------------------------------------------------------------------------------------------------
STEPS = st.sampled_from(
    ["confirm", "cancel", "timer", "picking", "picked", "packed", "shipped", "deliver", "collect", "less", "void", "refund", "committed"]
)


@settings(max_examples=300, deadline=None)
@given(st.lists(STEPS, max_size=24))
def test_in_any_order_the_ledger_is_right_and_nothing_is_left_of_what_ends(steps: list[str]) -> None:
    log = waiting(priced("1", "A", 1, 600), priced("2", "B", 1, 400))
    for number, step in enumerate(steps):
        commands: dict[str, Any] = {
            "confirm": ConfirmCod(),
            "cancel": CancelOrder("staff", "why"),
            "deliver": RecordDelivery("", "", log.at),
            "collect": brought(1000),
            "less": brought(250),
            "void": VoidPayment(),
            "refund": RefundPayment(Money(100, CURRENCY)),
        }
        if step == "timer":
            for timer in list(log.timers())[:1]:
                log.when(timer)
        elif step == "committed":
            _answered(log)
        else:
            log.when(commands.get(step) or PostFulfillmentStatus("o1", step), command_id=f"{number} {step}")
    _answered(log)
    counted = money_checks.Payment()
    assert [what for event, _ in log.events for what in counted.take(event)] == []
    if log.rows.order.status is not S.PENDING:
        assert list(counted.rest()) == []
    if log.rows.order.status in (S.CANCELED, S.EXPIRED):
        assert counters(log)[0] == counters(log)[2], "nothing can be collected of it"
        assert len(log.named(PaymentVoided)) <= 1


def _answered(log: Log) -> None:
    """Stock answers whatever it was asked last."""
    for row in list(log.rows.stock_answer.values()):
        if row.outcome == "committing":
            log.when(answer("committed", row.sku, row.quantity, allocations=row.allocations))
        elif row.outcome == "releasing":
            log.when(answer("released", row.sku, 0))
