"""What a carrier will never hand over: the units count as canceled, their money goes back, and an order of which nothing arrived is canceled."""

from typing import Any

import pytest
from domain_fulfillment import WORDS, post, ship, two_locations
from domain_harness import NOW, Log, World, seconds
from domain_orders import answer, confirmed, shipped
from domain_payments import CURRENCY, asked, authorized, place, priced, said
from test_cod import COD, brought, counters
from test_cod import shipped as shipped_cod

from orderflow.streams.domain import sagas
from orderflow.streams.domain.order_records import (
    CancelOrder,
    DeliveryFailed,
    FulfillmentStatus,
    OrderStatus,
    OrderStatusChanged,
    RecordDelivery,
    RecordUndelivered,
)
from orderflow.streams.domain.parts import Money
from orderflow.streams.domain.payment_records import ConfirmCod, PaymentRequested, RefundPayment
from orderflow.streams.domain.reasons import Reason

S, F = OrderStatus, FulfillmentStatus


def lost(target: str = "", reason: str = "lost") -> RecordUndelivered:
    return RecordUndelivered(reason, "", target, NOW)


def line(log: Log) -> tuple[int, int, int, int]:
    found = log.rows.order.lines[0]
    return found.quantity, found.shipped, found.delivered, found.canceled


def test_an_order_of_which_nothing_arrives_is_canceled() -> None:
    log = shipped()
    log.when(lost(reason="returned_to_sender"), command_id="lost")
    assert log.named(DeliveryFailed) == [DeliveryFailed("returned_to_sender", "", "o1~F1", NOW)]
    assert (log.rows.order.status, log.rows.order.reason) == (S.CANCELED, Reason.UNDELIVERED)
    assert log.rows.fulfillment["o1~F1"].status is F.COMPENSATED and log.snapshot("order").fulfillment_status == "undelivered"
    quantity, sent, delivered, canceled = line(log)
    assert (sent, delivered, canceled) == (0, 0, quantity)


def test_a_repeat_is_answered_as_done_and_a_delivery_after_it_is_refused() -> None:
    log = shipped()
    log.when(lost(), command_id="lost")
    assert log.when(lost(), command_id="again").events == []
    assert log.when(RecordDelivery("", "", NOW), command_id="late").refused.reason == Reason.ILLEGAL_TRANSITION


def test_what_was_delivered_cannot_be_lost() -> None:
    log = shipped()
    log.when(RecordDelivery("", "", NOW), command_id="delivered")
    assert log.when(lost(), command_id="lost").refused.reason == Reason.ILLEGAL_TRANSITION


@pytest.mark.parametrize(
    ("command", "reason"),
    [
        (lost("o1~F9"), Reason.NOT_FOUND),
        (lost(reason="eaten"), Reason.SCHEMA_INVALID),
        (RecordUndelivered("lost"), Reason.SCHEMA_INVALID),
    ],
)
def test_what_cannot_be_meant_is_refused(command: RecordUndelivered, reason: Reason) -> None:
    assert shipped().when(command, command_id="wrong").refused.reason == reason


def test_nothing_that_has_not_left_can_be_lost() -> None:
    assert confirmed().when(lost(), command_id="early").refused.reason == Reason.ILLEGAL_TRANSITION


@pytest.mark.parametrize("first", ["lost", "delivered"])
def test_a_part_that_arrives_makes_the_order_delivered(first: str) -> None:
    log = two_locations()
    for target in ("o1~F1", "o1~F2"):
        for word in WORDS:
            log.when(post(word, target=target), command_id=f"{target} {word}")
    commands = {"lost": lost("o1~F1"), "delivered": RecordDelivery("", "o1~F2", NOW)}
    log.when(commands.pop(first), command_id=first)
    assert log.rows.order.status is S.SHIPPED
    log.when(*commands.values(), command_id="other")
    assert log.rows.order.status is S.DELIVERED and line(log) == (5, 2, 2, 3)
    assert next(log.timers()).kind == "auto_complete"


def test_one_that_is_lost_while_another_is_picked_lets_the_order_go_on() -> None:
    log = two_locations()
    for word in WORDS:
        log.when(post(word, target="o1~F1"), command_id=f"F1 {word}")
    log.when(lost("o1~F1"), command_id="lost")
    assert log.rows.order.status is S.PROCESSING
    for word in WORDS:
        log.when(post(word, target="o1~F2"), command_id=f"F2 {word}")
    assert log.rows.order.status is S.SHIPPED
    log.when(lost("o1~F2"), command_id="lost too")
    assert log.rows.order.status is S.CANCELED


def test_a_cancel_of_the_rest_after_a_loss_cancels_the_order() -> None:
    log = two_locations()
    for word in WORDS:
        log.when(post(word, target="o1~F1"), command_id=f"F1 {word}")
    log.when(lost("o1~F1"), command_id="lost")
    log.when(CancelOrder("staff", "enough"), command_id="cancel")
    log.when(answer("released", quantity=0))
    assert (log.rows.order.status, log.rows.order.reason) == (S.CANCELED, "enough")


# -- money ------------------------------------------------------------------------------------------------------------------------------
def paid(*lines: Any) -> Log:
    log = authorized(*lines)
    ship(log)
    log.when(said(asked(log)))
    return log


def test_paid_money_goes_back_before_the_order_is_canceled() -> None:
    log = paid()
    log.when(lost(), command_id="lost")
    assert log.rows.order.status is S.SHIPPED and (asked(log).operation, asked(log).amount.amount_minor) == ("refund", 1000)
    log.when(said(asked(log)))
    assert (log.rows.order.status, log.rows.order.reason) == (S.CANCELED, Reason.UNDELIVERED) and counters(log) == (1000, 1000, 0, 1000)


def test_a_refund_that_is_declined_leaves_it_to_people() -> None:
    log = paid()
    log.when(lost(), command_id="lost")
    log.when(said(asked(log), "declined"))
    assert log.rows.order.status is S.SHIPPED and len(log.named(PaymentRequested)) == 3
    log.when(RefundPayment(), command_id="by people")
    log.when(said(asked(log)))
    assert log.rows.order.status is S.CANCELED


def test_only_the_share_of_what_was_lost_goes_back() -> None:
    log = authorized(priced("1", "A", price=600), priced("2", "B", price=400), location_ids=("main", "north"))
    for target in ("o1~F1", "o1~F2"):
        ship(log, target)
        log.when(said(asked(log)))
    log.when(lost("o1~F2"), command_id="lost")
    assert (asked(log).operation, asked(log).amount.amount_minor) == ("refund", 400)
    log.when(said(asked(log)))
    log.when(RecordDelivery("", "o1~F1", NOW), command_id="delivered")
    assert log.rows.order.status is S.DELIVERED and counters(log) == (1000, 1000, 0, 400)


def test_what_was_refunded_before_does_not_go_back_again() -> None:
    log = paid(priced(quantity=5, price=200))
    log.when(RefundPayment(Money(300, CURRENCY)), command_id="goodwill")
    log.when(said(asked(log)))
    log.when(lost(), command_id="lost")
    assert (asked(log).operation, asked(log).amount.amount_minor) == ("refund", 700)


def test_what_is_paid_on_delivery_is_voided() -> None:
    log = shipped_cod()
    log.when(lost(reason="refused"), command_id="lost")
    assert log.rows.order.status is S.CANCELED and counters(log) == (1000, 0, 1000, 0)


def test_what_was_collected_of_it_people_give_back() -> None:
    log = shipped_cod()
    log.when(brought(1000), command_id="collect")
    log.when(lost(), command_id="lost")
    assert log.rows.order.status is S.SHIPPED
    log.when(RefundPayment(), command_id="by hand")
    assert log.rows.order.status is S.CANCELED and counters(log) == (1000, 1000, 0, 1000)


def test_what_is_to_be_given_back_by_hand_is_listed_and_completes_when_it_is_recorded() -> None:
    """Two parcels, all of it collected at the first door, the second lost: the order waits for the till, and is found there."""
    log = Log("orders", "o1", channel=COD)
    log.when(place(priced("1", "A", 1, 600), priced("2", "B", 1, 400)), command_id="place")
    for sku, location in (("A", "main"), ("B", "north")):
        log.when(answer("reserved", sku, 1, location_id=location, due_at=log.at + seconds(400_000)))
    log.when(ConfirmCod(), command_id="confirm")
    for row in list(log.rows.stock_answer.values()):
        log.when(answer("committed", row.sku, row.quantity, allocations=row.allocations))
    for target in ("o1~F1", "o1~F2"):
        for word in WORDS:
            log.when(post(word, target=target), command_id=f"{target} {word}")
    log.when(brought(1000), command_id="collect")
    assert not sagas.sagas(log.rows)
    log.when(lost("o1~F2"), command_id="lost")
    (saga,) = sagas.sagas(log.rows)
    assert (saga.step, saga.waits_for) == ("refund", ("till",)) and sagas.stuck(saga, log.at, sagas.Patience()) == "by_hand"
    assert sagas.open_order("o1", log.rows.order) is not None, "the list finds it"
    log.when(RecordDelivery("", "o1~F1", log.at), command_id="delivered")
    assert log.rows.order.status is S.DELIVERED and not list(log.timers()), "it does not complete with money that is not its own"
    log.when(RefundPayment(Money(400, CURRENCY)), command_id="back")
    assert not sagas.sagas(log.rows) and log.snapshot("payment").label == "partially_refunded"
    (timer,) = log.timers()
    assert timer.kind == "auto_complete"
    log.when(timer)
    assert log.rows.order.status is S.COMPLETED and sagas.open_order("o1", log.rows.order) is None


def test_what_is_refunded_in_part_and_not_all_collected_does_not_complete() -> None:
    log = shipped_cod()
    log.when(brought(500), command_id="half")
    log.when(RefundPayment(Money(100, CURRENCY)), command_id="back")
    log.when(RecordDelivery("", "", log.at), command_id="delivered")
    assert log.snapshot("payment").label == "partially_refunded" and not list(log.timers()), "500 are still to be collected"
    log.when(brought(500), command_id="rest")
    assert [timer.kind for timer in log.timers()] == ["auto_complete"]


def test_stock_is_not_touched() -> None:
    """Units that come back are a receipt."""
    from random import Random

    world = World(Random(1)).stock("A", 2)
    world.place("o1", A=2)
    world.drain()
    for word in WORDS:
        world.send("orders", "o1", post(word), word)
        world.drain()
    before = world.log("stock", "A").rows
    world.send("orders", "o1", lost(), "lost")
    world.drain()
    assert world.log("orders", "o1").named(OrderStatusChanged)[-1].new_status is S.CANCELED
    assert world.log("stock", "A").rows == before
