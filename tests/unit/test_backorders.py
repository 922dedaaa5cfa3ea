"""Orders that wait for units which are not there: the queue of a sku, and the order that stands in it (domain.md 2.4; slot D110)."""

from random import Random
from typing import Any

import pytest
from domain_harness import NOW, SETTINGS, Log, Seeded, World, seconds
from domain_orders import answer, item, place
from domain_payments import PREPAID, asked, priced, said
from domain_stock import SKU, cell, counters, reserve, stocked
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from orderflow.schemas.catalog import http_code
from orderflow.streams.domain import sagas
from orderflow.streams.domain.channel import BOX
from orderflow.streams.domain.contract import Settle, Shortage, TimerDue
from orderflow.streams.domain.order_records import (
    AnswerShortage,
    CancelOrder,
    OrderBackordered,
    OrderHoldPlaced,
    OrderHoldReleased,
    OrderLineCanceled,
    OrderStatus,
    RecordStockAnswer,
    ShortageAsked,
)
from orderflow.streams.domain.parts import Holder
from orderflow.streams.domain.payment_records import PaymentRequested
from orderflow.streams.domain.reasons import Reason
from orderflow.streams.domain.stock_records import (
    AdjustStock,
    BackorderAllocated,
    BackorderQueued,
    CommitReservation,
    ExtendReservation,
    ReceiveStock,
    ReleaseReservation,
    ReserveStock,
    ShipStock,
)

S = OrderStatus
MONTH = SETTINGS.backorder_window_s


def wait(quantity: int = 4, order_id: str = "o1", **more: Any) -> ReserveStock:
    return reserve(quantity, order_id, backorder=True, **more)


def receive(log: Log, quantity: int, location_id: str = "main", **more: Any) -> Any:
    return log.when(ReceiveStock(location_id, quantity, **more), command_id=f"receipt {len(log.events)}")


def told(outcome: Any) -> list[tuple[str, str, int]]:
    """Which orders were told what, and what they keep."""
    answers = [(send.key, send.command) for send in outcome.sends if isinstance(send.command, RecordStockAnswer)]
    return [(key, said.outcome, sum(qty.quantity for qty in said.allocations)) for key, said in answers]


def given_to(outcome: Any) -> list[str]:
    return [event.holder.order_id for event in outcome.events if isinstance(event, BackorderAllocated)]


# -- the queue of a sku ---------------------------------------------------------------------------------------------------------------
def test_what_is_not_there_is_waited_for_and_moves_nothing() -> None:
    log = stocked(3)
    outcome = log.when(wait(4))
    assert told(outcome) == [("o1", "queued", 0)] and cell(log).backordered == 4 and counters(log) == (3, 0, 0, 3)
    again = log.when(wait(4))
    assert again.recalled and told(again) == [("o1", "queued", 0)]


def test_what_is_there_is_given_at_once() -> None:
    log = stocked(4)
    assert told(log.when(wait(4))) == [("o1", "reserved", 4)] and cell(log).backordered == 0


def test_a_receipt_serves_who_waits_in_the_turn_it_comes_in_and_the_oldest_first() -> None:
    log = stocked(1)
    for number, quantity in enumerate((3, 2, 1), 1):
        log.when(wait(quantity, f"o{number}"), at=NOW + seconds(number))
    outcome = receive(log, 4)
    assert told(outcome) == [("o1", "reserved", 3), ("o2", "reserved", 2)], "4 and the one that was there"
    assert counters(log) == (5, 5, 0, 0) and cell(log).backordered == 1
    assert told(receive(log, 2)) == [("o3", "reserved", 1)] and counters(log) == (7, 6, 0, 1)


def test_nobody_who_wants_less_overtakes() -> None:
    log = stocked(1)
    log.when(wait(5, "big"), at=NOW + seconds(1))
    log.when(wait(2, "small"), at=NOW + seconds(2))
    assert given_to(receive(log, 3)) == [] and counters(log) == (4, 0, 0, 4)
    assert given_to(receive(log, 1)) == ["big"] and given_to(receive(log, 2)) == ["small"]


def test_more_urgent_orders_are_served_before_older_ones() -> None:
    log = stocked(1)
    log.when(wait(2, "old"), at=NOW + seconds(1))
    log.when(wait(2, "urgent", priority=5), at=NOW + seconds(2))
    assert given_to(receive(log, 1)) == ["urgent"] and given_to(receive(log, 2)) == ["old"]


def test_no_priority_is_below_none_or_beyond_the_highest() -> None:
    log = stocked(1)
    for number, priority in enumerate((-5, 0, 10**12, 10**9), 1):
        log.when(wait(2, f"o{number}", priority=priority))
    assert given_to(receive(log, 7)) == ["o3", "o4", "o1", "o2"]


def test_who_comes_later_gets_only_what_the_queue_does_not_want() -> None:
    log = stocked(3)
    log.when(wait(5, "first"))
    refused = log.when(reserve(1, "later")).events[0]
    assert (refused.reason, refused.available, refused.contended) == (Reason.INSUFFICIENT_STOCK, 0, False)
    assert told(log.when(reserve(1, "less", allow_partial=True))) == [("less", "refused", 0)]
    assert told(log.when(wait(1, "queues"))) == [("queues", "queued", 0)]
    receive(log, 3)
    assert counters(log) == (6, 6, 0, 0)


@pytest.mark.parametrize("way", ["release", "expire", "adjust"])
def test_whatever_makes_units_available_serves_the_queue(way: str) -> None:
    log = stocked(4)
    log.when(reserve(4, "other"))
    log.when(wait(2, "o1", due_at=NOW + seconds(9000)))
    commands = {
        "release": ReleaseReservation(f"{SKU}~other~1"),
        "adjust": AdjustStock("main", delta=2, reason="found"),
        "expire": next((timer for timer in log.timers() if "other" in timer.entity_id), None),
    }
    assert given_to(log.when(commands[way])) == ["o1"] and cell(log).backordered == 0


def test_units_that_are_not_good_serve_nobody() -> None:
    log = stocked(1)
    log.when(wait(2))
    assert given_to(receive(log, 9, disposition="damaged")) == [] and cell(log).backordered == 2


@pytest.mark.parametrize("end", ["release", "expire"])
def test_who_stops_waiting_leaves_the_queue_to_the_next(end: str) -> None:
    log = stocked(3)
    log.when(wait(5, "o1"), at=NOW + seconds(1))
    log.when(wait(2, "o2", due_at=NOW + seconds(9000)), at=NOW + seconds(2))
    timer = next(timer for timer in log.timers() if "o1" in timer.entity_id)
    outcome = log.when(ReleaseReservation(f"{SKU}~o1~1") if end == "release" else timer)
    assert told(outcome) == [("o1", "released" if end == "release" else "expired", 0), ("o2", "reserved", 2)]
    assert counters(log) == (3, 2, 0, 1) and cell(log).backordered == 0
    assert told(log.when(ReleaseReservation(f"{SKU}~o1~1"))) == [("o1", "released" if end == "release" else "expired", 0)]


def test_what_waits_is_neither_committed_nor_shipped_but_may_wait_longer() -> None:
    log = stocked(1)
    log.when(wait(2, due_at=NOW + seconds(100)))
    refused = log.when(CommitReservation(f"{SKU}~o1~1"))
    assert refused.refused.reason == Reason.INSUFFICIENT_STOCK and told(refused) == [("o1", "queued", 0)]
    assert log.when(ShipStock(f"{SKU}~o1~1", "o1~F1")).refused.reason == Reason.ILLEGAL_TRANSITION
    assert log.when(ExtendReservation(f"{SKU}~o1~1", NOW + seconds(150))).refused is None
    (timer,) = log.timers()
    assert timer.due_at == NOW + seconds(150)


def test_a_wait_for_one_location_does_not_stop_another() -> None:
    log = stocked(1)
    receive(log, 1, "north")
    log.when(wait(3, "northern", preferred=("north",), allow_other=False), at=NOW + seconds(1))
    log.when(wait(3, "main", preferred=("main",), allow_other=False), at=NOW + seconds(2))
    assert (cell(log, "north").backordered, cell(log).backordered) == (3, 3)
    assert given_to(receive(log, 2)) == ["main"] and given_to(receive(log, 2, "north")) == ["northern"]


def test_units_that_were_waited_for_are_like_any_others_afterwards() -> None:
    log = stocked(1)
    log.when(wait(2))
    receive(log, 1)
    log.when(CommitReservation(f"{SKU}~o1~1"))
    assert counters(log) == (2, 0, 2, 0)
    assert told(log.when(wait(2))) == [("o1", "committed", 2)], "a repeat of the ask meets what became of it"


# -- the order ------------------------------------------------------------------------------------------------------------------------
BACK = replace(BOX, partial_policy="backorder")


def waiting(channel: Any = BACK, *lines: Any) -> Log:
    """An order whose first sku is there, and whose second one it waits for."""
    log = Log("orders", "o1", channel=channel)
    (ask, *_) = log.when(place(*(lines or (item("1", "A", 2), item("2", "B", 3)))), command_id="place").sends
    log.when(answer("reserved", "A", 2, due_at=ask.command.due_at))
    log.when(queued("B", 3, ask.command.due_at))
    return log


def queued(sku: str, quantity: int, due_at: int) -> RecordStockAnswer:
    return RecordStockAnswer(f"{sku}~o1~1", sku, "queued", quantity, (), due_at, 1)


def granted(log: Log, sku: str = "B", quantity: int = 3) -> Any:
    row = next(row for row in log.rows.stock_answer.values() if row.sku == sku)
    return log.when(answer("reserved", sku, quantity, due_at=row.due_at))


def test_an_owner_is_asked_to_let_it_wait_a_month_and_five_minutes() -> None:
    log = Log("orders", "o1", channel=BACK)
    (ask,) = log.when(place(item()), command_id="place").sends
    assert ask.command.backorder and ask.command.due_at == NOW + seconds(120 + MONTH + 300)
    (plain,) = Log("orders", "o1").when(place(item()), command_id="place").sends
    assert not plain.command.backorder


def test_whoever_placed_it_hears_at_once_that_it_waits_and_for_what() -> None:
    log = Log("orders", "o1", channel=BACK)
    (ask, *_) = log.when(place(item("1", "A", 2), item("2", "B", 3)), command_id="place").sends
    log.when(answer("reserved", "A", 2, due_at=ask.command.due_at))
    outcome = log.when(queued("B", 3, ask.command.due_at))
    assert outcome.settles == [Settle("place")] and not outcome.sends, "what there is stays reserved"
    assert outcome.events[1:] == [
        OrderBackordered((Shortage("B", 3, 1),), NOW + seconds(MONTH)),
        OrderHoldPlaced("SHORT", Reason.INSUFFICIENT_STOCK),
    ]
    shown = log.snapshot("order")
    assert (shown.status, shown.label, shown.holds) == (S.PENDING, "on_hold", ("SHORT",))
    (saga,) = sagas.sagas(log.rows)
    assert (saga.saga_type, saga.step, saga.waits_for) == ("place", "backorder", ("stock B",))
    assert sagas.stuck(saga, log.at + seconds(1000), sagas.Patience()) == "", "to wait is what it is meant to do"


def test_when_the_last_units_come_it_is_confirmed() -> None:
    log = waiting()
    outcome = granted(log)
    assert log.rows.order.status is S.PROCESSING and not log.rows.order.holds and log.named(OrderHoldReleased)
    assert {type(send.command) for send in outcome.sends} == {CommitReservation} and len(outcome.sends) == 2
    assert not list(log.timers())


def test_a_prepaid_order_is_paid_when_all_of_it_is_there() -> None:
    log = waiting(replace(PREPAID, partial_policy="backorder"), priced("1", "A", 2, 100), priced("2", "B", 3, 100))
    assert not log.named(PaymentRequested)
    granted(log)
    assert asked(log).amount.amount_minor == 500 and log.rows.order.status is S.PENDING and not log.rows.order.holds
    log.when(said(asked(log)))
    assert log.rows.order.status is S.PROCESSING


def test_after_a_month_it_gives_everything_back() -> None:
    log = waiting()
    (timer,) = log.timers()
    assert (timer.kind, timer.due_at) == ("backorder_window", NOW + seconds(MONTH))
    outcome = log.when(timer)
    assert (log.rows.order.status, log.rows.order.reason) == (S.REJECTED, Reason.INSUFFICIENT_STOCK) and http_code(
        Reason.INSUFFICIENT_STOCK
    ) == 409
    assert {send.key for send in outcome.sends} == {"A", "B"} and {type(send.command) for send in outcome.sends} == {ReleaseReservation}
    granted(log)  # while the release is on its way
    assert log.rows.stock_answer["o1~G1~B"].outcome == "releasing"
    log.when(answer("released", "B", 3, allocations=()))
    assert log.rows.stock_answer["o1~G1~B"].outcome == "released"


def test_a_cancel_ends_the_wait() -> None:
    log = waiting()
    outcome = log.when(CancelOrder("customer"), command_id="cancel")
    assert {send.key for send in outcome.sends} == {"A", "B"}
    log.when(answer("released", "A", 0))
    log.when(answer("released", "B", 0))
    assert log.rows.order.status is S.CANCELED


def test_a_reservation_that_ends_while_others_wait_ends_the_order() -> None:
    log = waiting()
    log.when(answer("lost", "A", 2))
    assert (log.rows.order.status, log.rows.order.reason) == (S.REJECTED, Reason.INSUFFICIENT_STOCK)


def test_an_unknown_sku_is_not_waited_for() -> None:
    log = Log("orders", "o1", channel=BACK)
    log.when(place(item("1", "A"), item("2", "B")), command_id="place")
    log.when(queued("A", 1, NOW + seconds(9_000_000)))
    log.when(answer("refused", "B", reason=Reason.UNKNOWN_SKU))
    assert log.rows.order.status is S.REJECTED and log.rows.order.reason == Reason.UNKNOWN_SKU


@pytest.mark.parametrize("policy", ["reject", "ship_available", "ask", "backorder"])
def test_what_must_be_accepted_is_never_refused_for_want_of_units(policy: str) -> None:
    """domain.md 2.0: it is sold elsewhere already."""
    log = Log("orders", "o1", channel=replace(BOX, partial_policy=policy))
    (ask,) = log.when(replace(place(item("1", "B", 3)), must_accept=True), command_id="place").sends
    assert ask.command.backorder
    outcome = log.when(queued("B", 3, ask.command.due_at))
    assert outcome.settles == [Settle("place")] and log.rows.order.holds[0].hold == "SHORT"
    granted(log)
    assert log.rows.order.status is S.PROCESSING


def test_of_what_must_be_accepted_and_may_be_less_the_customer_is_asked_when_something_is_there() -> None:
    log = Log("orders", "o1", channel=replace(BOX, partial_policy="ask", must_accept=True))
    (ask, *_) = log.when(place(item("1", "A", 3), item("2", "B", 3)), command_id="place").sends
    log.when(answer("reserved", "A", 1, due_at=ask.command.due_at))
    log.when(queued("B", 3, ask.command.due_at))
    assert log.rows.order.step == "backorder"
    granted(log)
    assert log.named(ShortageAsked)[0].shortages == (Shortage("A", 3, 1),) and log.rows.order.step == "shortage"
    log.when(AnswerShortage("ship_available"), command_id="fine")
    assert log.rows.order.status is S.PROCESSING and log.named(OrderLineCanceled)[0].quantity == 2


# -- both together --------------------------------------------------------------------------------------------------------------------
@settings(max_examples=200, deadline=None)
@given(st.integers(0, 2**32 - 1).map(Seeded), st.lists(st.sampled_from(["receive", "cancel", "wait", "break", "plain"]), max_size=12))
def test_who_waited_first_is_served_first_and_what_is_left_over_is_free(random: Random, wishes: list[str]) -> None:
    """Orders that wait for one sku among others that do not, receipts, cancels, breakage, in any interleaving."""
    world = World(random, channel=BACK).stock("A", 2)
    world.repeat = 0.1
    for number in range(5):
        world.place(f"o{number}", A=random.randint(1, 3))
    left = [*wishes, "receive", "receive"]
    while world.flying or left:
        if left and (not world.flying or random.random() < 0.3):
            _wish(world, random, left.pop(0), len(left))
        else:
            world.arrive(random.choice(list(world.flying)))
    _check(world)
    while world.tick():
        while world.flying:
            world.arrive(random.choice(list(world.flying)))
    _check(world)
    assert not [event for event in _queue(world)[0] if event not in _queue(world)[1]], "nobody waits for ever"


def _wish(world: World, random: Random, wish: str, number: int) -> None:
    order_id = f"o{random.randrange(5)}"
    if wish == "receive":
        world.send("stock", "A", ReceiveStock("main", random.randint(1, 4)), f"receipt {number}")
    elif wish == "cancel":
        world.send("orders", order_id, CancelOrder("staff"), f"cancel {number}")
    elif wish == "break":
        world.send("stock", "A", AdjustStock("main", delta=-1, reason="broken"), f"break {number}")
    elif wish == "plain":
        world.send("stock", "A", ReserveStock(f"A~p{number}~1", Holder(f"p{number}", 1), 1, world.at + seconds(600)), f"plain {number}")
    else:
        world.tick()


def _queue(world: World) -> tuple[list[str], list[str]]:
    """Reservations that had to wait, and those that do not any more, by id."""
    log = world.log("stock", "A")
    began = [event.reservation_id for event, _ in log.events if isinstance(event, BackorderQueued)]
    ended = [row.reservation_id for row in log.rows.reservation.values() if not row.wanted]
    return began, ended


def _check(world: World) -> None:
    log = world.log("stock", "A")
    (found,) = log.rows.stock.cells
    waits = [row for row in log.rows.reservation.values() if row.wanted]
    assert found.backordered == sum(row.wanted for row in waits)
    if waits:
        first = min(waits, key=lambda row: row.waits_since)
        assert found.available < first.wanted, "units lie there, and somebody waits for them"
    for number in range(5):
        order = world.log("orders", f"o{number}").rows.order
        row = log.rows.reservation.get(f"A~o{number}~1")
        if order is not None and order.status in (S.CONFIRMED, S.PROCESSING):
            assert row is not None and not row.wanted
        if order is not None and order.status in (S.REJECTED, S.CANCELED, S.EXPIRED) and not world.flying:
            assert row is None or not (row.wanted or row.allocations)


def test_a_timer_of_a_wait_that_is_over_is_nothing() -> None:
    log = waiting()
    (timer,) = log.timers()
    granted(log)
    assert not log.when(TimerDue(timer.timer_id, timer.kind, timer.due_at, timer.entity_id, timer.entity_version)).events
