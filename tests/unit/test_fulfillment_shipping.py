"""Quantities, who is meant by an order's id, what leaves stock, what a delivery ends, what a cancel keeps."""

import pytest
from domain_fulfillment import WORDS, F, at_status, current, post, progress, two_locations, went
from domain_harness import NOW, Log, seconds
from domain_orders import answer, confirmed, in_status, item, placed, shipped
from msgspec.structs import replace

from orderflow.streams.domain.contract import Send, Settle
from orderflow.streams.domain.order_records import (
    CancelOrder,
    DeliveryConfirmed,
    FulfillmentStatus,
    FulfillmentStatusIgnored,
    LineQuantity,
    OrderStatus,
    RecordDelivery,
    RecordStockAnswer,
)
from orderflow.streams.domain.parts import Qty
from orderflow.streams.domain.reasons import Reason
from orderflow.streams.domain.stock_records import ShipStock


# -- quantities -----------------------------------------------------------------------------------------------------------------------
def test_a_post_without_quantities_means_all_and_with_them_just_those() -> None:
    log = confirmed(item("1", "A", 10), item("2", "B", 4))
    log.when(post("picking"))
    log.when(post("picked", LineQuantity("1", 8), LineQuantity("2", 4)), command_id="1")
    log.when(post("packed"), command_id="2")
    assert progress(log) == [("1", 10, 8, 8, 0), ("2", 4, 4, 4, 0)]
    outcome = log.when(post("shipped", LineQuantity("1", 7)), command_id="3")
    assert progress(log) == [("1", 10, 8, 8, 7), ("2", 4, 4, 4, 0)]
    assert outcome.sends == [
        Send("stock", "A", ShipStock("A~o1~1", "o1~F1", (Qty("main", "", 7),))),
        Send("stock", "B", ShipStock("B~o1~1", "o1~F1", (Qty("main", "", 0),))),
    ]
    lines = log.snapshot("order").lines
    assert [(line.shipped, line.canceled, line.fulfilled) for line in lines] == [(7, 3, 7), (0, 4, 0)]


@pytest.mark.parametrize(
    ("status", "posted", "lines", "reason"),
    [
        (F.PICKING, "picked", [LineQuantity("9", 1)], Reason.LINE_UNKNOWN),
        (F.PICKING, "picked", [LineQuantity("1", -1)], Reason.QUANTITY_INVALID),
        (F.PICKING, "picked", [LineQuantity("1", 1), LineQuantity("1", 1)], Reason.QUANTITY_INVALID),
        (F.PICKED, "packing", [LineQuantity("1", 1)], Reason.QUANTITY_INVALID),
        (F.READY, "shipped", [LineQuantity("1", 0)], Reason.QUANTITY_INVALID),
        (F.PICKING, "picked", [LineQuantity("1", 4)], Reason.QUANTITY_EXCEEDED),
        (F.PLANNING, "shipped", [LineQuantity("1", 4)], Reason.QUANTITY_EXCEEDED),
    ],
)
def test_impossible_quantities_are_refused(status: FulfillmentStatus, posted: str, lines: list[LineQuantity], reason: Reason) -> None:
    log = at_status(status, item(quantity=3))
    before = log.rows
    assert log.when(post(posted, *lines)).refused.reason == reason and log.rows == before


def test_quantities_may_not_exceed_the_step_before() -> None:
    log = at_status(F.PICKING, item(quantity=3))
    log.when(post("picked", LineQuantity("1", 2)), command_id="1")
    assert log.when(post("packed", LineQuantity("1", 3)), command_id="2").refused.reason == Reason.QUANTITY_EXCEEDED
    log.when(post("shipped", LineQuantity("1", 3)), command_id="3")
    outcome = log.when(post("packed"), command_id="4")
    assert outcome.settles == [Settle("3", Reason.QUANTITY_EXCEEDED)], "found out when its turn had come"
    assert current(log) is F.PACKED


def test_a_buffered_post_keeps_its_quantities() -> None:
    log = confirmed(item(quantity=10))
    log.when(post("shipped", LineQuantity("1", 8)), command_id="3")
    for word in ("packed", "picked", "picking"):
        log.when(post(word), command_id=word)
    assert progress(log) == [("1", 10, 10, 10, 8)]


def test_bug_54_five_lines_ship_five_reservations_once() -> None:
    lines = [item(str(number), f"S{number}", number) for number in range(1, 6)]
    log = at_status(F.READY, *lines)
    sends = [send for number in range(3) for send in log.when(post("shipped"), command_id=f"p{number}").sends]
    assert [(send.key, send.command.picked[0].quantity) for send in sends] == [(f"S{number}", number) for number in range(1, 6)]


def test_a_short_ship_at_one_location_leaves_the_other_alone() -> None:
    log = two_locations()
    for word in WORDS[:3]:
        log.when(post(word, target="o1~F1"), command_id=word)
    log.when(post("shipped", LineQuantity("1", 2), target="o1~F1"), command_id="shipped")
    north = (Qty("north", "", 2),)
    log.when(RecordStockAnswer("A~o1~1", "A", "shipped", 2, (Qty("main", "", 1), *north)))
    outcome = log.when(RecordStockAnswer("A~o1~1", "A", "released", 1, north, reason="SHORT_SHIPPED"))
    assert outcome.sends == [] and current(log, "o1~F2") is F.PLANNING
    row = log.rows.stock_answer["o1~G1~A"]
    assert (row.outcome, row.allocations) == ("committed", north)
    assert [(line.shipped, line.canceled, line.fulfilled) for line in log.snapshot("order").lines] == [(2, 1, 4)]


def test_lines_of_one_sku_ship_as_one() -> None:
    log = at_status(F.READY, item("1", "A", 2), item("2", "A", 3))
    assert [send.command.picked for send in log.when(post("shipped")).sends] == [(Qty("main", "", 5),)]


# -- whom a post means ----------------------------------------------------------------------------------------------------------------
def test_an_order_id_will_do_while_one_fulfillment_is_open() -> None:
    log = two_locations()
    assert log.when(post("picking")).refused.reason == Reason.AMBIGUOUS_FULFILLMENT
    for word in WORDS:
        assert log.when(post(word, target="o1~F1"), command_id=f"1{word}").refused is None
    assert log.when(post("picking")).refused.reason == Reason.AMBIGUOUS_FULFILLMENT, "shipped is still open"
    log.when(RecordDelivery("", "o1~F1", NOW))
    assert log.when(post("picking", target="")).refused is None
    assert current(log, "o1~F2") is F.PICKING


def test_posts_that_mean_no_fulfillment_are_refused() -> None:
    assert Log("orders", "o1").when(post("picking")).refused.reason == Reason.NOT_FOUND
    assert confirmed().when(post("picking", target="o1~F9")).refused.reason == Reason.NOT_FOUND
    assert confirmed().when(post("picking", target="o2")).refused.reason == Reason.NOT_FOUND
    assert placed().when(post("picking")).refused.reason == Reason.PREDECESSOR_MISSING
    assert in_status("REJECTED").when(post("picking")).refused.reason == Reason.ILLEGAL_TRANSITION
    assert in_status("CANCELED").when(post("picking")).refused.reason == Reason.ILLEGAL_TRANSITION
    both = two_locations()
    for name in ("o1~F1", "o1~F2"):
        for word in WORDS:
            both.when(post(word, target=name), command_id=f"{name}{word}")
    both.when(RecordDelivery("", "", NOW))
    assert both.when(post("picking")).refused.reason == Reason.AMBIGUOUS_FULFILLMENT


def test_a_late_post_to_the_only_fulfillment_is_stale_also_when_it_is_completed() -> None:
    assert in_status("DELIVERED").when(post("picked")).events == [FulfillmentStatusIgnored("o1~F1", "picked", Reason.STALE_STATUS)]


def test_a_post_on_another_version_or_after_its_deadline_is_refused() -> None:
    assert confirmed().when(post("picking"), expected_version=1).refused.reason == Reason.VERSION_CONFLICT
    assert confirmed().when(post("picking"), expected_version=2).refused is None
    assert confirmed().when(post("picking"), deadline_at=NOW - 1).refused.reason == Reason.DEADLINE_PASSED


# -- delivery -------------------------------------------------------------------------------------------------------------------------
def test_a_delivery_completes_the_fulfillment_and_delivers_the_order() -> None:
    log = shipped(item(quantity=2))
    outcome = log.when(RecordDelivery("s1", "o1~F1", NOW + 5, "signature"))
    assert outcome.events[0] == DeliveryConfirmed("s1", "o1~F1", NOW + 5)
    assert went(outcome) == [("completed", False)]
    shown = log.snapshot("order")
    assert (shown.status, shown.label, shown.fulfillment_status) == ("DELIVERED", "delivered", "completed")
    assert [(line.shipped, line.delivered) for line in shown.lines] == [(2, 2)] and log.rows.order.delivered_at == NOW + 5
    assert log.when(RecordDelivery("s1", "o1~F1", NOW + 5), command_id="again").events == []


def test_a_delivered_order_completes_after_seven_days_and_not_a_second_before() -> None:
    log = shipped()
    log.when(RecordDelivery(delivered_at=NOW + 5))
    (timer,) = log.timers()
    assert (timer.kind, timer.due_at) == ("auto_complete", log.at + seconds(7 * 24 * 3600))
    assert log.when(replace(timer, due_at=timer.due_at - 1)).events == [], "another timer than the order's"
    log.when(timer)
    shown = log.snapshot("order")
    assert (shown.status, shown.label, list(log.timers())) == ("COMPLETED", "completed", [])
    assert log.when(timer).events == []
    assert log.when(CancelOrder("staff")).refused.reason == Reason.ALREADY_SHIPPED


def test_an_order_is_shipped_and_delivered_when_every_fulfillment_is() -> None:
    log = two_locations()
    for word in WORDS:
        log.when(post(word, target="o1~F1"), command_id=f"1{word}")
    assert log.snapshot("order").label == "partially_shipped"
    log.when(RecordDelivery("", "o1~F1", NOW))
    assert log.snapshot("order").status is OrderStatus.PROCESSING
    for word in WORDS:
        log.when(post(word, target="o1~F2"), command_id=f"2{word}")
    assert (log.snapshot("order").status, log.snapshot("order").label) == ("SHIPPED", "partially_delivered")
    log.when(RecordDelivery("", "o1", NOW), command_id="all")
    assert log.snapshot("order").status is OrderStatus.DELIVERED
    assert sum(line.delivered for line in log.snapshot("order").lines) == 5


@pytest.mark.parametrize(
    ("log", "command", "reason"),
    [
        (Log("orders", "o1"), RecordDelivery("", "", NOW), Reason.NOT_FOUND),
        (confirmed(), RecordDelivery("", "o1~F9", NOW), Reason.NOT_FOUND),
        (confirmed(), RecordDelivery("", "o2", NOW), Reason.NOT_FOUND),
        (shipped(), RecordDelivery("", "", 0), Reason.SCHEMA_INVALID),
        (confirmed(), RecordDelivery("", "", NOW), Reason.ILLEGAL_TRANSITION),
        (placed(), RecordDelivery("", "", NOW), Reason.ILLEGAL_TRANSITION),
    ],
)
def test_a_delivery_is_refused_with_its_reason(log: Log, command: RecordDelivery, reason: Reason) -> None:
    assert log.when(command).refused.reason == reason


# -- canceling what is partly gone ----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("delivered", [False, True])
def test_a_cancel_stops_what_has_not_left_and_keeps_the_rest(delivered: bool) -> None:
    log = two_locations()
    for word in WORDS:
        log.when(post(word, target="o1~F1"), command_id=f"1{word}")
    left = RecordStockAnswer("A~o1~1", "A", "shipped", 3, (Qty("north", "", 2),))
    log.when(left)
    if delivered:
        log.when(RecordDelivery("", "o1~F1", NOW))
    outcome = log.when(CancelOrder(), command_id="cancel")
    assert [current(log, name) for name in ("o1~F1", "o1~F2")] == [F.COMPLETED if delivered else F.SHIPPED, F.CANCELED]
    assert outcome.waits
    last = log.when(answer("released", quantity=2))
    assert last.settles == [Settle("cancel")]
    shown = log.snapshot("order")
    assert shown.status is (OrderStatus.DELIVERED if delivered else OrderStatus.SHIPPED)
    assert [(line.shipped, line.canceled, line.fulfilled) for line in shown.lines] == [(3, 2, 3)]


def test_a_delivery_while_the_cancel_of_the_rest_is_open_counts() -> None:
    log = two_locations()
    for word in WORDS:
        log.when(post(word, target="o1~F1"), command_id=f"1{word}")
    log.when(CancelOrder(), command_id="cancel")
    log.when(RecordDelivery("", "o1~F1", NOW))
    assert log.snapshot("order").status is OrderStatus.CANCEL_PENDING
    log.when(answer("released", quantity=2))
    assert log.snapshot("order").status is OrderStatus.DELIVERED
