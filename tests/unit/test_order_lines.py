"""Canceling some units of an order while the rest goes on (domain.md 2.2; bugs 20 and 21 of section 5)."""

from random import Random

import pytest
from domain_fulfillment import current, post, ship, two_locations
from domain_harness import Log, Seeded, World
from domain_orders import answer, confirmed, item
from domain_payments import asked, authorized, net, priced, said
from hypothesis import given, settings
from hypothesis import strategies as st

from orderflow.streams.domain.cells import beyond
from orderflow.streams.domain.contract import Send
from orderflow.streams.domain.order_records import (
    CancelOrder,
    FulfillmentReduced,
    FulfillmentStatus,
    LineProgress,
    LineQuantity,
    OrderLineCanceled,
    OrderStatus,
    PlaceHold,
    PlaceOrder,
    PostFulfillmentStatus,
    RecordDelivery,
)
from orderflow.streams.domain.order_rows import OrderRow
from orderflow.streams.domain.parts import Qty
from orderflow.streams.domain.reasons import Reason
from orderflow.streams.domain.stock_records import ReleaseReservation, ReservationReleased

F = FulfillmentStatus


def cancel(*lines: tuple[str, int], by: str = "staff") -> CancelOrder:
    return CancelOrder(by, "too many", tuple(LineQuantity(line_id, quantity) for line_id, quantity in lines))


def units(log: Log) -> list[tuple[int, int, int, int]]:
    """(ordered, assigned, shipped, canceled) of each line."""
    return [(line.quantity, line.fulfilled, line.shipped, line.canceled) for line in log.rows.order.lines]


# -- one fulfillment ------------------------------------------------------------------------------------------------------------------
def test_some_units_of_a_line_are_canceled_and_the_rest_is_shipped() -> None:
    log = confirmed(item(quantity=5))
    version = log.snapshot("order").version
    outcome = log.when(cancel(("1", 2)))
    assert outcome.events == [
        OrderLineCanceled("1", "A", 2, "too many"),
        FulfillmentReduced("o1~F1", "main", (LineProgress("1", 3),)),
    ]
    assert outcome.sends == [Send("stock", "A", ReleaseReservation("A~o1~1", reason="REDUCED", kept=(Qty("main", "", 3),)))]
    assert not outcome.waits, "units that nobody has picked are the order's to give"
    assert units(log) == [(5, 3, 0, 2)]
    shown = log.snapshot("order")
    assert (shown.status, shown.label, shown.version) == ("PROCESSING", "partially_canceled", version + 2)
    log.when(answer("released", quantity=2, allocations=(Qty("main", "", 3),)))
    log.when(post("picking"))
    assert log.snapshot("order").label == "picking"
    log.when(post("picked", LineQuantity("1", 4)), command_id="too many")
    assert log.events[-1][0].reason == Reason.QUANTITY_EXCEEDED
    ship(log)
    assert units(log) == [(5, 3, 3, 2)] and log.snapshot("order").status is OrderStatus.SHIPPED
    log.when(RecordDelivery("", "", 1))
    assert log.snapshot("order").lines[0].delivered == 3


def test_a_line_of_several_is_canceled_whole_and_of_each_sku_what_is_left_is_kept() -> None:
    log = confirmed(item("1", "A", 2), item("2", "B", 1), item("3", "A", 3))
    outcome = log.when(cancel(("3", 3), ("2", 1)))
    assert outcome.sends == [
        Send("stock", "B", ReleaseReservation("B~o1~1", reason="REDUCED")),
        Send("stock", "A", ReleaseReservation("A~o1~1", reason="REDUCED", kept=(Qty("main", "", 2),))),
    ]
    assert units(log) == [(2, 2, 0, 0), (1, 0, 0, 1), (3, 0, 0, 3)] and current(log) is F.PLANNING
    ship(log)
    assert units(log) == [(2, 2, 2, 0), (1, 0, 0, 1), (3, 0, 0, 3)] and log.snapshot("order").status is OrderStatus.SHIPPED


def test_all_that_is_left_is_a_cancel_of_the_order() -> None:
    log = confirmed(item(quantity=3))
    log.when(cancel(("1", 1)), command_id="one")
    log.when(answer("released", quantity=1, allocations=(Qty("main", "", 2),)))
    outcome = log.when(cancel(("1", 2)), command_id="the rest")
    assert outcome.waits and log.snapshot("order").status is OrderStatus.CANCEL_PENDING
    log.when(answer("released", quantity=2))
    assert log.snapshot("order").status is OrderStatus.CANCELED and units(log) == [(3, 0, 0, 3)]


def test_a_customer_cancels_units_before_anybody_picks() -> None:
    assert confirmed(item(quantity=2)).when(cancel(("1", 1), by="customer")).refused is None


def test_a_held_order_gives_units_up_too() -> None:
    log = confirmed(item(quantity=2))
    log.when(PlaceHold("MANUAL"))
    assert log.when(cancel(("1", 1))).refused is None and log.snapshot("order").label == "on_hold"


# -- several fulfillments -------------------------------------------------------------------------------------------------------------
def test_units_come_off_the_fulfillment_that_was_made_last() -> None:
    log = two_locations()
    outcome = log.when(cancel(("1", 1)))
    assert outcome.sends[0].command.kept == (Qty("main", "", 3), Qty("north", "", 1))
    outcome = log.when(cancel(("1", 2)), command_id="two")
    assert [event for event in outcome.events if isinstance(event, FulfillmentReduced)] == [
        FulfillmentReduced("o1~F2", "north", (LineProgress("1", 0),)),
        FulfillmentReduced("o1~F1", "main", (LineProgress("1", 2),)),
    ]
    assert current(log, "o1~F2") is F.CANCELED and outcome.sends[-1].command.kept == (Qty("main", "", 2),)
    assert units(log) == [(5, 2, 0, 3)]


def test_bug_21_one_package_that_is_canceled_leaves_the_others() -> None:
    """The first has left, of the second nothing was picked: without it the order is shipped."""
    log = two_locations()
    ship(log, "o1~F1")
    assert log.snapshot("order").label == "partially_shipped"
    outcome = log.when(cancel(("1", 1)), command_id="one of two")
    assert outcome.sends[0].command.kept == (Qty("north", "", 1),), "what is shipped is not kept any more"
    log.when(answer("released", quantity=1, allocations=(Qty("north", "", 1),)))
    ship(log, "o1~F2")
    assert log.snapshot("order").status is OrderStatus.SHIPPED and units(log) == [(5, 4, 4, 1)]


def test_units_that_somebody_picks_are_not_canceled_by_line() -> None:
    log = two_locations()
    log.when(post("picking", target="o1~F2"), command_id="picking")
    refused = log.when(cancel(("1", 4)), command_id="four").refused
    assert refused.reason == Reason.ILLEGAL_TRANSITION and refused.detail == {"line_id": "1", "possible": "3"}
    assert log.when(cancel(("1", 3)), command_id="three").refused is None
    assert current(log, "o1~F1") is F.CANCELED and units(log) == [(5, 2, 0, 3)]


# -- money ----------------------------------------------------------------------------------------------------------------------------
def test_what_is_canceled_is_never_captured_and_goes_back_at_the_end() -> None:
    log = authorized(priced("1", "A", 3, 400), priced("2", "B", 1, 1000))
    log.when(cancel(("1", 2)), command_id="two")
    log.when(answer("released", quantity=2, allocations=(Qty("main", "", 1),)))
    ship(log)
    assert (asked(log).operation, asked(log).amount.amount_minor) == ("capture", 1400)
    log.when(said(asked(log)))
    assert log.snapshot("order").status is OrderStatus.SHIPPED and (asked(log).operation, asked(log).amount.amount_minor) == ("void", 800)
    log.when(said(asked(log)))
    assert net(log) == 1400


# -- the owner of the stock -----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("kept", "given"),
    [
        ((), (Qty("main", "", 3), Qty("north", "", 2))),
        ((Qty("main", "", 3),), (Qty("north", "", 2),)),
        ((Qty("main", "", 1), Qty("north", "", 2)), (Qty("main", "", 2),)),
        ((Qty("main", "", 9), Qty("south", "", 2)), (Qty("north", "", 2),)),
        ((Qty("main", "", 3), Qty("north", "", 2)), ()),
    ],
)
def test_what_is_beyond_what_is_kept(kept: tuple[Qty, ...], given: tuple[Qty, ...]) -> None:
    assert beyond((Qty("main", "", 3), Qty("north", "", 2)), kept) == given


def test_a_reservation_keeps_what_it_is_told_and_a_repeat_is_answered_by_its_row() -> None:
    world = World(Random(1)).stock("A", 10)
    world.place("o1", A=5)
    world.drain()
    stock = world.log("stock", "A")
    release = ReleaseReservation("A~o1~1", reason="REDUCED", kept=(Qty("main", "", 3),))
    assert stock.when(release, command_id="r1").events == [
        ReservationReleased("A~o1~1", stock.rows.reservation["A~o1~1"].holder, 2, (Qty("main", "", 2),), None, "", "REDUCED")
    ]
    again = stock.when(release, command_id="r2")
    assert again.recalled and again.sends[0].command.allocations == (Qty("main", "", 3),)
    assert (stock.rows.stock.cells[0].allocated, stock.rows.reservation["A~o1~1"].released) == (3, 2)


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 2**32 - 1).map(Seeded), st.sampled_from([0.0, 0.2]))
def test_whatever_is_canceled_when_stock_and_orders_agree_in_the_end(random: Seeded, repeat: float) -> None:
    """Two orders lose units by line while warehouses work: what stock keeps is what fulfillments still have to send, and no unit is lost."""
    world = World(random).stock("A", 6, "main").stock("A", 6, "north").stock("B", 6)
    world.repeat = repeat
    for number in range(2):
        lines = (item("1", "A", 4), item("2", "B", 2), item("3", "A", 1))
        world.send("orders", f"o{number}", PlaceOrder("box", lines=lines), f"place-o{number}")
    for number in range(8):
        order = f"o{random.randrange(2)}"
        line_id, quantity = random.choice((("1", 1), ("1", 3), ("2", 1), ("2", 2), ("3", 1)))
        world.send("orders", order, cancel((line_id, quantity)), f"cancel {number}")
        step = random.choice(("picking", "picked", "packed", "shipped"))
        target = random.choice(("", "~F1", "~F2"))
        world.send("orders", order, PostFulfillmentStatus(f"{order}{target}", step), f"post {number}")
    world.settle()
    open_units: dict[str, int] = {}
    for number in range(2):
        log = world.log("orders", f"o{number}")
        order: OrderRow = log.rows.order
        for line in order.lines:
            assert line.shipped + line.canceled <= line.quantity
            if order.status is OrderStatus.SHIPPED:
                assert line.shipped + line.canceled == line.quantity
        for row in log.rows.fulfillment.values():
            for line in row.lines:
                if row.status not in (F.SHIPPED, F.CANCELED):
                    open_units[line.reservation_id] = open_units.get(line.reservation_id, 0) + line.ordered
    for sku, received in (("A", 12), ("B", 6)):
        stock = world.log("stock", sku).rows
        assert sum(cell.on_hand for cell in stock.stock.cells) == received - _shipped(world, sku)
        for name, reservation in stock.reservation.items():
            assert sum(qty.quantity for qty in reservation.allocations) == open_units.pop(name, 0), name
    assert not any(open_units.values())


def _shipped(world: World, sku: str) -> int:
    rows = (line for number in range(2) for line in world.log("orders", f"o{number}").rows.order.lines)
    return sum(line.shipped for line in rows if line.sku == sku)
