"""Editing an order: only the difference moves, all of it or nothing, once (domain.md 2.2; bug 4 of section 5)."""

from random import Random

import pytest
from domain_fulfillment import F, at_status, current, post, ship
from domain_harness import NOW, SETTINGS, Log, Seeded, World, seconds
from domain_orders import answer, confirmed, in_status, item, placed, refused
from domain_payments import CURRENCY, asked, authorized, net, priced, said
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace
from test_cod import confirmed as confirmed_cod

from orderflow.schemas.catalog import http_code
from orderflow.streams.domain import order_edits, sourcing
from orderflow.streams.domain.claims import ClaimValue
from orderflow.streams.domain.contract import Send, Settle, Shortage
from orderflow.streams.domain.order_records import (
    CancelOrder,
    EditOrder,
    FulfillmentCreated,
    FulfillmentReduced,
    LineDelta,
    LineProgress,
    LineQuantity,
    OrderEdited,
    OrderEditFailed,
    OrderEditRequested,
    OrderStatus,
    PlaceHold,
    PlaceOrder,
    StockAsked,
)
from orderflow.streams.domain.parts import Holder, Money, Qty
from orderflow.streams.domain.payment_records import CapturePayment, PaymentRequested
from orderflow.streams.domain.reasons import Reason
from orderflow.streams.domain.sagas import EDIT, sagas
from orderflow.streams.domain.stock_records import CommitReservation, ReleaseReservation, ReserveStock

UNTIL = NOW + seconds(120 + 300)


def edit(**quantities: int) -> EditOrder:
    """Line 1 as L1=..., line 2 as L2=..."""
    return EditOrder(tuple(LineQuantity(name.removeprefix("L"), quantity) for name, quantity in quantities.items()))


def units(log: Log) -> list[tuple[int, int, int]]:
    """(ordered, assigned, shipped) of each line."""
    return [(line.quantity, line.fulfilled, line.shipped) for line in log.rows.order.lines]


# -- more -----------------------------------------------------------------------------------------------------------------------------
def test_more_units_are_asked_for_and_become_a_fulfillment_when_they_are_granted() -> None:
    log = confirmed(item(quantity=2))
    version = log.snapshot("order").version
    outcome = log.when(edit(L1=5), command_id="edit")
    assert outcome.waits and [type(event) for event in outcome.events] == [OrderEditRequested, StockAsked]
    assert outcome.sends == [Send("stock", "A", ReserveStock("A~o1~2", Holder("o1", 2), 3, UNTIL, (), True, line_ids=("1",)))]
    assert units(log) == [(2, 2, 0)], "as it was, until the owner has said yes"
    outcome = log.when(answer("reserved", quantity=3, attempt=2))
    assert outcome.settles == [Settle("edit")] and [send.command for send in outcome.sends] == [CommitReservation("A~o1~2")]
    assert log.named(OrderEdited) == [OrderEdited(version + 1, (LineDelta("1", "A", 3),), None, "edit")]
    assert units(log) == [(5, 5, 0)] and [row.fulfillment_id for row in log.named(FulfillmentCreated)] == ["o1~F1", "o1~F2"]
    log.when(answer("committed", quantity=3, attempt=2))
    for target in ("o1~F1", "o1~F2"):
        ship(log, target)
    assert log.snapshot("order").status is OrderStatus.SHIPPED and units(log) == [(5, 5, 5)]


def test_a_refused_edit_leaves_the_order_as_it_was_and_gives_back_what_was_granted() -> None:
    log = confirmed(item("1", "A", 1), item("2", "B", 1))
    log.when(edit(L1=3, L2=4), command_id="edit")
    log.when(answer("reserved", "A", 2, attempt=2))
    outcome = log.when(replace(refused("B", 3, 1), reservation_id="B~o1~2"))
    shortages = (Shortage("B", 3, 1),)
    assert outcome.settles == [Settle("edit", Reason.INSUFFICIENT_STOCK, shortages)]
    assert outcome.sends == [Send("stock", "A", ReleaseReservation("A~o1~2"))]
    assert log.named(OrderEditFailed) == [OrderEditFailed(Reason.INSUFFICIENT_STOCK, shortages, "edit")]
    assert units(log) == [(1, 1, 0), (1, 1, 0)]
    log.when(answer("released", "A", 2, attempt=2))
    ship(log)
    assert log.snapshot("order").status is OrderStatus.SHIPPED


def test_an_owner_that_does_not_answer_is_asked_to_release_and_the_edit_is_refused() -> None:
    log = confirmed(item(quantity=2))
    log.when(edit(L1=3), command_id="edit")
    (timer,) = log.timers()
    assert (timer.kind, timer.due_at) == (sourcing.GIVE_UP, NOW + seconds(120))
    outcome = log.when(timer)
    assert outcome.settles == [Settle("edit", Reason.STEP_TIMED_OUT)]
    assert outcome.sends == [Send("stock", "A", ReleaseReservation("A~o1~2"))], "the order keeps what it had"
    log.when(answer("released", quantity=1, attempt=2))
    assert units(log) == [(2, 2, 0)] and list(log.timers()) == []


def test_a_grant_that_comes_after_the_edit_was_given_up_goes_back() -> None:
    log = confirmed(item(quantity=2))
    log.when(edit(L1=3), command_id="edit")
    log.when(next(log.timers()))
    log.when(answer("reserved", quantity=1, attempt=2))
    log.when(answer("released", quantity=1, attempt=2))
    assert units(log) == [(2, 2, 0)] and log.rows.order.answers_open == 0


def test_bug_4_an_edit_that_is_repeated_reserves_once() -> None:
    """2 to 5, said five times under one key, and once more under another: five units are the order's, and one set of reservations."""
    world = World(Random(4)).stock("A", 10)
    world.place("o1", A=2)
    world.drain()
    for _ in range(5):
        world.send("orders", "o1", edit(L1=5), "edit")
        world.drain()
    world.send("orders", "o1", edit(L1=5), "again")
    world.settle(NOW + seconds(60))
    stock = world.log("stock", "A").rows
    assert {name: sum(qty.quantity for qty in row.allocations) for name, row in stock.reservation.items()} == {"A~o1~1": 2, "A~o1~2": 3}
    assert stock.stock.cells[0].allocated == 5 and units(world.log("orders", "o1")) == [(5, 5, 0)]
    assert len(world.log("orders", "o1").named(OrderEdited)) == 1 and [settle.reason for settle in world.settled["edit"]] == [""]


# -- fewer ----------------------------------------------------------------------------------------------------------------------------
def test_fewer_units_come_off_at_once() -> None:
    log = confirmed(item(quantity=5), item("2", "B", 2))
    outcome = log.when(edit(L1=3, L2=2), command_id="edit")
    assert not outcome.waits and outcome.settles == [Settle("edit")]
    assert log.named(OrderEdited)[0].delta == (LineDelta("1", "A", -2),)
    assert log.named(FulfillmentReduced) == [FulfillmentReduced("o1~F1", "main", (LineProgress("1", 3),))]
    assert outcome.sends == [Send("stock", "A", ReleaseReservation("A~o1~1", reason="REDUCED", kept=(Qty("main", "", 3),)))]
    assert units(log) == [(3, 3, 0), (2, 2, 0)] and log.snapshot("order").label == "processing", "nothing of it is canceled"


def test_more_of_one_and_fewer_of_another_are_one_step() -> None:
    log = confirmed(item("1", "A", 3), item("2", "B", 1))
    log.when(edit(L1=1, L2=2), command_id="edit")
    assert units(log) == [(3, 3, 0), (1, 1, 0)] and log.named(FulfillmentReduced) == []
    log.when(answer("reserved", "B", 1, attempt=2))
    assert units(log) == [(1, 1, 0), (2, 2, 0)] and len(log.named(FulfillmentReduced)) == 1


def test_what_it_is_already_is_answered_as_done() -> None:
    log = confirmed(item(quantity=2))
    outcome = log.when(edit(L1=2))
    assert outcome.events == [] and outcome.refused is None and not outcome.waits


# -- when it may be -------------------------------------------------------------------------------------------------------------------
def discounted() -> Log:
    return confirmed(item(quantity=2, unit_price=Money(500, CURRENCY), discount=Money(100, CURRENCY)))


def held() -> Log:
    log = confirmed(item(quantity=2))
    log.when(PlaceHold("MANUAL"))
    return log


def edited() -> Log:
    log = confirmed(item(quantity=2))
    log.when(edit(L1=3), command_id="first")
    return log


@pytest.mark.parametrize(
    ("log", "command", "reason", "code"),
    [
        (Log("orders", "o1"), edit(L1=2), Reason.NOT_FOUND, 404),
        (confirmed(), EditOrder(), Reason.EMPTY_LINES, 400),
        (confirmed(), edit(L1=0), Reason.QUANTITY_INVALID, 422),
        (confirmed(), EditOrder((LineQuantity("1", 2), LineQuantity("1", 3))), Reason.QUANTITY_INVALID, 422),
        (confirmed(), edit(L1=SETTINGS.quantity_per_line_max + 1), Reason.QUANTITY_LIMIT, 422),
        (confirmed(), edit(L1=SETTINGS.quantity_per_sku_max + 1), Reason.QUANTITY_LIMIT, 422),
        (confirmed(), edit(L9=1), Reason.LINE_UNKNOWN, 422),
        (in_status("SHIPPED"), edit(L1=2), Reason.ALREADY_SHIPPED, 409),
        (in_status("CANCELED"), edit(L1=2), Reason.ALREADY_FINAL, 409),
        (in_status("CANCEL_PENDING"), edit(L1=2), Reason.ALREADY_FINAL, 409),
        (held(), edit(L1=3), Reason.HOLD_ACTIVE, 409),
        (in_status("CONFIRMED"), edit(L1=3), Reason.HOLD_ACTIVE, 409),
        (placed(), edit(L1=3), Reason.EDIT_NOT_ALLOWED, 409),
        (at_status(F.PICKING), edit(L1=3), Reason.EDIT_NOT_ALLOWED, 409),
        (edited(), edit(L1=4), Reason.EDIT_NOT_ALLOWED, 409),
        (discounted(), edit(L1=1), Reason.EDIT_NOT_ALLOWED, 409),
        (confirmed(item(unit_price=Money(2**52, CURRENCY))), edit(L1=3), Reason.AMOUNT_OVERFLOW, 422),
    ],
)
def test_an_edit_is_refused_with_its_reason(log: Log, command: EditOrder, reason: Reason, code: int) -> None:
    before = log.rows
    outcome = log.when(command, command_id="edit")
    assert outcome.refused.reason == reason and http_code(reason) == code
    assert outcome.sends == [] and log.rows == before


def test_units_that_were_canceled_are_not_taken_off_again() -> None:
    log = confirmed(item(quantity=5), item("2", "B"))
    log.when(CancelOrder("staff", "", (LineQuantity("1", 3),)), command_id="cancel")
    assert log.when(edit(L1=2)).refused.reason == Reason.QUANTITY_EXCEEDED
    log.when(edit(L1=4), command_id="one less")
    assert units(log)[0] == (4, 1, 0)


def test_an_edit_waits_for_our_own_commit() -> None:
    log = confirmed(item(quantity=2), committed=False)
    outcome = log.when(edit(L1=3), command_id="edit")
    assert outcome.waits and outcome.sends == []
    outcome = log.when(answer("committed", quantity=2))
    assert [send.command.quantity for send in outcome.sends] == [1]
    log.when(answer("reserved", quantity=1, attempt=2))
    assert units(log) == [(3, 3, 0)]


def test_picking_that_begins_meanwhile_wins() -> None:
    log = confirmed(item(quantity=2))
    log.when(edit(L1=3), command_id="edit")
    log.when(post("picking"), command_id="picking")
    outcome = log.when(answer("reserved", quantity=1, attempt=2))
    assert outcome.settles == [Settle("edit", Reason.EDIT_NOT_ALLOWED)]
    assert outcome.sends == [Send("stock", "A", ReleaseReservation("A~o1~2"))] and units(log) == [(2, 2, 0)]


def test_an_order_that_ships_meanwhile_is_shipped_when_its_edit_is_answered() -> None:
    log = confirmed(item(quantity=2))
    log.when(edit(L1=3), command_id="edit")
    ship(log)
    assert current(log) is F.SHIPPED and log.snapshot("order").status is OrderStatus.PROCESSING
    log.when(answer("reserved", quantity=1, attempt=2))
    log.when(answer("released", quantity=1, attempt=2))
    assert log.snapshot("order").status is OrderStatus.SHIPPED and units(log) == [(2, 2, 2)]


def test_a_cancel_ends_the_edit_and_gives_everything_back() -> None:
    log = confirmed(item(quantity=2))
    log.when(edit(L1=3), command_id="edit")
    outcome = log.when(CancelOrder("staff"), command_id="cancel")
    assert Settle("edit", Reason.ALREADY_FINAL) in outcome.settles
    assert {send.command.reservation_id for send in outcome.sends} == {"A~o1~1", "A~o1~2"}
    for number in (1, 2):
        log.when(answer("released", quantity=3 - number, attempt=number))
    assert log.snapshot("order").status is OrderStatus.CANCELED


def test_a_saga_shows_whom_the_edit_waits_for() -> None:
    log = edited()
    (found,) = sagas(log.rows)
    assert (found.saga_type, found.step, found.waits_for, found.due_at) == (EDIT, order_edits.MORE, ("stock A",), NOW + seconds(120))


# -- money ----------------------------------------------------------------------------------------------------------------------------
def test_money_follows_an_edit() -> None:
    log = authorized(priced("1", "A", 3, 400))
    log.when(edit(L1=2), command_id="edit")
    assert log.named(OrderEdited)[0].money_delta == Money(-400, CURRENCY)
    log.when(answer("released", quantity=1, allocations=(Qty("main", "", 2),)))
    ship(log)
    assert (asked(log).operation, asked(log).amount.amount_minor) == ("capture", 800)
    log.when(said(asked(log)))
    assert (asked(log).operation, asked(log).amount.amount_minor) == ("void", 400)
    log.when(said(asked(log)))
    assert net(log) == 800


def dearer() -> Log:
    """An order of two for 800, which has got a third one, and asks for its money."""
    log = authorized(priced("1", "A", 2, 400))
    log.when(edit(L1=3), command_id="edit")
    assert not [request for request in log.named(PaymentRequested) if request.operation == "increase"], "units first"
    log.when(answer("reserved", "A", 1, attempt=2))
    return log


def test_a_dearer_order_asks_for_the_difference_when_its_units_are_there_and_is_edited_by_a_yes() -> None:
    log = dearer()
    request = asked(log)
    assert (request.operation, request.amount.amount_minor, request.idempotency_key) == ("increase", 400, "o1~A1:increase:2")
    assert units(log) == [(2, 2, 0)] and log.rows.order.edit is not None, "as it was, until the provider has said yes"
    assert [saga.waits_for for saga in sagas(log.rows)] == [("provider local",)]
    outcome = log.when(said(request))
    assert outcome.settles == [Settle("edit")] and [type(send.command) for send in outcome.sends] == [ClaimValue, CommitReservation]
    assert units(log) == [(3, 3, 0)] and log.rows.payment.ledger.authorized == 1200 and log.rows.order.edit is None
    log.when(answer("committed", "A", 1, attempt=2))
    for target in ("o1~F1", "o1~F2"):
        ship(log, target)
        log.when(said(asked(log)))
    assert log.rows.order.status == OrderStatus.SHIPPED and log.rows.payment.ledger.captured == 1200


def test_a_no_leaves_it_as_it_was_and_gives_the_units_back() -> None:
    log = dearer()
    outcome = log.when(said(asked(log), "declined", code="insufficient_funds"))
    assert outcome.settles == [Settle("edit", Reason.PAYMENT_DECLINED)] and http_code(Reason.PAYMENT_DECLINED) == 402
    assert [send.command for send in outcome.sends] == [ReleaseReservation("A~o1~2", reason="")]
    assert units(log) == [(2, 2, 0)] and log.rows.payment.ledger.authorized == 800 and log.rows.order.edit is None
    log.when(answer("released", "A", 1, attempt=2))
    assert log.when(edit(L1=1), command_id="less").settles == [Settle("less")], "and it may be edited again"


def test_what_was_authorized_and_is_not_needed_any_more_pays_for_what_is() -> None:
    log = authorized(priced("1", "A", 3, 400), priced("2", "B", 1, 400))
    log.when(edit(L1=2), command_id="less")
    log.when(edit(L2=2), command_id="more")
    log.when(answer("reserved", "B", 1, attempt=2))
    assert [request.operation for request in log.named(PaymentRequested)] == ["authorize"] and units(log) == [(2, 2, 0), (2, 2, 0)]


def test_units_that_are_lost_while_the_provider_thinks_end_the_edit_and_the_money_goes_back_with_the_order() -> None:
    log = dearer()
    request = asked(log)
    assert log.when(answer("expired", "A", 1, attempt=2)).settles == [Settle("edit", Reason.INSUFFICIENT_STOCK, (Shortage("A", 1, 0),))]
    log.when(said(request))
    assert log.rows.payment.ledger.authorized == 1200 and units(log) == [(2, 2, 0)]
    ship(log)
    log.when(said(asked(log)))
    assert (asked(log).operation, asked(log).amount.amount_minor) == ("void", 400), "what was authorized for nothing"


def test_a_cancel_while_the_provider_thinks_gives_everything_back() -> None:
    log = dearer()
    request = asked(log)
    outcome = log.when(CancelOrder("staff"), command_id="cancel")
    assert Settle("edit", Reason.ALREADY_FINAL) in outcome.settles and log.rows.order.status == OrderStatus.CANCEL_PENDING
    log.when(said(request))
    assert (asked(log).operation, asked(log).amount.amount_minor) == ("void", 1200)


def test_an_operation_that_is_under_way_is_waited_for_first() -> None:
    log = authorized(priced("1", "A", 2, 400))
    log.when(CapturePayment(Money(100, CURRENCY)), command_id="early")
    log.when(edit(L1=3), command_id="edit")
    log.when(answer("reserved", "A", 1, attempt=2))
    assert asked(log).operation == "capture"
    log.when(said(asked(log)))
    assert (asked(log).operation, asked(log).amount.amount_minor) == ("increase", 400)


def test_what_is_paid_on_delivery_costs_more_at_once() -> None:
    log = confirmed_cod(priced("1", "A", 2, 400))
    log.when(edit(L1=3), command_id="edit")
    outcome = log.when(answer("reserved", "A", 1, attempt=2))
    assert outcome.settles == [Settle("edit")] and log.rows.payment.ledger.authorized == 1200 and units(log) == [(3, 3, 0)]


# -- everything at once ---------------------------------------------------------------------------------------------------------------
@settings(max_examples=200, deadline=None)
@given(st.integers(0, 2**32 - 1).map(Seeded), st.sampled_from([0.0, 0.2]))
def test_whatever_is_edited_when_every_edit_is_answered_once_and_stock_agrees(random: Seeded, repeat: float) -> None:
    """Edits, cancels of units, cancels and warehouse posts in any order."""
    world = World(random).stock("A", 9, "main").stock("A", 3, "north").stock("B", 6)
    world.repeat = repeat
    for number in range(2):
        lines = (item("1", "A", 3), item("2", "B", 2), item("3", "A", 1))
        world.send("orders", f"o{number}", PlaceOrder("box", lines=lines), f"place-o{number}")
    for _ in range(random.choice((0, 20))):
        if world.flying:
            world.arrive(random.choice(list(world.flying)))
    for number in range(8):
        order = f"o{random.randrange(2)}"
        wanted = {f"L{line}": random.randint(1, 4) for line in random.sample((1, 2, 3), random.randint(1, 3))}
        some = CancelOrder("staff", "", (LineQuantity("1", 1),)) if random.random() < 0.2 else edit(**wanted)
        world.send("orders", order, CancelOrder("staff") if random.random() < 0.05 else some, f"change {number}")
        if random.random() < 0.4:
            target = f"{order}{random.choice(('', '~F1', '~F2', '~F3'))}"
            for step in ("picking", "picked", "packed", "shipped")[: random.randint(1, 4)]:
                world.send("orders", order, post(step, target=target), f"post {number} {step}")
    world.settle(NOW + seconds(3000))
    kept: dict[str, int] = {}
    for number in range(2):
        log = world.log("orders", f"o{number}")
        assert log.rows.order.edit is None
        requested = {event.command_id for event in log.named(OrderEditRequested)}
        ended = [event.command_id for event in log.named(OrderEdited, OrderEditFailed)]
        assert sorted(ended) == sorted(requested), "each is edited or refused, once"
        for row in log.rows.fulfillment.values():
            for line in row.lines:
                if row.status not in (F.SHIPPED, F.CANCELED, F.COMPLETED):
                    kept[line.reservation_id] = kept.get(line.reservation_id, 0) + line.ordered
        if log.rows.order.status is OrderStatus.PROCESSING:
            for line in log.rows.order.lines:
                assert line.fulfilled + line.canceled == line.quantity
    for sku in ("A", "B"):
        for name, reservation in world.log("stock", sku).rows.reservation.items():
            assert sum(qty.quantity for qty in reservation.allocations) == kept.pop(name, 0), name
    assert not any(kept.values())
