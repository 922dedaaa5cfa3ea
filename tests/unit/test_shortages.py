"""What becomes of an order when stock has less than it wants, by its partial policy (domain.md section 4, slot D34)."""

from random import Random
from typing import Any

import pytest
from domain_fulfillment import ship
from domain_harness import NOW, SETTINGS, Log, Seeded, World, seconds
from domain_orders import answer, in_status, item, place, placed, refused
from domain_payments import asked, net, priced, said
from hypothesis import given, settings
from hypothesis import strategies as st

from orderflow.streams.domain.contract import Refused, Send, Settle, Shortage
from orderflow.streams.domain.order_records import (
    AnswerShortage,
    CancelOrder,
    OrderHoldPlaced,
    OrderHoldReleased,
    OrderLineCanceled,
    OrderRejected,
    OrderStatus,
    PlacedLine,
    PlaceHold,
    PlaceOrder,
    RecordDelivery,
    ReleaseHold,
    ShortageAsked,
)
from orderflow.streams.domain.order_rows import OrderRow
from orderflow.streams.domain.parts import Holder, Qty
from orderflow.streams.domain.payment_records import PaymentRequested
from orderflow.streams.domain.reasons import Reason
from orderflow.streams.domain.stock_records import (
    CommitReservation,
    ReceiveStock,
    ReleaseReservation,
    ReserveStock,
    StockRefused,
    StockReserved,
)

S = OrderStatus
LESS, ASK = "ship_available", "ask"


def part(sku: str, wanted: int, kept: int, **more: Any) -> Any:
    """Of `wanted` units the owner has `kept`."""
    return answer("reserved", sku, kept, available_after=0, **more)


def units(log: Log) -> list[tuple[int, int, int, int]]:
    """(ordered, assigned, shipped, canceled) of each line."""
    return [(line.quantity, line.fulfilled, line.shipped, line.canceled) for line in log.rows.order.lines]


# -- at the owner of the stock --------------------------------------------------------------------------------------------------------
def reserve(quantity: int, **more: Any) -> ReserveStock:
    return ReserveStock("A~o1~1", Holder("o1"), quantity, NOW + seconds(60), allow_partial=True, **more)


def test_an_owner_keeps_what_it_has_where_fewer_will_do() -> None:
    log = Log("stock", "A")
    log.when(ReceiveStock("main", 2), command_id="r1")
    log.when(ReceiveStock("north", 1), command_id="r2")
    made = log.when(reserve(5), command_id="v")
    assert made.events[0] == StockReserved("A~o1~1", Holder("o1"), 3, (Qty("main", "", 2), Qty("north", "", 1)), NOW + seconds(60))
    again = log.when(reserve(5), command_id="v")
    assert not again.events and again.sends[0].command.quantity == 3, "a repeat meets the first answer"


@pytest.mark.parametrize(("quantity", "kept"), [(2, 2), (1, 1), (3, 2)])
def test_it_never_keeps_more_than_was_asked(quantity: int, kept: int) -> None:
    log = Log("stock", "A")
    log.when(ReceiveStock("main", 2), command_id="r1")
    assert log.when(reserve(quantity), command_id="v").events[0].quantity == kept


def test_an_owner_with_nothing_refuses_and_so_does_one_whose_place_was_not_asked() -> None:
    log = Log("stock", "A")
    log.when(ReceiveStock("main", 2), command_id="r1")
    refusal = log.when(reserve(1, preferred=("north",), allow_other=False), command_id="v").events[0]
    assert isinstance(refusal, StockRefused) and (refusal.reason, refusal.available) == (Reason.INSUFFICIENT_STOCK, 0)


# -- ship_available -------------------------------------------------------------------------------------------------------------------
def test_what_there_is_is_shipped_and_the_rest_of_the_order_is_canceled() -> None:
    log = Log("orders", "o1")
    sent = log.when(place(item("1", "A", 5), item("2", "B", 1), partial_policy=LESS), command_id="place").sends
    assert all(send.command.allow_partial for send in sent)
    log.when(part("A", 5, 3))
    outcome = log.when(answer("reserved", "B"))
    assert outcome.events[1] == OrderLineCanceled("1", "A", 2, Reason.INSUFFICIENT_STOCK)
    assert Settle("place") in outcome.settles
    assert outcome.sends == [Send("stock", "A", CommitReservation("A~o1~1")), Send("stock", "B", CommitReservation("B~o1~1"))]
    assert units(log) == [(5, 3, 0, 2), (1, 1, 0, 0)]
    assert (log.snapshot("order").status, log.snapshot("order").label) == (S.PROCESSING, "partially_canceled")
    for each in (answer("committed", "A", 3), answer("committed", "B")):
        assert log.when(each).events[1:] == []
    ship(log)
    assert units(log) == [(5, 3, 3, 2), (1, 1, 1, 0)] and log.rows.order.status is S.SHIPPED
    log.when(RecordDelivery("", "", NOW))
    assert log.rows.order.status is S.DELIVERED


def test_a_line_of_which_nothing_is_there_is_canceled_whole_and_the_last_lines_of_a_sku_go_first() -> None:
    log = placed(item("1", "A", 2), item("2", "B", 2), item("3", "A", 2), item("4", "A", 1), partial_policy=LESS)
    log.when(refused("B", 2))
    outcome = log.when(part("A", 5, 3))
    assert [(each.line_id, each.quantity) for each in outcome.events if isinstance(each, OrderLineCanceled)] == [
        ("2", 2),
        ("3", 1),
        ("4", 1),
    ]
    assert units(log) == [(2, 2, 0, 0), (2, 0, 0, 2), (2, 1, 0, 1), (1, 0, 0, 1)]


def test_with_nothing_at_all_the_order_is_rejected_with_every_shortage() -> None:
    log = placed(item("1", "A", 2), item("2", "B", 2), partial_policy=LESS)
    log.when(refused("A", 2))
    outcome = log.when(refused("B", 2))
    assert OrderRejected(Reason.INSUFFICIENT_STOCK, (Shortage("A", 2, 0), Shortage("B", 2, 0))) in outcome.events
    assert log.rows.order.status is S.REJECTED and not outcome.sends


@pytest.mark.parametrize("reason", [Reason.UNKNOWN_SKU, Reason.SKU_RETIRED])
def test_what_is_no_shortage_still_ends_the_order(reason: Reason) -> None:
    log = placed(item("1", "A", 2), item("2", "B", 2), partial_policy=LESS)
    log.when(part("A", 2, 1))
    outcome = log.when(refused("B", 2, reason=reason))
    assert log.rows.order.status is S.REJECTED and log.rows.order.reason == reason
    assert Send("stock", "A", ReleaseReservation("A~o1~1")) in outcome.sends


def test_with_enough_of_everything_the_policy_changes_nothing() -> None:
    log = placed(item("1", "A", 2), partial_policy=LESS)
    log.when(answer("reserved", "A", 2))
    assert units(log) == [(2, 2, 0, 0)] and not log.named(OrderLineCanceled)
    assert log.snapshot("order").label == "processing"


def test_only_what_will_be_sent_is_authorized_and_all_of_it_is_captured() -> None:
    log = placed(priced("1", "A", 3, 333), priced("2", "B", 1, 500), payment_terms="prepaid", partial_policy=LESS)
    log.when(part("A", 3, 2))
    log.when(refused("B"))
    assert asked(log).amount.amount_minor == 666
    log.when(said(asked(log)))
    log.when(answer("committed", "A", 2))
    ship(log)
    assert asked(log).operation == "capture" and asked(log).amount.amount_minor == 666
    log.when(said(asked(log)))
    assert log.rows.order.status is S.SHIPPED and net(log) == 666


def test_a_held_order_goes_on_later_with_what_it_was_given() -> None:
    log = placed(item("1", "A", 5), item("2", "B", 1), partial_policy=LESS)
    log.when(refused("B"))
    log.when(PlaceHold("MANUAL"), command_id="hold")
    log.when(part("A", 5, 3))
    assert log.rows.order.status is S.CONFIRMED
    log.when(answer("committed", "A", 3))
    assert log.rows.order.status is S.CONFIRMED, "no unit is missing of what is still wanted"
    log.when(ReleaseHold("MANUAL"), command_id="release")
    assert log.rows.order.status is S.PROCESSING and units(log) == [(5, 3, 0, 2), (1, 0, 0, 1)]


# -- ask ------------------------------------------------------------------------------------------------------------------------------
def waiting(*lines: PlacedLine, **more: Any) -> Log:
    """An order of 5 A and 1 B, of which 3 A are there, that waits for its customer."""
    log = placed(*(lines or (item("1", "A", 5), item("2", "B", 1))), partial_policy=ASK, **more)
    due_at = NOW + seconds(120 + 300 + SETTINGS.shortage_window_s)
    log.when(part("A", 5, 3, due_at=due_at))
    log.when(refused("B", 1))
    return log


def test_the_customer_is_asked_and_what_there_is_stays_reserved_meanwhile() -> None:
    log = Log("orders", "o1")
    sent = log.when(place(item("1", "A", 5), partial_policy=ASK), command_id="place").sends
    until = NOW + seconds(120 + 300 + SETTINGS.shortage_window_s)
    assert sent[0].command.due_at == until, "stock keeps the units for as long as the customer may think"
    outcome = log.when(part("A", 5, 3, due_at=until))
    due_at = NOW + seconds(SETTINGS.shortage_window_s)
    assert outcome.events[1:] == [ShortageAsked((Shortage("A", 5, 3),), due_at), OrderHoldPlaced("SHORT", Reason.INSUFFICIENT_STOCK)]
    assert not outcome.sends and not outcome.settles
    shown = log.snapshot("order")
    assert (shown.status, shown.label, shown.holds) == (S.PENDING, "on_hold", ("SHORT",))
    assert [(timer.kind, timer.due_at) for timer in log.timers()] == [("shortage_window", due_at)]


def test_the_customer_is_not_asked_for_longer_than_the_units_are_kept() -> None:
    log = placed(item("1", "A", 5), partial_policy=ASK)
    log.when(part("A", 5, 3, due_at=NOW + seconds(1000)))
    assert next(log.timers()).due_at == NOW + seconds(700)


def test_the_customer_takes_what_there_is() -> None:
    log = waiting()
    outcome = log.when(AnswerShortage(LESS), command_id="answer")
    assert outcome.events[:3] == [
        OrderHoldReleased("SHORT", LESS),
        OrderLineCanceled("1", "A", 2, Reason.INSUFFICIENT_STOCK),
        OrderLineCanceled("2", "B", 1, Reason.INSUFFICIENT_STOCK),
    ]
    assert Settle("place") in outcome.settles and not outcome.waits
    assert log.rows.order.status is S.PROCESSING and not log.rows.order.holds
    log.when(answer("committed", "A", 3))
    ship(log)
    assert units(log) == [(5, 3, 3, 2), (1, 0, 0, 1)] and log.rows.order.status is S.SHIPPED


def test_the_customer_wants_nothing_of_it() -> None:
    log = waiting()
    outcome = log.when(AnswerShortage("cancel"), command_id="answer")
    assert outcome.sends == [Send("stock", "A", ReleaseReservation("A~o1~1", reason=Reason.INSUFFICIENT_STOCK))]
    assert log.rows.order.status is S.CANCEL_PENDING and outcome.waits
    settled = log.when(answer("released", "A", 3)).settles
    assert [settle.command_id for settle in settled] == ["place", "answer"]
    assert log.rows.order.status is S.CANCELED


def test_a_customer_who_says_nothing_loses_the_order_and_its_units_go_back() -> None:
    log = waiting()
    outcome = log.when(next(log.timers()))
    assert OrderRejected(Reason.INSUFFICIENT_STOCK, (Shortage("A", 5, 3), Shortage("B", 1, 0))) in outcome.events
    assert [type(send.command) for send in outcome.sends] == [ReleaseReservation]
    assert Settle("place", Reason.INSUFFICIENT_STOCK, (Shortage("A", 5, 3), Shortage("B", 1, 0))) in outcome.settles
    assert log.rows.order.status is S.REJECTED and list(log.timers()) == []


def test_an_answer_can_also_be_an_ordinary_cancel() -> None:
    log = waiting()
    log.when(CancelOrder("customer", "no"), command_id="cancel")
    assert log.rows.order.status is S.CANCEL_PENDING
    late = log.when(AnswerShortage(LESS), command_id="answer")
    assert late.refused.reason == Reason.ILLEGAL_TRANSITION


def test_units_that_are_lost_while_the_customer_thinks_are_not_promised() -> None:
    log = waiting()
    log.when(answer("lost", "A", 1, allocations=(Qty("main", "", 2),)))
    assert log.rows.order.status is S.PENDING
    log.when(AnswerShortage(LESS), command_id="answer")
    assert units(log) == [(5, 2, 0, 3), (1, 0, 0, 1)]


def test_when_all_is_lost_meanwhile_the_answer_meets_a_rejected_order() -> None:
    log = waiting()
    log.when(answer("lost", "A", 3))
    log.when(AnswerShortage(LESS), command_id="answer")
    assert log.rows.order.status is S.REJECTED and log.rows.order.reason == Reason.INSUFFICIENT_STOCK


def test_a_prepaid_order_asks_first_and_then_for_the_money_of_what_is_left() -> None:
    log = waiting(priced("1", "A", 5, 100), priced("2", "B", 1, 70), payment_terms="prepaid")
    assert not log.named(PaymentRequested)
    log.when(AnswerShortage(LESS), command_id="answer")
    assert (asked(log).operation, asked(log).amount.amount_minor) == ("authorize", 300)
    log.when(said(asked(log), "declined"))
    assert log.rows.order.status is S.REJECTED


REFUSALS = [
    (AnswerShortage("maybe"), "PENDING", Reason.SCHEMA_INVALID),
    (AnswerShortage(LESS), "PENDING", Reason.ILLEGAL_TRANSITION),
    (AnswerShortage(LESS), "PROCESSING", Reason.ILLEGAL_TRANSITION),
    (AnswerShortage("cancel"), "CANCELED", Reason.ILLEGAL_TRANSITION),
    (AnswerShortage(LESS), "", Reason.NOT_FOUND),
]


@pytest.mark.parametrize(("command", "status", "reason"), REFUSALS)
def test_an_answer_that_nobody_asked_for_changes_nothing(command: AnswerShortage, status: str, reason: Reason) -> None:
    log = in_status(status) if status else Log("orders", "o1")
    outcome = log.when(command, command_id="answer")
    assert isinstance(outcome.refused, Refused) and outcome.refused.reason == reason and len(outcome.events) == 1


# -- with real owners -----------------------------------------------------------------------------------------------------------------
@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000_000).map(Seeded))
def test_whatever_arrives_when_nobody_gets_more_than_there_is_and_all_of_it_is_somebodys(random: Random) -> None:
    world = World(random)
    there = {sku: random.randrange(8) for sku in "ABC"}
    for sku, quantity in there.items():
        world.stock(sku, quantity + 1)
    for number in range(5):
        lines = tuple(PlacedLine(str(n), sku, random.randint(1, 4)) for n, sku in enumerate(random.sample("ABC", random.randint(1, 3)), 1))
        order = PlaceOrder("box", lines=lines, partial_policy=random.choice(("reject", LESS, ASK)))
        world.send("orders", f"o{number}", order, f"place-{number}")
        if random.random() < 0.5:
            world.send("orders", f"o{number}", AnswerShortage(random.choice((LESS, "cancel"))), f"answer-{number}")
    world.settle()
    sold: dict[str, int] = dict.fromkeys("ABC", 0)
    for number in range(5):
        row: OrderRow = world.log("orders", f"o{number}").rows.order
        assert row.status in (S.PROCESSING, S.REJECTED, S.CANCELED)
        for line in row.lines if row.status is S.PROCESSING else ():
            assert line.fulfilled + line.canceled == line.quantity
            assert row.partial_policy != "reject" or not line.canceled
            sold[line.sku] += line.fulfilled
        assert row.status is not S.PROCESSING or any(line.fulfilled for line in row.lines)
    for sku, quantity in there.items():
        cells = world.log("stock", sku).rows.stock.cells
        assert sum(cell.allocated for cell in cells) == sold[sku] <= quantity + 1
        assert sum(cell.reserved for cell in cells) == 0
