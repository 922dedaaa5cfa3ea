"""Canceling: who may, until when, what is stopped, what is given back, and who hears of it."""

import pytest
from domain_fulfillment import F, at_status
from domain_harness import NOW, SETTINGS, Log, seconds
from domain_orders import answer, confirmed, in_status, item, place, placed
from msgspec.structs import replace

from orderflow.streams.domain import orders
from orderflow.streams.domain.contract import Settle
from orderflow.streams.domain.order_records import (
    CancelOrder,
    LineQuantity,
    OrderStatus,
    OrderStatusChanged,
    PostFulfillmentStatus,
)
from orderflow.streams.domain.reasons import Reason
from orderflow.streams.domain.stock_records import ReleaseReservation


# -- canceling ------------------------------------------------------------------------------------------------------------------------
def test_cancel_before_confirmation_waits_for_every_owner() -> None:
    log = placed(item("1", "A"), item("2", "B"))
    log.when(answer("reserved", "A"))
    outcome = log.when(CancelOrder("staff", "changed my mind"), command_id="cancel")
    assert outcome.waits and outcome.settles == []
    assert [send.command for send in outcome.sends] == [
        ReleaseReservation("A~o1~1", reason="changed my mind"),
        ReleaseReservation("B~o1~1", reason="changed my mind"),
    ]
    log.when(answer("released", "A"))
    assert log.snapshot("order").status is OrderStatus.CANCEL_PENDING
    assert log.when(place(), command_id="place").waits, "the place ends with the cancel"
    assert log.when(CancelOrder(), command_id="cancel").waits and not log.when(CancelOrder(), command_id="another").waits
    log.when(answer("reserved", "B"))
    last = log.when(answer("released", "B"))
    assert last.settles == [Settle("place"), Settle("cancel")]
    shown = log.snapshot("order")
    assert (shown.status, shown.reason, [line.canceled for line in shown.lines]) == ("CANCELED", "changed my mind", [1, 1])


def test_cancel_of_a_confirmed_order_cancels_its_fulfillments_and_releases_committed_units() -> None:
    log = confirmed(item(quantity=3))
    outcome = log.when(CancelOrder("customer"), command_id="cancel")
    assert [event.new_status for event in outcome.events if isinstance(event, orders.FulfillmentStatusChanged)] == ["CANCELED"]
    assert [send.command for send in outcome.sends] == [ReleaseReservation("A~o1~1")]
    assert log.when(answer("released", quantity=3)).settles == [Settle("cancel")]
    line = log.snapshot("order").lines[0]
    assert (line.canceled, line.fulfilled, line.shipped) == (3, 0, 0)


def test_bug_14_cancel_five_times_is_one_cancel() -> None:
    log = confirmed()
    sends = [send for number in range(5) for send in log.when(CancelOrder(), command_id=f"cancel-{number}").sends]
    assert len(sends) == 1
    log.when(answer("released"))
    assert log.when(CancelOrder(), command_id="late").events == []
    assert len([event for event in log.named(OrderStatusChanged) if event.new_status is OrderStatus.CANCELED]) == 1


def test_cancel_when_nothing_is_kept_is_done_at_once() -> None:
    log = confirmed()
    row = replace(log.rows.stock_answer["o1~G1~A"], outcome="released", allocations=())
    log.rows = log.folded = replace(log.rows, stock_answer={"o1~G1~A": row})
    outcome = log.when(CancelOrder(), command_id="cancel")
    assert outcome.settles == [Settle("cancel")] and not outcome.waits
    assert log.snapshot("order").status is OrderStatus.CANCELED


def test_a_customer_may_cancel_for_an_hour_and_before_picking() -> None:
    window = seconds(SETTINGS.cancel_window_s)
    assert placed().when(CancelOrder("customer"), at=NOW + window).refused is None
    assert placed().when(CancelOrder("customer"), at=NOW + window + 1).refused.reason == Reason.CANCEL_WINDOW_CLOSED
    assert placed().when(CancelOrder("staff"), at=NOW + window + 1).refused is None
    for by, reason in (("customer", Reason.CANCEL_WINDOW_CLOSED), ("staff", None)):
        log = confirmed()
        log.when(PostFulfillmentStatus("o1", "picking"))
        found = log.when(CancelOrder(by)).refused
        assert (found.reason if found else None) == reason


@pytest.mark.parametrize(
    ("log", "command", "meta", "reason"),
    [
        (Log("orders", "o1"), CancelOrder(), {}, Reason.NOT_FOUND),
        (placed(), CancelOrder(), {"expected_version": 5}, Reason.VERSION_CONFLICT),
        (placed(), CancelOrder(), {"deadline_at": NOW - 1}, Reason.DEADLINE_PASSED),
        (placed(), CancelOrder("system"), {}, Reason.SCHEMA_INVALID),
        (placed(), CancelOrder(lines=(LineQuantity("9", 1),)), {}, Reason.LINE_UNKNOWN),
        (placed(item(quantity=2)), CancelOrder(lines=(LineQuantity("1", 1),)), {}, Reason.ILLEGAL_TRANSITION),
        (in_status("CONFIRMED"), CancelOrder(lines=(LineQuantity("1", 2),)), {}, Reason.HOLD_ACTIVE),
        (confirmed(item(quantity=2)), CancelOrder(lines=(LineQuantity("1", 0),)), {}, Reason.QUANTITY_INVALID),
        (confirmed(item(quantity=3)), CancelOrder(lines=(LineQuantity("1", 1), LineQuantity("1", 1))), {}, Reason.QUANTITY_INVALID),
        (confirmed(item(quantity=2)), CancelOrder(lines=(LineQuantity("1", 3),)), {}, Reason.QUANTITY_EXCEEDED),
        (at_status(F.PICKING, item(quantity=2)), CancelOrder("staff", lines=(LineQuantity("1", 1),)), {}, Reason.ILLEGAL_TRANSITION),
        (at_status(F.PICKING, item(quantity=2)), CancelOrder("customer", lines=(LineQuantity("1", 1),)), {}, Reason.CANCEL_WINDOW_CLOSED),
        (in_status("REJECTED"), CancelOrder(), {}, Reason.ALREADY_FINAL),
        (in_status("EXPIRED"), CancelOrder(), {}, Reason.ALREADY_FINAL),
        (in_status("SHIPPED"), CancelOrder(), {}, Reason.ALREADY_SHIPPED),
        (in_status("DELIVERED"), CancelOrder(), {}, Reason.ALREADY_SHIPPED),
    ],
)
def test_a_cancel_is_refused_with_its_reason(log: Log, command: CancelOrder, meta: dict[str, int], reason: Reason) -> None:
    before = log.rows
    outcome = log.when(command, command_id="cancel", **meta)
    assert outcome.refused.reason == reason and outcome.sends == [] and log.rows == before


def test_a_cancel_that_names_every_line_whole_is_a_cancel_of_the_order() -> None:
    log = placed(item(quantity=2), item("2", "B", 3))
    assert log.when(CancelOrder(lines=(LineQuantity("1", 2), LineQuantity("2", 3)))).refused is None
    assert log.snapshot("order").status is OrderStatus.CANCEL_PENDING
